"""What policies score on a family: 0 is always waiting, 1 is the oracle's bound."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kasmina.simulator.oracle import oracle_return
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.policies import Policy
from kasmina.simulator.situation import SimulationSeeds, Situation
from kasmina.simulator.trainer import SimulatedTrainer


@dataclass(frozen=True)
class Score:
    """One episode under one policy. Accuracies are true ones, as fractions."""

    gain: float
    """Final accuracy over that of always waiting."""
    bound: float
    """The most that any policy can gain."""

    @property
    def value(self) -> float | None:
        """Share of the bound that was gained; None where there is nothing to gain."""
        return self.gain / self.bound if self.bound > 0.0 else None


@dataclass(frozen=True)
class Calibration:
    """The scores of many episodes."""

    scores: tuple[Score, ...]

    @property
    def mean(self) -> float | None:
        """Mean score of the episodes with something to gain; None where there are none."""
        values = self._values()
        return statistics.fmean(values) if values else None

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None below two episodes."""
        values = self._values()
        return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None

    @property
    def mean_gain(self) -> float:
        """Mean gain of true accuracy, a fraction."""
        return statistics.fmean(score.gain for score in self.scores)

    @property
    def mean_bound(self) -> float:
        """Mean of the bounds, a fraction."""
        return statistics.fmean(score.bound for score in self.scores)

    def _values(self) -> list[float]:
        return [score.value for score in self.scores if score.value is not None]


def play(trainer: SimulatedTrainer, policy: Policy) -> float:
    """Plays the episode to its end; its true final accuracy."""
    while not trainer.finished:
        action, slot_id = policy(trainer.snapshot())
        trainer.apply(action, slot_id)
        trainer.train_interval()
    return trainer.true_accuracy


def score(parameters: Parameters, seeds: SimulationSeeds, policy: Policy) -> Score:
    """The policy's score in one episode."""
    waiting = Situation.draw(parameters, seeds.situation).host_accuracy(parameters.episode.horizon)
    gain = play(SimulatedTrainer(parameters, seeds), policy) - waiting
    return Score(gain, oracle_return(parameters, seeds))


def calibrate(
    parameters: Parameters,
    episodes: Iterable[SimulationSeeds],
    policy: Callable[[Parameters, SimulationSeeds], Policy],
) -> Calibration:
    """The scores of a policy that may differ from episode to episode."""
    return Calibration(
        tuple(score(parameters, seeds, policy(parameters, seeds)) for seeds in episodes)
    )
