"""The hand-written rules."""

from __future__ import annotations

from typing import Any

import pytest

from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_CULL,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    ActionType,
    DecisionQuery,
)
from leyline.v1.snapshot_pb2 import (
    STAGE_BLENDING,
    STAGE_DORMANT,
    STAGE_FOSSILIZED,
    STAGE_GERMINATED,
    STAGE_TRAINING,
    MultiSlotSnapshot,
    SlotReading,
    StepId,
)
from tamiyo.policies.heuristic import HeuristicPolicy

Answer = tuple["ActionType.ValueType", str | None]
WAIT: Answer = (ACTION_TYPE_WAIT, None)


def slot(depth: int, stage: int = STAGE_DORMANT, intervals: int = 10, **more: Any) -> SlotReading:
    """Return a slot that has been in its stage for so many intervals."""
    return SlotReading(
        slot_id=f"slot-{depth}",
        depth=depth,
        stage=stage,  # type: ignore[arg-type]
        has_seed=stage != STAGE_DORMANT,
        epochs_in_stage=intervals,
        **more,
    )


def blended(depth: int, improvement: float, intervals: int, alpha: float = 1.0) -> SlotReading:
    return slot(depth, STAGE_BLENDING, intervals, alpha=alpha, seed_improvement=improvement)


def answer(*slots: SlotReading, **signs: Any) -> Answer:
    """Return what the heuristic says to a network that is on a plateau, unless ``signs`` differ."""
    snapshot = MultiSlotSnapshot(
        step_id=StepId(run_id="run"), slots=slots, **{"epoch": 10, "plateau_epochs": 2, **signs}
    )
    (choice,) = HeuristicPolicy(SEED_SPEC).decide([DecisionQuery(snapshot=snapshot)])
    assert choice.mode == SELECTION_MODE_GREEDY
    assert choice.type_log_prob is None
    return choice.action_type, choice.slot_id


def test_on_a_plateau_the_deepest_empty_slot_is_germinated_whatever_the_order() -> None:
    assert answer(slot(2), slot(0), slot(1)) == (ACTION_TYPE_GERMINATE, "slot-2")
    assert answer(slot(0), slot(1), slot(2, STAGE_FOSSILIZED, alpha=1.0)) == (
        ACTION_TYPE_GERMINATE,
        "slot-1",
    )


def test_while_the_network_improves_nothing_is_germinated() -> None:
    assert answer(slot(0), plateau_epochs=0, accuracy_history=[0.1, 0.2, 0.3]) == WAIT
    assert answer(slot(0), plateau_epochs=1, accuracy_history=[0.1]) == WAIT


def test_improving_too_slowly_is_a_plateau() -> None:
    slow = answer(slot(0), plateau_epochs=0, accuracy_history=[0.1, 0.300, 0.304, 0.309])
    assert slow == (ACTION_TYPE_GERMINATE, "slot-0")


def test_a_full_network_waits() -> None:
    assert answer(*(slot(depth, STAGE_FOSSILIZED, alpha=1.0) for depth in range(3))) == WAIT


@pytest.mark.parametrize(
    "busy",
    [slot(0, STAGE_TRAINING, 0), blended(0, 0.0, 2, alpha=0.6), blended(0, 0.0, 3)],
    ids=["training", "blending", "blended"],
)
def test_one_seed_at_a_time(busy: SlotReading) -> None:
    assert answer(busy, slot(1), slot(2)) == WAIT


def test_nothing_is_germinated_that_cannot_be_fossilised_before_the_horizon() -> None:
    assert answer(slot(0), time_left=0.2) == WAIT
    assert answer(slot(0), time_left=0.5) == (ACTION_TYPE_GERMINATE, "slot-0")


def test_a_slot_rests_after_a_cull_and_a_fresh_one_does_not() -> None:
    assert answer(slot(0, intervals=0), slot(1, intervals=2)) == WAIT
    assert answer(slot(0, intervals=3)) == (ACTION_TYPE_GERMINATE, "slot-0")
    assert answer(slot(0, intervals=2), epoch=2) == (ACTION_TYPE_GERMINATE, "slot-0")


def test_a_seed_is_brought_on_its_way() -> None:
    assert answer(slot(0, STAGE_GERMINATED, 0)) == (ACTION_TYPE_ADVANCE, "slot-0")
    assert answer(slot(0, STAGE_TRAINING, 0)) == WAIT
    assert answer(slot(0, STAGE_TRAINING, 1)) == (ACTION_TYPE_ADVANCE, "slot-0")
    assert answer(blended(0, 0.1, 2, alpha=0.9)) == WAIT


def test_a_seed_that_paid_is_fossilised_and_one_that_did_not_goes() -> None:
    assert answer(blended(0, 0.005, 3)) == (ACTION_TYPE_ADVANCE, "slot-0")
    assert answer(blended(0, 0.004, 5)) == WAIT
    assert answer(blended(0, 0.004, 6)) == (ACTION_TYPE_CULL, "slot-0")


def test_a_seed_that_does_harm_goes_at_once() -> None:
    assert answer(blended(0, -0.05, 1, alpha=0.3)) == (ACTION_TYPE_CULL, "slot-0")


def test_an_improvement_that_was_not_measured_is_no_reason_for_anything() -> None:
    assert answer(slot(0, STAGE_BLENDING, 9, alpha=1.0)) == WAIT
