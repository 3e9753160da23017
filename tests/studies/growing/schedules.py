"""Fixed schedules, and the search for the best of a family of them.

A schedule is an order of slots and the interval at which the first seed germinates. Each seed lives
as fast as it may: GERMINATE, then at least one interval each of being there and of TRAINING, then
as long as blending takes, then it is fossilised. As a step has one action, a seed that is due in
the same step as an earlier one waits for the next.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leyline.v1.decision_pb2 import ACTION_TYPE_ADVANCE, ACTION_TYPE_GERMINATE
from leyline.v1.trainer_pb2 import Plan, PlannedAction, PolicySpec

NOTHING = "wait"
"""Name of the schedule that grows nothing, which every search has for nothing: it is the twin."""
_ORDERS = (
    *((2,), (2, 1), (2, 1, 0), (1,), (1, 2), (2, 0)),
    *((0, 1, 2), (0,), (1, 0)),
)
"""Those first of which the findings of earlier studies make one expect the most."""
_STARTS = (0.0, 0.2, 0.4)
"""Shares of the horizon."""


@dataclass(frozen=True)
class Schedule:
    """Slots in the order in which they grow, and the interval at which the first one does."""

    slots: Sequence[int]
    start: int

    @property
    def name(self) -> str:
        return f"{','.join(map(str, self.slots))}@{self.start}"

    @property
    def slug(self) -> str:
        """The name, as a run can have it."""
        return f"{''.join(map(str, self.slots))}.at{self.start}"

    def steps(self, blend_intervals: int) -> Mapping[int, tuple[int, int]]:
        """Slot and number of the action in its seed's life, by step."""
        taken: dict[int, tuple[int, int]] = {}
        for slot in self.slots:
            step = self.start
            for number, least in enumerate((0, 1, 1, blend_intervals)):
                step += least
                while step in taken:
                    step += 1
                taken[step] = (slot, number)
        return taken

    def fits(self, horizon: int, blend_intervals: int) -> bool:
        """Whether every seed is fossilised in time."""
        return max(self.steps(blend_intervals)) < horizon

    def policy(self, blend_intervals: int) -> PolicySpec:
        """What a run is told."""
        actions = [
            PlannedAction(
                step=step,
                action_type=ACTION_TYPE_GERMINATE if number == 0 else ACTION_TYPE_ADVANCE,
                slot_id=f"slot-{slot}",
            )
            for step, (slot, number) in sorted(self.steps(blend_intervals).items())
        ]
        return PolicySpec(plan=Plan(actions=actions))


def family(horizon: int, blend_intervals: int) -> list[Schedule]:
    """All schedules that are searched, those first that are tried with a small budget."""
    starts = dict.fromkeys(round(share * horizon) for share in _STARTS)
    every = [Schedule(order, start) for start in starts for order in _ORDERS]
    return [one for one in every if one.fits(horizon, blend_intervals)]


def policy_named(name: str, blend_intervals: int) -> PolicySpec:
    """What a run is told of the schedule of that name."""
    if name == NOTHING:
        return PolicySpec(plan=Plan())
    slots, _, start = name.partition("@")
    return Schedule(tuple(map(int, slots.split(","))), int(start)).policy(blend_intervals)


@dataclass(frozen=True)
class Halving:
    """Successive halving (Karnin, Koren and Somekh 2013): rounds of equal budget, in each of which
    the worse half leaves. Candidates and the twin that waits play the same situations.

    Attributes:
        budget: episodes at most, those of the twin included.
    """

    candidates: int
    budget: int

    @classmethod
    def within(cls, budget: int, most: int) -> Halving | None:
        """As many candidates as the first round can pay for; None where it pays for none."""
        for candidates in range(most, 0, -1):
            halving = cls(candidates, budget)
            if halving.situations(candidates) >= 1:
                return halving
        return None

    @property
    def rounds(self) -> int:
        return max(1, math.ceil(math.log2(self.candidates)))

    def situations(self, left: int) -> int:
        """New situations of a round with so many candidates left."""
        return self.budget // self.rounds // (left + 1)


def better_half(means: Mapping[str, Sequence[float]]) -> list[str]:
    """Names of the better half, best first, by the mean of all that each has come to."""
    ranked = sorted(means, key=lambda name: statistics.fmean(means[name]), reverse=True)
    return ranked[: math.ceil(len(ranked) / 2)]
