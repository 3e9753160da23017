// Package heuristic is the policy that a person would write: grow from the back when the network stops improving.
//
// One action a step, the first of these that applies; where it applies to several slots, the deepest:
//
//  1. A seed is BLENDING and did harm (Harm): CULL.
//  2. A seed is fully blended in and has paid (Payoff): ADVANCE, which fossilises it.
//  3. A seed is fully blended in and has not paid for Patience intervals: CULL.
//  4. A seed has been TRAINING for Training intervals: ADVANCE.
//  5. A seed is GERMINATED: ADVANCE.
//  6. The network is on a plateau, no seed is on its way, and enough of the episode is left for one: GERMINATE in the
//     deepest empty slot.
//
// Otherwise WAIT. The rules, thresholds and ids are those of the built-in policy of the same version, and
// proto/testdata/heuristic holds both to the same decisions.
package heuristic

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"leyline/clients/go/leylinev1"
)

const (
	// Name is the policy's name.
	Name = "heuristic"
	// Version is what decisions are attributed to. It names rules and thresholds, not the program: an implementation that
	// bears it decides alike, so that an episode may go on at another server. Another rule or threshold is another version.
	Version = "heuristic-1"
)

// Thresholds say when the rules apply. Accuracies are fractions, durations are decision intervals.
type Thresholds struct {
	// Plateau is how many intervals without a new best validation accuracy make a plateau.
	Plateau uint32 `json:"plateau"`
	// Slow makes a plateau too: a gain in accuracy below it over the last SlowWindow intervals.
	Slow float64 `json:"slow"`
	// SlowWindow is at most 4, because a snapshot remembers five accuracies.
	SlowWindow int `json:"slow_window"`
	// Training is how long a seed trains apart before it is blended in.
	Training uint32 `json:"training"`
	// Payoff is the improvement since germination from which on a seed stays for good.
	Payoff float64 `json:"payoff"`
	// Patience is how long a seed may be BLENDING, the schedule included, before it goes if it has not paid.
	Patience uint32 `json:"patience"`
	// Harm is the improvement since germination at or below which a blending seed goes at once.
	Harm float64 `json:"harm"`
	// Rest is how long a slot stays empty after a cull.
	Rest uint32 `json:"rest"`
	// LeastTime is the share of the episode that must be left for a germination. A seed that is not fossilised at the
	// horizon is dropped, and its training was wasted.
	LeastTime float64 `json:"least_time"`
}

// thresholds are those of Version.
var thresholds = Thresholds{
	Plateau:    2,
	Slow:       0.01,
	SlowWindow: 2,
	Training:   1,
	Payoff:     0.005,
	Patience:   6,
	Harm:       -0.05,
	Rest:       3,
	LeastTime:  0.3,
}

// Decide answers a valid query, for any number of slots. It has no randomness, so it answers GREEDY whatever the query's
// mode, and gives no probabilities.
func Decide(query *leylinev1.DecisionQuery) *leylinev1.Decision {
	action, slot := thresholds.apply(query.GetSnapshot())
	decision := &leylinev1.Decision{
		DecisionId:    decisionID(query),
		ActionType:    action,
		PolicyVersion: proto.String(Version),
		Mode:          leylinev1.SelectionMode_SELECTION_MODE_GREEDY,
	}
	if slot != nil {
		decision.SlotId = proto.String(slot.GetSlotId())
	}
	return decision
}

const none = leylinev1.ActionType_ACTION_TYPE_UNSPECIFIED

// apply returns what to do, and where; nowhere on WAIT.
func (t Thresholds) apply(snapshot *leylinev1.MultiSlotSnapshot) (leylinev1.ActionType, *leylinev1.SlotReading) {
	deepestFirst := slices.SortedFunc(slices.Values(snapshot.GetSlots()), func(a, b *leylinev1.SlotReading) int {
		return cmp.Compare(b.GetDepth(), a.GetDepth())
	})
	for _, rule := range []func(*leylinev1.SlotReading) leylinev1.ActionType{t.fateOfBlending, t.fateOfYoung} {
		for _, slot := range deepestFirst {
			if action := rule(slot); action != none {
				return action, slot
			}
		}
	}
	if t.isTimeToGrow(snapshot) {
		for _, slot := range deepestFirst {
			if t.isFree(slot, snapshot) {
				return leylinev1.ActionType_ACTION_TYPE_GERMINATE, slot
			}
		}
	}
	return leylinev1.ActionType_ACTION_TYPE_WAIT, nil
}

func (t Thresholds) fateOfBlending(slot *leylinev1.SlotReading) leylinev1.ActionType {
	if slot.GetStage() != leylinev1.Stage_STAGE_BLENDING || slot.SeedImprovement == nil {
		return none
	}
	improvement, blended := slot.GetSeedImprovement(), slot.GetAlpha() >= 1
	switch {
	case improvement <= t.Harm:
		return leylinev1.ActionType_ACTION_TYPE_CULL
	case blended && improvement >= t.Payoff:
		return leylinev1.ActionType_ACTION_TYPE_ADVANCE
	case blended && slot.GetEpochsInStage() >= t.Patience:
		return leylinev1.ActionType_ACTION_TYPE_CULL
	default:
		return none
	}
}

func (t Thresholds) fateOfYoung(slot *leylinev1.SlotReading) leylinev1.ActionType {
	trained := slot.GetStage() == leylinev1.Stage_STAGE_TRAINING && slot.GetEpochsInStage() >= t.Training
	if trained || slot.GetStage() == leylinev1.Stage_STAGE_GERMINATED {
		return leylinev1.ActionType_ACTION_TYPE_ADVANCE
	}
	return none
}

func (t Thresholds) isTimeToGrow(snapshot *leylinev1.MultiSlotSnapshot) bool {
	for _, slot := range snapshot.GetSlots() {
		if stage := slot.GetStage(); stage != leylinev1.Stage_STAGE_DORMANT && stage != leylinev1.Stage_STAGE_FOSSILIZED {
			return false
		}
	}
	if snapshot.TimeLeft != nil && snapshot.GetTimeLeft() < t.LeastTime {
		return false
	}
	if snapshot.GetPlateauEpochs() >= t.Plateau {
		return true
	}
	history := snapshot.GetAccuracyHistory()
	newest := len(history) - 1
	return newest >= t.SlowWindow && history[newest]-history[newest-t.SlowWindow] < t.Slow
}

func (t Thresholds) isFree(slot *leylinev1.SlotReading, snapshot *leylinev1.MultiSlotSnapshot) bool {
	// A slot that has been empty all along has nothing to rest from.
	return slot.GetStage() == leylinev1.Stage_STAGE_DORMANT && slot.GetEpochsInStage() >= min(t.Rest, snapshot.GetEpoch())
}

// decisionID names a decision by its step, its randomness and the version: the same question gets the same id, on any
// server.
func decisionID(query *leylinev1.DecisionQuery) string {
	step := query.GetSnapshot().GetStepId()
	question := fmt.Appendf(nil, "leyline/decision/1:%s:%d:%d:%d:%d:%s",
		step.GetRunId(), step.GetEpisodeIndex(), step.GetStep(), query.GetSamplingSeed(), query.GetMode(), Version)
	if query.Temperature != nil {
		question = fmt.Appendf(question, ":%016x", math.Float64bits(query.GetTemperature()))
	}
	digest := sha256.Sum256(question)
	return hex.EncodeToString(digest[:16])
}
