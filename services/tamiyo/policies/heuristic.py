"""The policy that a person would write: grow from the back when the network stops improving.

One action a step, the first of these that applies; where it applies to several slots, the deepest:

1. A seed is BLENDING and did harm (``harm``): CULL.
2. A seed is fully blended in and has paid (``payoff``): ADVANCE, which fossilises it.
3. A seed is fully blended in and has not paid for ``patience`` intervals: CULL.
4. A seed has been TRAINING for ``training``: ADVANCE.
5. A seed is GERMINATED: ADVANCE.
6. The network is on a plateau, no seed is on its way, and enough of the episode is left for one:
   GERMINATE in the deepest empty slot.

Otherwise WAIT. One seed at a time, because the improvement of two cannot be told apart; the
deepest first, because a seed there was measured to gain the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_CULL,
    SELECTION_MODE_GREEDY,
    ActionType,
    DecisionQuery,
)
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.snapshot_pb2 import (
    STAGE_BLENDING,
    STAGE_DORMANT,
    STAGE_FOSSILIZED,
    STAGE_GERMINATED,
    STAGE_TRAINING,
    MultiSlotSnapshot,
    SlotReading,
)
from tamiyo.policy import Choice


@dataclass(frozen=True)
class Thresholds:
    """When the rules apply. Accuracies are fractions, durations are decision intervals.

    Attributes:
        plateau: intervals without a new best validation accuracy that make a plateau.
        slow: so does a gain in accuracy below this over the last ``slow_window`` intervals.
        slow_window: see ``slow``; at most 4, because a snapshot remembers five accuracies.
        training: intervals that a seed trains apart before it is blended in.
        payoff: improvement since germination from which on a seed stays for good.
        patience: intervals of BLENDING, those of the schedule included, after which a seed that
            has not paid goes.
        harm: improvement since germination at or below which a blending seed goes at once.
        rest: intervals for which a slot stays empty after a cull.
        least_time: share of the episode that must be left for a germination. A seed that is not
            fossilised at the horizon is dropped, and its training was wasted.
    """

    plateau: int = 2
    slow: float = 0.01
    slow_window: int = 2
    training: int = 1
    payoff: float = 0.005
    patience: int = 6
    harm: float = -0.05
    rest: int = 3
    least_time: float = 0.3


@dataclass(frozen=True)
class HeuristicPolicy:
    """The rules of this module, for any number of slots. It has no randomness."""

    spec: ObservationSpec
    thresholds: Thresholds = Thresholds()
    name: str = "heuristic"
    version: str = "heuristic-1"
    slots: int | None = None

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        """Apply the rules to each query's snapshot."""
        return [self._apply(query.snapshot) for query in queries]

    def _apply(self, snapshot: MultiSlotSnapshot) -> Choice:
        deepest_first = sorted(snapshot.slots, key=lambda slot: slot.depth, reverse=True)
        for rule in (self._fate_of_blending, self._fate_of_young):
            for slot in deepest_first:
                action = rule(slot)
                if action is not None:
                    return Choice(action, SELECTION_MODE_GREEDY, slot.slot_id)
        if self._is_time_to_grow(snapshot):
            for slot in deepest_first:
                if self._is_free(slot, snapshot):
                    return Choice.germinate(slot.slot_id)
        return Choice.wait()

    def _fate_of_blending(self, slot: SlotReading) -> ActionType.ValueType | None:
        if slot.stage != STAGE_BLENDING or not slot.HasField("seed_improvement"):
            return None
        if slot.seed_improvement <= self.thresholds.harm:
            return ACTION_TYPE_CULL
        if slot.alpha < 1.0:
            return None
        if slot.seed_improvement >= self.thresholds.payoff:
            return ACTION_TYPE_ADVANCE
        return ACTION_TYPE_CULL if slot.epochs_in_stage >= self.thresholds.patience else None

    def _fate_of_young(self, slot: SlotReading) -> ActionType.ValueType | None:
        trained = slot.stage == STAGE_TRAINING and slot.epochs_in_stage >= self.thresholds.training
        return ACTION_TYPE_ADVANCE if trained or slot.stage == STAGE_GERMINATED else None

    def _is_time_to_grow(self, snapshot: MultiSlotSnapshot) -> bool:
        if any(slot.stage not in (STAGE_DORMANT, STAGE_FOSSILIZED) for slot in snapshot.slots):
            return False
        if snapshot.HasField("time_left") and snapshot.time_left < self.thresholds.least_time:
            return False
        if snapshot.plateau_epochs >= self.thresholds.plateau:
            return True
        recent = snapshot.accuracy_history[-self.thresholds.slow_window - 1 :]
        return (
            len(recent) > self.thresholds.slow_window
            and recent[-1] - recent[0] < self.thresholds.slow
        )

    def _is_free(self, slot: SlotReading, snapshot: MultiSlotSnapshot) -> bool:
        if slot.stage != STAGE_DORMANT:
            return False
        # A slot that has been empty all along has nothing to rest from.
        return slot.epochs_in_stage >= min(self.thresholds.rest, snapshot.epoch)
