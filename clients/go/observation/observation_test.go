package observation_test

import (
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"leyline/clients/go/internal/golden"
	"leyline/clients/go/leylinev1"
	"leyline/clients/go/observation"
	"leyline/clients/go/rules"
)

type goldenSnapshot struct {
	Snapshot  json.RawMessage
	SlotOrder []string `json:"slot_order"`
	Vectors   map[string]struct {
		Fingerprint string
		Vector      []float32
	}
}

func TestAGoldenSnapshotIsValidAndBecomesItsGoldenVectors(t *testing.T) {
	for _, file := range golden.Files(t, "snapshots/*.json") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var expected goldenSnapshot
			golden.Read(t, file, &expected)
			snapshot := &leylinev1.MultiSlotSnapshot{}
			golden.Parse(t, expected.Snapshot, snapshot)
			if broken, err := rules.Violations(snapshot); broken != nil || err != nil {
				t.Errorf("it breaks rules: %v, %v", broken, err)
			}
			if order := observation.SlotOrder(snapshot); !slices.Equal(order, expected.SlotOrder) {
				t.Errorf("slots are in order %v, want %v", order, expected.SlotOrder)
			}
			if len(expected.Vectors) != len(observation.Names()) {
				t.Errorf("there are vectors of %d specs, want %d", len(expected.Vectors), len(observation.Names()))
			}
			for name, want := range expected.Vectors {
				spec, err := observation.ByName(name)
				if err != nil {
					t.Fatal(err)
				}
				if spec.GetFingerprint() != want.Fingerprint {
					t.Errorf("%s has fingerprint %s, want %s", name, spec.GetFingerprint(), want.Fingerprint)
				}
				vector, err := observation.Vectorize(snapshot, spec)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.EqualFunc(vector, want.Vector, equalButForTheLastPlace) {
					t.Errorf("%s:\n got %v\nwant %v", name, vector, want.Vector)
				}
			}
		})
	}
}

// equalButForTheLastPlace admits the difference that a logarithm may make, which is rounded otherwise here and there.
func equalButForTheLastPlace(a, b float32) bool {
	return a == b || math.Nextafter32(a, b) == b
}

func TestASpecInTheFilesIsTheOneInTheCode(t *testing.T) {
	files := golden.Files(t, "specs/*.json")
	if len(files) != len(observation.Names()) {
		t.Errorf("there are %d files for the specs %v", len(files), observation.Names())
	}
	for _, file := range files {
		var text json.RawMessage
		golden.Read(t, file, &text)
		written := &leylinev1.ObservationSpec{}
		golden.Parse(t, text, written)
		coded, err := observation.ByName(strings.TrimSuffix(filepath.Base(file), ".json"))
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(written, coded) {
			t.Errorf("%s differs from the code", file)
		}
		if fingerprint := observation.Fingerprint(written); fingerprint != written.GetFingerprint() {
			t.Errorf("%s has fingerprint %s, want %s", file, fingerprint, written.GetFingerprint())
		}
	}
}

func TestAnUnknownSpecIsAnErrorThatNamesTheKnownOnes(t *testing.T) {
	_, err := observation.ByName("sead")
	if err == nil || !strings.Contains(err.Error(), "seed, extended") {
		t.Errorf("got %v", err)
	}
}

func TestTheFingerprintIsThatOfTheTemplatesAlone(t *testing.T) {
	spec := observation.Seed()
	spec.Name, spec.Fingerprint = "mine", ""
	spec.GlobalFeatures[0].Offset = math.Copysign(0, -1)
	if observation.Fingerprint(spec) != observation.Seed().GetFingerprint() {
		t.Error("name, given fingerprint or the sign of zero count")
	}
	spec.GlobalFeatures[0].Upper++
	if observation.Fingerprint(spec) == observation.Seed().GetFingerprint() {
		t.Error("a bound does not count")
	}
}

func TestASpecThatDoesNotFitTheMessagesIsRefused(t *testing.T) {
	const linear = leylinev1.Scaling_SCALING_LINEAR
	snapshot := &leylinev1.MultiSlotSnapshot{LossHistory: []float64{1}}
	for name, feature := range map[string]*leylinev1.FeatureSpec{
		"a field that does not exist": {Field: "mood", Scaling: linear, Scale: 1},
		"a field that is a message":   {Field: "step_id", Scaling: linear, Scale: 1},
		"a list without an age":       {Field: "loss_history", Scaling: linear, Scale: 1},
		"an age of one number":        {Field: "epoch", Age: 1, Scaling: linear, Scale: 1},
		"a scaling of no meaning":     {Field: "epoch", Scale: 1},
	} {
		t.Run(name, func(t *testing.T) {
			feature.Name = "odd"
			_, err := observation.Vectorize(snapshot, &leylinev1.ObservationSpec{GlobalFeatures: []*leylinev1.FeatureSpec{feature}})
			var bad *observation.BadSpecError
			if !errors.As(err, &bad) || bad.Feature != "odd" {
				t.Errorf("got %v", err)
			}
		})
	}
}
