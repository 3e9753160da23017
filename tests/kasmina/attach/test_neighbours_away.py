"""Training goes on without a neighbour, and says so; a neighbour that cannot do it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import ADVANCE, GERMINATE, NOBODY, Loop, follow
from tests.kasmina.neighbours import answer, coin, refusal

from chassis.errors import ErrorCode, LeylineError
from kasmina.attach import AttachError, AttachOptions
from kasmina.network.slot import Action, Stage
from leyline.v1.decision_pb2 import ACTION_TYPE_UNSPECIFIED, Decision
from leyline.v1.policy_pb2 import GetPolicyInfoResponse, SlotRequirement
from leyline.v1.transition_pb2 import DECIDER_FALLBACK, DECIDER_POLICY, TERMINATION_HORIZON

IMPATIENT = AttachOptions(decision_timeout_s=0.2, policy_grace_s=0.0, end_patience_s=60.0)


def test_without_an_answer_in_time_training_goes_on_with_wait_and_is_marked_so(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    alone = Loop.of("features")
    alone.validate()
    alone.run(3)
    neighbours.policy.decide = lambda query: None
    loop = Loop.of("features")
    growth = loop.attached(neighbours, tmp_path, horizon=3, options=IMPATIENT)
    move = growth.last_move
    assert move is not None
    assert (move.action, move.slot_id, move.policy_version) == (Action.WAIT, None, None)
    assert move.fallback_reason == "no answer within 0.2 s"
    loop.run(3, growth)
    growth.end()
    assert loop.curve == alone.curve
    recorded = neighbours.experience.episode("mine", 0)
    assert [transition.decider for transition in recorded] == [DECIDER_FALLBACK] * 3
    assert {transition.fallback_reason for transition in recorded} == {"no answer within 0.2 s"}
    assert not any(transition.decision.HasField("log_prob") for transition in recorded)


def test_a_policy_that_answers_again_decides_again(neighbours: Neighbours, tmp_path: Path) -> None:
    follow(neighbours, {0: (GERMINATE, "slot-0"), 1: (GERMINATE, "slot-1"), 2: (ADVANCE, "slot-0")})
    planned = neighbours.policy.decide
    away = LeylineError(ErrorCode.POLICY_NOT_READY, problem="a test")
    neighbours.policy.decide = lambda query: (
        refusal(query, away) if query.snapshot.step_id.step == 1 else planned(query)
    )
    loop = Loop.of("features")
    patient = AttachOptions(decision_timeout_s=60.0, end_patience_s=60.0)
    with loop.attached(neighbours, tmp_path, horizon=3, options=patient) as growth:
        loop.run(2, growth)
        assert [slot.stage for slot in growth.slots] == [Stage.TRAINING, Stage.DORMANT]
        loop.run(1, growth)
    recorded = neighbours.experience.episode("mine", 0)
    deciders = [transition.decider for transition in recorded]
    assert deciders == [DECIDER_POLICY, DECIDER_FALLBACK, DECIDER_POLICY]


def test_an_answer_that_breaks_the_contract_is_none(neighbours: Neighbours, tmp_path: Path) -> None:
    decision = Decision(decision_id="none", action_type=ACTION_TYPE_UNSPECIFIED)
    neighbours.policy.decide = lambda query: answer(query, decision)
    loop = Loop.of("features")
    with loop.attached(neighbours, tmp_path) as growth:
        move = growth.last_move
        assert move is not None
        assert move.action is Action.WAIT
        assert move.fallback_reason is not None
        assert "breaks the contract" in move.fallback_reason


def test_nobody_need_be_there_and_what_was_done_is_recorded_once_somebody_is(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    options = AttachOptions(
        policy_grace_s=0.0, decision_timeout_s=1.0, experience_timeout_s=0.1, end_patience_s=0.0
    )
    loop = Loop.of("features")
    growth = loop.attached(
        neighbours, tmp_path, horizon=2, options=options, policy=NOBODY, experience=NOBODY
    )
    loop.run(2, growth)
    growth.end()
    assert neighbours.experience.introductions == []
    later = Loop.of("features")
    patient = AttachOptions(end_patience_s=60.0)
    later.attached(neighbours, tmp_path, horizon=2, options=patient).end()
    recorded = neighbours.experience.episode("mine", 0)
    assert [transition.decider for transition in recorded] == [DECIDER_FALLBACK] * 2
    assert all(transition.fallback_reason for transition in recorded)
    assert neighbours.experience.ends["mine", 0].termination == TERMINATION_HORIZON


def wants_other_observations(info: GetPolicyInfoResponse) -> None:
    info.spec_fingerprint = "0" * 64


def wants_three_slots(info: GetPolicyInfoResponse) -> None:
    info.slots.CopyFrom(SlotRequirement(exactly=3))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (wants_other_observations, "choose another policy or observation_spec"),
        (wants_three_slots, "decides for 3 slots, the run has 2"),
    ],
)
def test_a_policy_that_cannot_decide_for_these_slots_is_refused_before_any_training(
    neighbours: Neighbours,
    tmp_path: Path,
    change: Callable[[GetPolicyInfoResponse], None],
    complaint: str,
) -> None:
    change(neighbours.policy.info)
    loop = Loop.of("features")
    with pytest.raises(AttachError, match=complaint):
        loop.attached(neighbours, tmp_path)
    assert neighbours.policy.asked == []
    neighbours.policy.info = type(neighbours.policy)().info
    neighbours.policy.decide = lambda query: answer(query, coin(query))
    loop.attached(neighbours, tmp_path).end()  # the model and the run are free
