package observation

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"leyline/clients/go/leylinev1"
)

// Seed returns the seed design's own list: 18 global features and 10 a slot, three of them reserved. The message is the
// caller's own.
func Seed() *leylinev1.ObservationSpec {
	return spec("seed", seedGlobal, seedSlot)
}

// Extended returns what [Seed] has and what learning was seen to need besides: 22 global features and 16 a slot. The
// message is the caller's own.
func Extended() *leylinev1.ObservationSpec {
	return spec("extended", join(seedGlobal, extendedGlobal), join(seedSlot, extendedSlot))
}

// Names returns the names that [ByName] knows.
func Names() []string {
	return []string{"seed", "extended"}
}

// ByName returns the spec of a name, or an error that says which there are.
func ByName(name string) (*leylinev1.ObservationSpec, error) {
	switch name {
	case "seed":
		return Seed(), nil
	case "extended":
		return Extended(), nil
	default:
		return nil, fmt.Errorf("no observation spec is named %q; there are: %s", name, strings.Join(Names(), ", "))
	}
}

// scale says how a quantity is scaled, clipped, and said to be unset; features share it.
type scale struct {
	unit                string
	scaling             leylinev1.Scaling
	scale               float64
	lower, upper, unset float64
	offset              float64
}

const (
	linear = leylinev1.Scaling_SCALING_LINEAR
	log1p  = leylinev1.Scaling_SCALING_LOG1P
	symlog = leylinev1.Scaling_SCALING_SYMLOG
)

var (
	// 1.0 is the loss of a network that knows nothing of 100 classes: ln 100 nats.
	loss           = scale{"nats", linear, math.Log(100), 0, 2, -1, 0}
	accuracy       = scale{"fraction", linear, 0.5, 0, 2, -1, 0}
	gap            = scale{"nats", symlog, 1, -1, 2, -1.5, 0}
	share          = scale{"fraction", linear, 1, 0, 1, -1, 0}
	parameterRatio = scale{"ratio", log1p, 1, 0, 3, -1, 0}
	reserved       = scale{"none", leylinev1.Scaling_SCALING_RESERVED, 1, 0, 0, 0, 0}
)

// row is one number of the vector.
type row struct {
	name  string
	scale scale
}

var (
	seedGlobal = []row{
		{"epoch", scale{"intervals", log1p, 4, 0, 3, -1, 0}},
		{"global_step", scale{"optimiser steps", log1p, 8, 0, 3, -1, 0}},
		{"train_loss", loss},
		{"val_loss", loss},
		{"val_accuracy", accuracy},
		{"plateau_epochs", scale{"intervals", log1p, 2, 0, 3, -1, 0}},
		{"best_val_accuracy", accuracy},
		{"best_val_loss", loss},
		{"loss_history_1", loss},
		{"loss_history_2", loss},
		{"loss_history_3", loss},
		{"loss_history_4", loss},
		{"loss_history_5", loss},
		{"accuracy_history_1", accuracy},
		{"accuracy_history_2", accuracy},
		{"accuracy_history_3", accuracy},
		{"accuracy_history_4", accuracy},
		{"accuracy_history_5", accuracy},
	}
	seedSlot = []row{
		{"gradient_norm", scale{"nats per weight", linear, 0.02, 0, 4, -1, 0}},
		{"activation_sparsity", share},
		{"has_seed", scale{"boolean", linear, 1, 0, 1, -1, 0}},
		// DORMANT, number 1 of the enum, becomes 0 and FOSSILIZED, number 5, becomes 1.
		{"seed_stage", scale{"stage number", linear, 4, 0, 1, -1, 1}},
		{"seed_alpha", share},
		{"epochs_in_stage", scale{"intervals", log1p, 2, 0, 3, -1, 0}},
		{"seed_improvement", scale{"fraction", linear, 0.1, -1, 2, -1.5, 0}},
		{"reserved_1", reserved},
		{"reserved_2", reserved},
		{"reserved_3", reserved},
	}
	extendedGlobal = []row{
		{"time_left", share},
		{"size_ratio", scale{"ratio", log1p, 1, 0, 3, -1, 1}},
		{"learning_rate", scale{"per step", linear, 0.1, 0, 4, -1, 0}},
		{"generalization_gap", gap},
	}
	extendedSlot = []row{
		{"seed_cost", parameterRatio},
		{"gradmax_norm", scale{"nats per weight", log1p, 1, 0, 3, -1, 0}},
		{"ablation_delta", gap},
		// Each stage but DORMANT has a number that is 1 from it on; has_seed is that of GERMINATED.
		{"reached_training", reached(leylinev1.Stage_STAGE_TRAINING)},
		{"reached_blending", reached(leylinev1.Stage_STAGE_BLENDING)},
		{"reached_fossilized", reached(leylinev1.Stage_STAGE_FOSSILIZED)},
	}
)

// reached is 1 from a stage's number on and 0 before it: the clip makes a step of the difference.
func reached(stage leylinev1.Stage) scale {
	return scale{"boolean", linear, 1, 0, 1, -1, float64(stage) - 1}
}

func join(parts ...[]row) []row {
	var all []row
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

func spec(name string, global, slot []row) *leylinev1.ObservationSpec {
	spec := &leylinev1.ObservationSpec{Name: name, GlobalFeatures: features(global), SlotFeatures: features(slot)}
	spec.Fingerprint = Fingerprint(spec)
	return spec
}

func features(rows []row) []*leylinev1.FeatureSpec {
	all := make([]*leylinev1.FeatureSpec, len(rows))
	for place, row := range rows {
		field, age := source(row)
		all[place] = &leylinev1.FeatureSpec{
			Name:       row.name,
			Field:      field,
			Age:        age,
			Unit:       row.scale.unit,
			Scaling:    row.scale.scaling,
			Offset:     row.scale.offset,
			Scale:      row.scale.scale,
			Lower:      row.scale.lower,
			Upper:      row.scale.upper,
			UnsetValue: row.scale.unset,
		}
	}
	return all
}

// source returns the field that a feature is read from, and the age of the element where that is a list.
func source(row row) (field string, age uint32) {
	if row.scale.scaling == leylinev1.Scaling_SCALING_RESERVED {
		return "", 0
	}
	switch row.name {
	// The design speaks of a seed's stage and alpha; SlotReading just says stage and alpha.
	case "seed_stage", "reached_training", "reached_blending", "reached_fossilized":
		return "stage", 0
	case "seed_alpha":
		return "alpha", 0
	}
	if history, number, found := strings.Cut(row.name, "_history_"); found {
		age, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			panic(err) // the tables above are wrong
		}
		return history + "_history", uint32(age)
	}
	return row.name, 0
}
