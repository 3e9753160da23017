// Package observation turns a snapshot into the vector that a policy's network sees.
//
// The rules are those of proto/leyline/v1/observation.proto: a spec is a template of global features and one of slot
// features, and any such spec can be given to [Vectorize]. The two that have a name are [Seed] and [Extended];
// docs/observation.md says what each of their numbers means.
package observation

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"leyline/clients/go/leylinev1"
)

// BadSpecError says that a feature of a spec does not fit the messages of this contract.
type BadSpecError struct {
	// Feature is the feature's name.
	Feature string
	// Problem says what is wrong with it.
	Problem string
}

func (e *BadSpecError) Error() string {
	return fmt.Sprintf("feature %q %s", e.Feature, e.Problem)
}

// Fingerprint returns the fingerprint of a spec's templates, as observation.proto defines it: 64 hexadecimal digits.
//
// The name and the fingerprint that the spec carries do not count: to check the latter, compare it with the result.
func Fingerprint(spec *leylinev1.ObservationSpec) string {
	digest := sha256.New()
	write := func(scope string, features []*leylinev1.FeatureSpec) {
		for _, f := range features {
			fmt.Fprintf(digest, "%s\t%s\t%s\t%d\t%s\t%d", scope, f.GetName(), f.GetField(), f.GetAge(), f.GetUnit(), f.GetScaling())
			for _, number := range []float64{f.GetOffset(), f.GetScale(), f.GetLower(), f.GetUpper(), f.GetUnsetValue()} {
				// Adding 0 makes zero of negative zero: the two are equal and must not make two fingerprints.
				fmt.Fprintf(digest, "\t%016x", math.Float64bits(number+0))
			}
			io.WriteString(digest, "\n")
		}
	}
	write("global", spec.GetGlobalFeatures())
	write("slot", spec.GetSlotFeatures())
	return hex.EncodeToString(digest.Sum(nil))
}

// Length returns the length of the vector of a snapshot with so many slots.
func Length(spec *leylinev1.ObservationSpec, slots int) int {
	return len(spec.GetGlobalFeatures()) + slots*len(spec.GetSlotFeatures())
}

// SlotOrder returns the slots' ids in the vector's order: by depth, whatever the order in the message.
func SlotOrder(snapshot *leylinev1.MultiSlotSnapshot) []string {
	ids := make([]string, 0, len(snapshot.GetSlots()))
	for _, slot := range byDepth(snapshot) {
		ids = append(ids, slot.GetSlotId())
	}
	return ids
}

// Vectorize returns what a policy's network sees of a valid snapshot: the global features, then those of each slot, by
// depth; [Length] numbers. Each lies between its feature's bounds or is its unset value.
//
// The error is a [*BadSpecError] where a feature names a field that the message does not have, or that holds no number.
func Vectorize(snapshot *leylinev1.MultiSlotSnapshot, spec *leylinev1.ObservationSpec) ([]float32, error) {
	vector := make([]float32, 0, Length(spec, len(snapshot.GetSlots())))
	extend := func(message proto.Message, features []*leylinev1.FeatureSpec) error {
		for _, feature := range features {
			value, err := valueOf(message.ProtoReflect(), feature)
			if err != nil {
				return err
			}
			vector = append(vector, float32(value))
		}
		return nil
	}
	if err := extend(snapshot, spec.GetGlobalFeatures()); err != nil {
		return nil, err
	}
	for _, slot := range byDepth(snapshot) {
		if err := extend(slot, spec.GetSlotFeatures()); err != nil {
			return nil, err
		}
	}
	return vector, nil
}

func byDepth(snapshot *leylinev1.MultiSlotSnapshot) []*leylinev1.SlotReading {
	return slices.SortedStableFunc(slices.Values(snapshot.GetSlots()), func(a, b *leylinev1.SlotReading) int {
		return cmp.Compare(a.GetDepth(), b.GetDepth())
	})
}

// valueOf returns one number of the vector, in double precision.
func valueOf(message protoreflect.Message, feature *leylinev1.FeatureSpec) (float64, error) {
	if feature.GetScaling() == leylinev1.Scaling_SCALING_RESERVED {
		return feature.GetUnsetValue(), nil
	}
	x, measured, err := measure(message, feature)
	if err != nil {
		return 0, err
	}
	if !measured {
		return feature.GetUnsetValue(), nil
	}
	value, err := scaled(x-feature.GetOffset(), feature)
	return min(max(value, feature.GetLower()), feature.GetUpper()), err
}

// measure returns what the message says, and whether it was measured at all.
func measure(message protoreflect.Message, feature *leylinev1.FeatureSpec) (x float64, measured bool, err error) {
	field := message.Descriptor().Fields().ByName(protoreflect.Name(feature.GetField()))
	if field == nil || !isNumber(field.Kind()) {
		problem := fmt.Sprintf("wants field %q, and %s has no number of that name", feature.GetField(), message.Descriptor().Name())
		return 0, false, &BadSpecError{feature.GetName(), problem}
	}
	age := int(feature.GetAge())
	switch {
	case field.IsList() && age == 0:
		return 0, false, &BadSpecError{feature.GetName(), fmt.Sprintf("gives no age of %q, a list", feature.GetField())}
	case !field.IsList() && age != 0:
		return 0, false, &BadSpecError{feature.GetName(), fmt.Sprintf("gives an age of %q, one number", feature.GetField())}
	case field.IsList():
		list := message.Get(field).List()
		if age > list.Len() {
			return 0, false, nil
		}
		return number(list.Get(list.Len() - age)), true, nil
	case field.HasPresence() && !message.Has(field):
		return 0, false, nil
	default:
		return number(message.Get(field)), true, nil
	}
}

func isNumber(kind protoreflect.Kind) bool {
	switch kind {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind, protoreflect.GroupKind:
		return false
	default:
		return true
	}
}

// number reads any scalar as a double: a boolean counts as 0 or 1, an enum as its number.
func number(value protoreflect.Value) float64 {
	switch scalar := value.Interface().(type) {
	case bool:
		if scalar {
			return 1
		}
		return 0
	case protoreflect.EnumNumber:
		return float64(scalar)
	case int32, int64:
		return float64(value.Int())
	case uint32, uint64:
		return float64(value.Uint())
	default:
		return value.Float()
	}
}

func scaled(x float64, feature *leylinev1.FeatureSpec) (float64, error) {
	switch feature.GetScaling() {
	case leylinev1.Scaling_SCALING_LINEAR:
		return x / feature.GetScale(), nil
	case leylinev1.Scaling_SCALING_LOG1P:
		return math.Log1p(max(x, 0)) / feature.GetScale(), nil
	case leylinev1.Scaling_SCALING_SYMLOG:
		return math.Copysign(math.Log1p(math.Abs(x)), x) / feature.GetScale(), nil
	default:
		return 0, &BadSpecError{feature.GetName(), fmt.Sprintf("has scaling %d, which nobody defined", feature.GetScaling())}
	}
}
