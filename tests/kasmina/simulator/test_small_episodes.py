"""Episodes so small that everything can be tried: what the best of all histories gains."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.kasmina.simulator.episodes import advance, advantage, changed, family

from kasmina.network.slot import Action
from kasmina.simulator.network import SimulatedNetwork
from kasmina.simulator.oracle import oracle
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.policies import WAIT, Choice
from kasmina.simulator.situation import SimulationSeeds, Situation
from kasmina.simulator.trainer import SimulatedTrainer

SEEDS = [SimulationSeeds.of_episode(11, index) for index in range(12)]
ROUNDING = 1e-9


def best_gain(parameters: Parameters, seeds: SimulationSeeds) -> float:
    """The most that any sequence of actions gains, one action an interval."""
    situation = Situation.draw(parameters, seeds.situation)
    network = SimulatedNetwork(parameters, situation, seeds.blueprint)
    states = [network.state()]
    for _ in range(parameters.episode.horizon):
        reached: dict[str, dict[str, Any]] = {}
        for state in states:
            for action, slot_id in possible(network, state):
                network.restore(state)
                network.apply(action, slot_id, accuracy=0.0)
                network.grow()
                after = network.state()
                for slot in after["slots"]:
                    slot["intervals_in_stage"] = 0  # it decides nothing
                reached[json.dumps(after)] = after
        states = list(reached.values())
    gains = []
    for state in states:
        network.restore(state)
        network.drop_unfossilized()
        gains.append(network.gain)
    host = situation.host_accuracy(parameters.episode.horizon)
    return min(max(gains), 1.0 - host)


def possible(network: SimulatedNetwork, state: dict[str, Any]) -> list[Choice]:
    network.restore(state)
    return [
        WAIT,
        *[
            (action, slot.slot_id)
            for slot in network.slots
            for action in (Action.GERMINATE, Action.ADVANCE, Action.CULL)
            if slot.obstacle(action) is None
        ],
    ]


def scripts_gain(parameters: Parameters, seeds: SimulationSeeds) -> float:
    script = oracle(parameters, seeds).script
    trainer = SimulatedTrainer(parameters, seeds)
    advance(trainer, [script.get(step, WAIT) for step in range(parameters.episode.horizon)])
    return advantage(trainer)


@pytest.mark.parametrize("name", ["default", "held-out"])
@pytest.mark.parametrize("choice", ["fixed", "random"])
def test_with_one_slot_the_bound_is_what_the_best_history_gains(name: str, choice: str) -> None:
    parameters = family(
        name, episode={"slots": 1, "horizon": 9, "blend_intervals": 2}, seeds={"choice": choice}
    )
    positive = 0
    for seeds in SEEDS:
        best, bound = best_gain(parameters, seeds), oracle(parameters, seeds).bound
        assert best == pytest.approx(bound, abs=ROUNDING)
        assert scripts_gain(parameters, seeds) == pytest.approx(bound, abs=ROUNDING)
        positive += bound > 0.0
    assert positive >= 5


@pytest.mark.parametrize("shock", [0.0, 0.5])
@pytest.mark.parametrize("choice", ["fixed", "round-robin", "random"])
def test_with_two_slots_no_history_gains_more_than_the_bound(choice: str, shock: float) -> None:
    parameters = changed(
        family(episode={"slots": 2, "horizon": 7, "blend_intervals": 1}, seeds={"choice": choice}),
        growth={"untrained_shock": shock},
    )
    for seeds in SEEDS[:2]:
        found = oracle(parameters, seeds)
        best = best_gain(parameters, seeds)
        assert best <= found.bound + ROUNDING
        assert scripts_gain(parameters, seeds) <= best + ROUNDING
