"""Actions out of logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyline.v1.decision_pb2 import (
    ACTION_TYPE_CULL,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
    SelectionMode,
)
from tamiyo.policy import Choice
from tamiyo.sampling import ACTION_TYPES, choose, draw, log_softmax

logits = st.floats(-1e6, 1e6)
seeds = st.integers(0, 2**64 - 1)
modes = st.sampled_from([SELECTION_MODE_SAMPLED, SELECTION_MODE_GREEDY])
SLOTS = ("slot-0", "slot-1", "slot-2")


def rows(slots: int = 3) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(logits, min_size=slots, max_size=slots), min_size=4, max_size=4)


@given(st.lists(logits, min_size=1, max_size=64))
def test_log_probabilities_are_at_most_zero_and_their_probabilities_sum_to_one(
    some: list[float],
) -> None:
    log_probs = log_softmax(some)
    assert max(log_probs) <= 0
    assert math.isclose(math.fsum(map(math.exp, log_probs)), 1, rel_tol=1e-12)


@given(st.lists(logits, min_size=4, max_size=4), rows(), seeds, modes)
def test_a_choice_carries_the_log_probabilities_of_just_what_was_chosen(
    types: list[float], slots: list[list[float]], seed: int, mode: SelectionMode.ValueType
) -> None:
    choice = choose(types, slots, SLOTS, sampling_seed=seed, mode=mode)
    type_index = ACTION_TYPES.index(choice.action_type)
    assert choice.type_log_prob == log_softmax(types)[type_index]
    if choice.action_type == ACTION_TYPE_WAIT:
        assert choice.slot_id is None
        assert choice.slot_log_prob is None
    else:
        assert choice.slot_id is not None
        slot_index = SLOTS.index(choice.slot_id)
        assert choice.slot_log_prob == log_softmax(slots[type_index])[slot_index]


@given(st.lists(logits, min_size=4, max_size=4), rows(), seeds, modes)
def test_the_same_seed_makes_the_same_choice(
    types: list[float], slots: list[list[float]], seed: int, mode: SelectionMode.ValueType
) -> None:
    def once() -> Choice:
        return choose(types, slots, SLOTS, sampling_seed=seed, mode=mode)

    assert once() == once()


@given(st.lists(logits, min_size=4, max_size=4), rows(), seeds, seeds)
def test_greedy_takes_the_largest_logit_whatever_the_seed(
    types: list[float], slots: list[list[float]], seed: int, other: int
) -> None:
    choice = choose(types, slots, SLOTS, sampling_seed=seed, mode=SELECTION_MODE_GREEDY)
    again = choose(types, slots, SLOTS, sampling_seed=other, mode=SELECTION_MODE_GREEDY)
    assert choice == again
    index = ACTION_TYPES.index(choice.action_type)
    assert types[index] == max(types)
    assert choice.slot_id is None or slots[index][SLOTS.index(choice.slot_id)] == max(slots[index])


@given(st.lists(logits, min_size=4, max_size=4), rows(), seeds, st.floats(0.01, 100))
def test_a_temperature_divides_the_logits_of_a_draw_and_nothing_else(
    types: list[float], slots: list[list[float]], seed: int, temperature: float
) -> None:
    divided = [logit / temperature for logit in types]
    rows_divided = [[logit / temperature for logit in row] for row in slots]
    sampled, greedy = SELECTION_MODE_SAMPLED, SELECTION_MODE_GREEDY

    def chosen(mode: SelectionMode.ValueType, temperature: float) -> Choice:
        return choose(types, slots, SLOTS, sampling_seed=seed, mode=mode, temperature=temperature)

    assert chosen(sampled, temperature) == choose(
        divided, rows_divided, SLOTS, sampling_seed=seed, mode=sampled
    )
    assert chosen(greedy, temperature) == chosen(greedy, 1.0)


def test_greedy_takes_the_first_of_equals() -> None:
    slots = [[0.0, 2.0, 2.0]] * 4
    choice = choose([1.0, 3.0, 3.0, 0.0], slots, SLOTS, sampling_seed=1, mode=SELECTION_MODE_GREEDY)
    assert (choice.action_type, choice.slot_id) == (ACTION_TYPE_GERMINATE, "slot-1")


def test_frequencies_are_the_probabilities() -> None:
    types = [0.0, 1.0, -1.0, 0.5]
    slots = [[0.0, 0.0, 0.0], [1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [-1.0, 0.0, 1.0]]
    expected = {"WAIT": math.exp(log_softmax(types)[0])}
    for index in range(1, 4):
        for slot, log_prob in zip(SLOTS, log_softmax(slots[index]), strict=True):
            expected[f"{index}@{slot}"] = math.exp(log_softmax(types)[index] + log_prob)
    count = 20_000
    seen = dict.fromkeys(expected, 0)
    for seed in range(count):
        choice = choose(types, slots, SLOTS, sampling_seed=seed, mode=SELECTION_MODE_SAMPLED)
        index = ACTION_TYPES.index(choice.action_type)
        seen["WAIT" if index == 0 else f"{index}@{choice.slot_id}"] += 1
    # Pearson's statistic over ten outcomes; 27.9 is its 99.9 % quantile at nine degrees of freedom.
    # The sample is fixed, so this holds always or never.
    statistic = sum(
        (seen[name] - count * share) ** 2 / (count * share) for name, share in expected.items()
    )
    assert statistic < 27.9


def test_draws_are_uniform_and_those_of_one_query_have_nothing_to_do_with_each_other() -> None:
    draws = np.array([[draw(seed, 0), draw(seed, 1)] for seed in range(5_000)])
    assert (draws >= 0).all()
    assert (draws < 1).all()
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.015
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.04


def test_a_draw_is_the_hash_that_the_module_documents() -> None:
    # printf leyline/draw/1:42:0 | sha256sum
    assert draw(42, 0) == (0x57D6A914390EEEFB >> 11) / 2**53
    assert draw(42, 1) == (0xDBBB589EFEDB576F >> 11) / 2**53


def test_an_action_without_probability_is_never_drawn() -> None:
    types = [-2000.0, -2000.0, -2000.0, 0.0]
    for seed in range(500):
        choice = choose(
            types, [[0.0]] * 4, ["only"], sampling_seed=seed, mode=SELECTION_MODE_SAMPLED
        )
        assert choice.action_type == ACTION_TYPE_CULL
        assert choice.type_log_prob == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        choose(
            [0.0, bad, 0.0, 0.0], [[0.0]] * 4, ["a"], sampling_seed=0, mode=SELECTION_MODE_GREEDY
        )
