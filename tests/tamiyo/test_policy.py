"""Policies that come with Tamiyo, and what is common to all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tamiyo.queries import query

from chassis.errors import ErrorCode, LeylineError
from leyline.observation import EXTENDED_SPEC, SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
    DecisionQuery,
)
from tamiyo.policies import BUILT_IN
from tamiyo.policies.uniform import RandomPolicy
from tamiyo.policies.wait import WaitPolicy
from tamiyo.policy import admit, decision_from


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("slots", [1, 3, 6])
def test_a_built_in_policy_decides_for_any_number_of_slots(name: str, slots: int) -> None:
    policy = BUILT_IN[name](SEED_SPEC)
    queries = [query(step, slots=slots) for step in range(20)]
    for asked, choice in zip(queries, policy.decide(queries), strict=True):
        admit(policy, asked)
        names = {slot.slot_id for slot in asked.snapshot.slots}
        assert (choice.slot_id is None) == (choice.action_type == ACTION_TYPE_WAIT)
        assert choice.slot_id is None or choice.slot_id in names


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_policy_answers_alone_as_it_does_among_others(name: str) -> None:
    policy = BUILT_IN[name](SEED_SPEC)
    queries = [query(step) for step in range(20)]
    assert list(policy.decide(queries)) == [policy.decide([asked])[0] for asked in queries]


def test_wait_waits_greedily_and_without_probabilities() -> None:
    policy = WaitPolicy(SEED_SPEC)
    asked = query(mode=SELECTION_MODE_SAMPLED)
    decision = decision_from(policy, asked, policy.decide([asked])[0])
    assert decision.action_type == ACTION_TYPE_WAIT
    assert decision.mode == SELECTION_MODE_GREEDY
    assert decision.policy_version == "wait-1"
    for field in ("slot_id", "type_log_prob", "slot_log_prob", "log_prob", "value"):
        assert not decision.HasField(field)


@pytest.mark.parametrize("slots", [1, 3, 6])
def test_random_is_uniform_over_types_and_slots_and_says_so(slots: int) -> None:
    policy = RandomPolicy(SEED_SPEC)
    queries = [query(step, slots=slots) for step in range(400)]
    decisions = [
        decision_from(policy, asked, choice)
        for asked, choice in zip(queries, policy.decide(queries), strict=True)
    ]
    assert {decision.action_type for decision in decisions} == {1, 2, 3, 4}
    for decision in decisions:
        assert math.isclose(decision.type_log_prob, math.log(1 / 4))
        if decision.action_type != ACTION_TYPE_WAIT:
            assert math.isclose(decision.slot_log_prob, math.log(1 / slots))
            assert math.isclose(decision.log_prob, math.log(1 / 4 / slots))
        else:
            assert decision.log_prob == decision.type_log_prob
    slots_seen = {decision.slot_id for decision in decisions if decision.HasField("slot_id")}
    assert len(slots_seen) == slots


def test_random_draws_also_where_it_is_asked_for_the_most_probable() -> None:
    policy = RandomPolicy(SEED_SPEC)
    choices = policy.decide([query(step, mode=SELECTION_MODE_GREEDY) for step in range(50)])
    assert {choice.mode for choice in choices} == {SELECTION_MODE_SAMPLED}
    assert len({choice.action_type for choice in choices}) == 4


@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from(["a", "b"]), st.integers(0, 3))
def test_a_decision_s_id_repeats_with_the_question_and_only_with_it(
    step: int, episode: int, run: str, seed: int
) -> None:
    policy = WaitPolicy(SEED_SPEC)

    def identifier(asked: DecisionQuery) -> str:
        return decision_from(policy, asked, policy.decide([asked])[0]).decision_id

    asked = query(step, episode=episode, run=run)
    asked.sampling_seed = seed
    same = DecisionQuery.FromString(asked.SerializeToString())
    other_step = query(step + 1, episode=episode, run=run)
    other_step.sampling_seed = seed
    other_seed = DecisionQuery.FromString(asked.SerializeToString())
    other_seed.sampling_seed = seed + 1
    other_mode = DecisionQuery.FromString(asked.SerializeToString())
    other_mode.mode = SELECTION_MODE_GREEDY
    assert identifier(asked) == identifier(same)
    warmer = DecisionQuery.FromString(asked.SerializeToString())
    warmer.temperature = 2.0
    others = {identifier(other) for other in (other_step, other_seed, other_mode, warmer)}
    assert len(others) == 4
    assert identifier(asked) not in others


def test_a_query_for_another_observation_spec_is_not_admitted() -> None:
    with pytest.raises(LeylineError) as caught:
        admit(WaitPolicy(EXTENDED_SPEC), query())
    assert caught.value.code is ErrorCode.FINGERPRINT_MISMATCH
    assert caught.value.facts["given"] == SEED_SPEC.fingerprint
    assert caught.value.facts["expected"] == EXTENDED_SPEC.fingerprint


def test_a_query_with_another_number_of_slots_is_not_admitted() -> None:
    policy = WaitPolicy(SEED_SPEC, slots=3)
    admit(policy, query(slots=3))
    with pytest.raises(LeylineError) as caught:
        admit(policy, query(slots=4))
    assert caught.value.code is ErrorCode.SLOT_COUNT_MISMATCH
    assert (caught.value.facts["given"], caught.value.facts["expected"]) == (4, 3)
