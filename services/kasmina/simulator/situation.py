"""What an episode hides from the policy: how the host learns, and what each seed would be worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kasmina.randomness import derive_seed
from kasmina.simulator.draw import between, uniforms
from kasmina.simulator.parameters import Parameters


@dataclass(frozen=True)
class SimulationSeeds:
    """Seeds of an episode, apart from each other so that arms of a comparison can be paired."""

    situation: int = 0
    """Of what is hidden: the host's curve, the worth of every seed."""
    noise: int = 0
    """Of everything that is measured."""
    blueprint: int = 0
    """Of the blueprints that germinations draw, where the choice is "random"."""

    @classmethod
    def of_episode(cls, root: int, index: int) -> SimulationSeeds:
        """Seeds of the episode `index` under one root seed."""
        situation, noise, blueprint = (
            derive_seed(root, "episode", index, name)
            for name in ("situation", "noise", "blueprint")
        )
        return cls(situation, noise, blueprint)


@dataclass(frozen=True)
class HiddenSeed:
    """What a seed of one blueprint is at one slot."""

    effect: float
    """Accuracy that it adds in the long run when it was trained well; of a bad one, that it takes
    away."""
    diverges: bool
    """Whether its weights stop being finite numbers when it is trained."""
    parameters: int
    multiply_adds: int

    @property
    def is_bad(self) -> bool:
        """Whether it does harm."""
        return self.effect <= 0


@dataclass(frozen=True)
class HiddenSlot:
    """What can grow at one slot."""

    slot_id: str
    depth: int
    need: float
    """What a seed of quality 1 adds here, over the most that one can add anywhere, in [0, 1]."""
    seeds: dict[str, HiddenSeed]
    """By blueprint."""


@dataclass(frozen=True)
class Situation:
    """Everything hidden, drawn once for an episode."""

    untrained_accuracy: float
    converged_accuracy: float
    time_constant: float
    slots: tuple[HiddenSlot, ...]
    """In order of depth."""

    @classmethod
    def draw(cls, parameters: Parameters, seed: int) -> Situation:
        """The situation of a seed. More slots leave the draws of the others as they are."""
        host = parameters.host
        curve = uniforms(seed, "host", count=2).tolist()
        return cls(
            untrained_accuracy=host.untrained_accuracy,
            converged_accuracy=between(host.converged_accuracy, curve[0]),
            time_constant=between(host.time_constant, curve[1]),
            slots=tuple(
                _draw_slot(parameters, seed, depth) for depth in range(parameters.episode.slots)
            ),
        )

    def host_accuracy(self, interval: int) -> float:
        """True accuracy of the bare host after so many intervals."""
        progress = -math.expm1(-interval / self.time_constant)
        rise = self.converged_accuracy - self.untrained_accuracy
        return self.untrained_accuracy + rise * progress


def _draw_slot(parameters: Parameters, seed: int, depth: int) -> HiddenSlot:
    slots, hidden = parameters.episode.slots, parameters.seeds
    slot_id = f"slot-{depth}"
    # The only slot is the deepest.
    place = depth / (slots - 1) if slots > 1 else 1.0
    size = hidden.first_slot_size ** (1.0 - place)
    own, *draws = uniforms(seed, "slot", slot_id, count=1 + 4 * len(parameters.blueprints)).tolist()
    gain = between(
        (
            between((hidden.gain_first_slot[0], hidden.gain_last_slot[0]), place),
            between((hidden.gain_first_slot[1], hidden.gain_last_slot[1]), place),
        ),
        own,
    )
    seeds = {}
    # By name: a family that comes out of a checkpoint has its blueprints in another order.
    for index, (name, cost) in enumerate(sorted(parameters.blueprints.items())):
        bad, diverging, quality, harm = draws[4 * index : 4 * index + 4]
        is_bad = bad < hidden.bad_share
        seeds[name] = HiddenSeed(
            effect=-between(hidden.harm, harm)
            if is_bad
            else gain * between(hidden.quality, quality),
            diverges=is_bad and diverging < hidden.diverging_share,
            parameters=max(1, round(cost.parameters * size * parameters.host.parameters)),
            multiply_adds=max(1, round(cost.multiply_adds * parameters.host.multiply_adds)),
        )
    return HiddenSlot(slot_id, depth, gain / hidden.largest_gain, seeds)
