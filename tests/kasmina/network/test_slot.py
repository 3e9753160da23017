from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasmina.network.slot import Action, AlphaSchedule, NoOpReason, Slot, Stage, alpha_at

ACTIONS = st.sampled_from([Action.GERMINATE, Action.ADVANCE, Action.CULL])
EVENTS = st.lists(st.one_of(ACTIONS, st.sampled_from(["step", "interval"])), max_size=60)


def slot_in(stage: Stage, blend_step: int = 0) -> Slot:
    slot = Slot("slot-0", 0, blend_steps=4, stage=stage, blend_step=blend_step)
    return slot if stage is Stage.DORMANT else replace(slot, blueprint="conv3x3", germinations=1)


def act(slot: Slot, action: Action) -> None:
    match action:
        case Action.GERMINATE:
            slot.germinate("conv3x3", accuracy=0.1)
        case Action.ADVANCE:
            slot.advance()
        case Action.CULL:
            slot.cull()


@pytest.mark.parametrize(
    ("stage", "action", "reason"),
    [
        (Stage.DORMANT, Action.ADVANCE, NoOpReason.SLOT_EMPTY),
        (Stage.DORMANT, Action.CULL, NoOpReason.SLOT_EMPTY),
        (Stage.GERMINATED, Action.GERMINATE, NoOpReason.SLOT_OCCUPIED),
        (Stage.TRAINING, Action.GERMINATE, NoOpReason.SLOT_OCCUPIED),
        (Stage.BLENDING, Action.GERMINATE, NoOpReason.SLOT_OCCUPIED),
        (Stage.BLENDING, Action.ADVANCE, NoOpReason.ALPHA_NOT_REACHED),
        (Stage.FOSSILIZED, Action.GERMINATE, NoOpReason.SLOT_OCCUPIED),
        (Stage.FOSSILIZED, Action.ADVANCE, NoOpReason.SEED_FOSSILIZED),
        (Stage.FOSSILIZED, Action.CULL, NoOpReason.SEED_FOSSILIZED),
    ],
)
def test_what_the_rules_forbid_is_refused_with_the_reason_and_changes_nothing(
    stage: Stage, action: Action, reason: NoOpReason
) -> None:
    slot = slot_in(stage)
    before = slot.state()
    assert slot.obstacle(action) is reason
    with pytest.raises(ValueError, match=reason.value):
        act(slot, action)
    assert slot.state() == before


@pytest.mark.parametrize("stage", list(Stage))
def test_waiting_is_possible_in_every_stage(stage: Stage) -> None:
    assert slot_in(stage).obstacle(Action.WAIT) is None


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING])
def test_culling_frees_the_slot_for_another_seed(stage: Stage) -> None:
    slot = slot_in(stage, blend_step=2 if stage is Stage.BLENDING else 0)
    slot.cull()
    assert (slot.stage, slot.blueprint, slot.alpha) == (Stage.DORMANT, None, 0.0)
    assert slot.accuracy_at_germination is None
    slot.germinate("conv1x1", accuracy=0.2)
    assert (slot.stage, slot.germinations) == (Stage.GERMINATED, 2)


def test_a_seed_lives_through_all_stages_in_order() -> None:
    slot = slot_in(Stage.DORMANT)
    slot.germinate("conv3x3", accuracy=0.1)
    stages = [slot.stage]
    for _ in range(3):
        while slot.obstacle(Action.ADVANCE) is NoOpReason.ALPHA_NOT_REACHED:
            slot.count_step()
        slot.advance()
        stages.append(slot.stage)
    assert stages == [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.FOSSILIZED]


def test_alpha_rises_linearly_with_every_step_and_stays_at_one() -> None:
    slot = slot_in(Stage.BLENDING)
    alphas = []
    for _ in range(6):
        alphas.append(slot.alpha)
        slot.count_step()
    assert alphas == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert slot.obstacle(Action.ADVANCE) is None


@given(st.sampled_from(get_args(AlphaSchedule)), st.integers(1, 2000))
def test_every_schedule_takes_alpha_from_exactly_0_to_exactly_1_and_never_back(
    schedule: AlphaSchedule, steps: int
) -> None:
    alphas = [alpha_at(schedule, step / steps) for step in range(steps + 1)]
    assert (alphas[0], alphas[-1]) == (0.0, 1.0)
    assert all(before <= after for before, after in itertools.pairwise(alphas))
    slot = replace(slot_in(Stage.BLENDING), blend_steps=steps, alpha_schedule=schedule)
    for alpha in alphas:
        assert slot.alpha == alpha
        slot.count_step()
    assert slot.alpha == 1.0
    assert slot.obstacle(Action.ADVANCE) is None


def test_curved_schedules_begin_and_end_gently_and_meet_the_line_in_the_middle() -> None:
    for schedule in ("cosine", "sigmoid"):
        assert alpha_at(schedule, 0.1) < 0.1
        assert alpha_at(schedule, 0.9) > 0.9
        assert alpha_at(schedule, 0.5) == pytest.approx(0.5)
        assert alpha_at(schedule, 0.3) == pytest.approx(1.0 - alpha_at(schedule, 0.7))


def test_a_planted_seed_is_there_for_good_at_once() -> None:
    slot = slot_in(Stage.DORMANT)
    slot.plant("norm", accuracy=0.1, dud=True)
    assert (slot.stage, slot.blueprint, slot.dud, slot.alpha) == (
        Stage.FOSSILIZED,
        "norm",
        True,
        1.0,
    )
    assert slot.germinations == 1
    with pytest.raises(ValueError, match="SLOT_OCCUPIED"):
        slot.plant("norm", accuracy=0.1)


@given(EVENTS)
def test_no_history_breaks_the_laws_of_a_slot(events: list[Action | str]) -> None:
    slot = slot_in(Stage.DORMANT)
    for event in events:
        before = replace(slot)
        if event == "step":
            slot.count_step()
        elif event == "interval":
            slot.count_interval()
        elif slot.obstacle(Action(event)) is None:
            act(slot, Action(event))
        assert 0.0 <= slot.alpha <= 1.0
        assert slot.has_seed == (slot.blueprint is not None)
        assert slot.is_live or slot.alpha == 0.0
        assert slot.germinations >= before.germinations
        if before.stage is Stage.FOSSILIZED:
            assert (slot.stage, slot.alpha) == (Stage.FOSSILIZED, 1.0)
        if slot.stage is before.stage:
            assert slot.alpha >= before.alpha
        else:
            assert slot.intervals_in_stage == 0


@given(EVENTS)
def test_a_slots_state_is_json_and_brings_it_back(events: list[Action | str]) -> None:
    slot = slot_in(Stage.DORMANT)
    for event in events:
        if event == "step":
            slot.count_step()
        elif event == "interval":
            slot.count_interval()
        elif slot.obstacle(Action(event)) is None:
            act(slot, Action(event))
    assert Slot.from_state(json.loads(json.dumps(slot.state()))) == slot
