package heuristic

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
	"leyline/clients/go/observation"
	"leyline/clients/go/rules"
)

const testdata = "../../../../proto/testdata"

func read(t *testing.T, file string, content any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testdata, file))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, content); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, text json.RawMessage, message proto.Message) {
	t.Helper()
	if err := protojson.Unmarshal(text, message); err != nil {
		t.Fatal(err)
	}
}

func TestItDecidesAsTheBuiltInPolicyOfItsVersion(t *testing.T) {
	var data struct {
		PolicyVersion string `json:"policy_version"`
		Thresholds    Thresholds
		Cases         []struct {
			Golden      string
			Temperature *float64
			Snapshot    json.RawMessage
			Decision    json.RawMessage
		}
	}
	read(t, "heuristic/decisions.json", &data)
	if data.PolicyVersion != Version || data.Thresholds != thresholds {
		t.Fatalf("the file is of %s with %+v", data.PolicyVersion, data.Thresholds)
	}
	if len(data.Cases) < 500 {
		t.Fatalf("the file has only %d cases", len(data.Cases))
	}
	for place, c := range data.Cases {
		if c.Golden != "" {
			read(t, filepath.Join("snapshots", c.Golden+".json"), &c)
		}
		snapshot, want := &leylinev1.MultiSlotSnapshot{}, &leylinev1.Decision{}
		parse(t, c.Snapshot, snapshot)
		parse(t, c.Decision, want)
		step := snapshot.GetStepId()
		query := &leylinev1.DecisionQuery{
			Snapshot:        snapshot,
			SpecFingerprint: observation.Seed().GetFingerprint(),
			SamplingSeed:    leyline.SamplingSeed(42, step.GetEpisodeIndex(), step.GetStep()),
			Mode:            leylinev1.SelectionMode_SELECTION_MODE_SAMPLED,
			Temperature:     c.Temperature,
		}
		got := Decide(query)
		if !proto.Equal(got, want) {
			t.Errorf("case %d %s:\n got %v\nwant %v", place, c.Golden, got, want)
		}
		if broken, err := rules.Violations(got); broken != nil || err != nil {
			t.Errorf("case %d: the decision breaks rules: %v, %v", place, broken, err)
		}
	}
}
