"""Families and episodes for the tests of the simulator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kasmina.network.slot import Action, Outcome
from kasmina.simulator.parameters import Parameters, load_family
from kasmina.simulator.policies import Choice
from kasmina.simulator.situation import HiddenSeed, SimulationSeeds, Situation
from kasmina.simulator.trainer import SimulatedTrainer
from kasmina.training.telemetry import SlotReading

WAIT: Choice = (Action.WAIT, None)

SILENT = dict.fromkeys(("accuracy", "loss", "ablation", "gradient", "gradmax", "sparsity"), 0.0)
"""Noise that is none."""


def changed(parameters: Parameters, **sections: dict[str, Any]) -> Parameters:
    """The family with other values in some of its sections."""
    values = parameters.to_dict()
    for section, changes in sections.items():
        values[section] = {**values[section], **changes}
    return Parameters.from_dict(values)


def family(name: str = "default", **sections: dict[str, Any]) -> Parameters:
    """A shipped family, changed."""
    return changed(load_family(name), **sections)


def growing(slot_id: str, training: int = 1, blending: int = 3, start: int = 0) -> list[Choice]:
    """Waits until `start`, grows a seed through all stages, and fossilises it."""
    return [
        *[WAIT] * start,
        (Action.GERMINATE, slot_id),
        (Action.ADVANCE, slot_id),
        *[WAIT] * (training - 1),
        (Action.ADVANCE, slot_id),
        *[WAIT] * (blending - 1),
        (Action.ADVANCE, slot_id),
    ]


def advance(trainer: SimulatedTrainer, choices: Iterable[Choice]) -> list[Outcome]:
    """Takes one action an interval; what became of them."""
    outcomes = []
    for action, slot_id in choices:
        outcomes.append(trainer.apply(action, slot_id))
        trainer.train_interval()
    return outcomes


def played(
    parameters: Parameters, choices: Iterable[Choice] = (), seeds: SimulationSeeds | None = None
) -> SimulatedTrainer:
    """The trainer after these actions."""
    trainer = SimulatedTrainer(parameters, seeds or SimulationSeeds.of_episode(1, 0))
    advance(trainer, choices)
    return trainer


def advantage(trainer: SimulatedTrainer) -> float:
    """True accuracy over that of a twin that only waited."""
    situation = Situation.draw(trainer.parameters, trainer.seeds.situation)
    return trainer.true_accuracy - situation.host_accuracy(trainer.interval)


def seeds_where(parameters: Parameters, blueprint: str, bad: bool, diverges: bool = False) -> int:
    """A situation whose deepest slot makes such a seed of the blueprint."""
    for seed in range(1000):
        hidden = hidden_seed(parameters, seed, blueprint)
        if (hidden.is_bad, hidden.diverges) == (bad, diverges):
            return seed
    raise LookupError("no such situation")


def hidden_seed(parameters: Parameters, situation: int, blueprint: str) -> HiddenSeed:
    """What a seed of the blueprint is at the deepest slot."""
    return Situation.draw(parameters, situation).slots[-1].seeds[blueprint]


def last_slot(trainer: SimulatedTrainer) -> SlotReading:
    """What the deepest slot shows."""
    return trainer.snapshot().slots[-1]


def with_situation(situation: int) -> SimulationSeeds:
    """Seeds of an episode in that situation."""
    return replace(SimulationSeeds.of_episode(1, 0), situation=situation)
