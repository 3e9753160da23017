"""How seeds grow and what they do to the true accuracy, without noise. docs/simulator.md has the
equations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kasmina.network.slot import Slot, Stage
from kasmina.simulator.parameters import GrowthParameters
from kasmina.simulator.situation import HiddenSeed


@dataclass(frozen=True)
class GrowthRates:
    """`GrowthParameters`, for one interval."""

    training: float
    """Share of what is left to learn that an interval of TRAINING teaches."""
    payoff: float
    """Share of its distance to alpha that a seed's maturity goes in an interval."""
    persistence: float
    """Share of a shock that is left after an interval."""
    stunted: float
    untrained_shock: float
    crowding_shock: float

    @classmethod
    def of(cls, growth: GrowthParameters) -> GrowthRates:
        """The rates of the times in `growth`."""
        return cls(
            training=-math.expm1(-1.0 / growth.training_time),
            payoff=-math.expm1(-1.0 / growth.payoff_time),
            persistence=math.exp(-1.0 / growth.recovery_time),
            stunted=growth.stunted,
            untrained_shock=growth.untrained_shock,
            crowding_shock=growth.crowding_shock,
        )

    def share_of_gain(self, readiness: float) -> float:
        """What a good seed is worth that was blended with this readiness."""
        return self.stunted + (1.0 - self.stunted) * readiness


@dataclass
class SlotGrowth:
    """How far things have come at one slot."""

    readiness: float = 0.0
    """Share of what TRAINING can teach the seed that it has learnt."""
    maturity: float = 0.0
    """Share of the seed's gain that the network draws; follows alpha with a lag."""
    shock: float = 0.0
    """Accuracy that blending at this slot costs now; it outlives the seed and wears off."""

    def clear(self) -> None:
        """For a seed that comes or goes: the shock stays."""
        self.readiness = 0.0
        self.maturity = 0.0

    def train(self, slot: Slot, alpha_before: float, neighbours: int, rates: GrowthRates) -> None:
        """One interval on, which `slot` has counted already; `alpha_before` is that of its start.

        `neighbours` are the other seeds that were BLENDING in the interval.
        """
        self.shock *= rates.persistence
        if slot.stage is Stage.TRAINING:
            self.readiness += (1.0 - self.readiness) * rates.training
        elif slot.is_live:
            alpha = slot.alpha
            self.maturity += (alpha - self.maturity) * rates.payoff
            untrained = rates.untrained_shock * (1.0 - self.readiness)
            crowding = rates.crowding_shock * neighbours
            self.shock += (untrained + crowding) * (alpha - alpha_before)

    def contribution(self, seed: HiddenSeed | None, alpha: float, rates: GrowthRates) -> float:
        """Accuracy that the live seed adds, shocks apart: a bad one takes its toll at once."""
        if seed is None:
            return 0.0
        if seed.is_bad:
            return seed.effect * alpha
        return seed.effect * rates.share_of_gain(self.readiness) * self.maturity


def saturated(gain: float, headroom: float) -> float:
    """What gains of so much at all slots together add to the accuracy: less and less of it.

    Increasing, so that more at the slots is never less in the end; harm is not softened.
    """
    return gain if gain <= 0.0 else -headroom * math.expm1(-gain / headroom)
