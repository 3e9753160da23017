"""No policy gains more than the oracle says, and one that sees everything comes close."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kasmina.simulator.episodes import advance, advantage, family

from kasmina.network.slot import Action
from kasmina.simulator.calibration import calibrate, play, score
from kasmina.simulator.oracle import oracle, oracle_return
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.policies import POLICIES, Choice, Heuristic, scripted
from kasmina.simulator.situation import SimulationSeeds
from kasmina.simulator.trainer import SimulatedTrainer

pytestmark = pytest.mark.lengthy

ROUNDING = 1e-9
FAMILIES = ("default", "held-out")
CHOICES = ("fixed", "round-robin", "random")
OTHERS = {name: policy for name, policy in POLICIES.items() if name != "clairvoyant"}


@functools.cache
def variant(name: str, choice: str, slots: int, horizon: int) -> Parameters:
    return family(name, seeds={"choice": choice}, episode={"slots": slots, "horizon": horizon})


@st.composite
def episodes(draw: st.DrawFn) -> tuple[Parameters, SimulationSeeds, list[Choice]]:
    """An episode of any family, and what somebody does in it: growing more often than not."""
    slots, horizon = draw(st.integers(1, 4)), draw(st.integers(1, 24))
    parameters = variant(
        draw(st.sampled_from(FAMILIES)), draw(st.sampled_from(CHOICES)), slots, horizon
    )
    actions = st.sampled_from([*Action, Action.GERMINATE, Action.ADVANCE, Action.ADVANCE])
    slot_ids = st.sampled_from([f"slot-{depth}" for depth in range(slots)])
    choices = draw(st.lists(st.tuples(actions, slot_ids), min_size=horizon, max_size=horizon))
    seeds = SimulationSeeds.of_episode(draw(st.integers(0, 10_000)), draw(st.integers(0, 100)))
    return parameters, seeds, list(choices)


@settings(max_examples=250)
@given(episodes())
def test_no_sequence_of_actions_gains_more_than_the_bound(
    episode: tuple[Parameters, SimulationSeeds, list[Choice]],
) -> None:
    parameters, seeds, choices = episode
    trainer = SimulatedTrainer(parameters, seeds)
    advance(trainer, choices)
    assert trainer.finished
    assert advantage(trainer) <= oracle_return(parameters, seeds) + ROUNDING


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("horizon", [9, 30])
def test_no_policy_gains_more_than_the_bound(name: str, choice: str, horizon: int) -> None:
    for slots in (1, 3, 6):
        parameters = variant(name, choice, slots, horizon)
        for index in range(5):
            seeds = SimulationSeeds.of_episode(5, index)
            found = oracle(parameters, seeds)
            others = [policy(parameters, seeds) for policy in OTHERS.values()]
            for policy in (*others, scripted(found.script)):
                trainer = SimulatedTrainer(parameters, seeds)
                play(trainer, policy)
                assert advantage(trainer) <= found.bound + ROUNDING


@pytest.mark.parametrize("name", FAMILIES)
def test_who_sees_everything_comes_close_to_the_bound(name: str) -> None:
    parameters = family(name)
    seeds = [SimulationSeeds.of_episode(9, index) for index in range(40)]
    found = calibrate(parameters, seeds, POLICIES["clairvoyant"])
    assert found.mean is not None
    assert found.mean >= 0.95


def test_where_every_seed_harms_there_is_nothing_to_gain() -> None:
    parameters = family(seeds={"bad_share": 1.0})
    seeds = SimulationSeeds.of_episode(1, 0)
    assert oracle(parameters, seeds).bound == 0.0
    assert oracle(parameters, seeds).script == {}
    assert score(parameters, seeds, Heuristic()).value is None


def test_where_time_is_too_short_for_a_whole_life_there_is_nothing_to_gain() -> None:
    parameters = family(episode={"horizon": 3})
    assert oracle_return(parameters, SimulationSeeds.of_episode(1, 0)) == 0.0


def test_waiting_gains_nothing() -> None:
    parameters = family()
    for index in range(20):
        seeds = SimulationSeeds.of_episode(2, index)
        trainer = SimulatedTrainer(parameters, seeds)
        play(trainer, lambda snapshot: (Action.WAIT, None))
        assert advantage(trainer) == pytest.approx(0.0, abs=ROUNDING)
