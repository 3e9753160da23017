"""Growing as a schedule of jobs, one for each slot, that share one resource: one action a step.

What a slot adds in the end depends on its own actions alone, but for crowding, which only harms. A
slot's plan is to germinate and cull until the wanted blueprint comes, then to germinate, train,
blend and fossilise at four steps that are free but for their order.

The upper bound is that of Lagrangian relaxation (Fisher 1981): for any prices >= 0 of acting at
each step, no schedule gains more than

    sum of prices + sum over slots of max over plans (gain of the plan - prices of its actions).

Subgradient steps (Polyak 1969) look for prices that make it small. A slot's best plan, where steps
that are taken cost more than anything is worth, also gives a schedule that can be carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kasmina.simulator.growth import GrowthRates
from kasmina.simulator.parameters import Parameters

Array = NDArray[np.float64]

_ROUNDS = 100
_TIGHT = 1e-3
"""Share of the bound by which a schedule may fall short of it without more rounds."""
_TAKEN = 1e6
"""Price of a step that another slot acts at; no gain is worth it."""


@dataclass(frozen=True)
class Prospect:
    """A seed that is worth growing, and how often its slot must germinate and cull before it."""

    slot: int
    """Depth of the slot."""
    effect: float
    """See `kasmina.simulator.situation.HiddenSeed`."""
    culls: int


@dataclass(frozen=True)
class Plan:
    """When one slot's actions are taken. Steps ascend."""

    slot: int
    gain: float
    """Accuracy that the slot adds in the end."""
    profit: float
    """The gain without the prices of the actions."""
    probes: tuple[int, ...]
    """GERMINATE and CULL in turn, of seeds that are not wanted."""
    germinate: int
    train: int
    blend: int
    fossilise: int

    @property
    def steps(self) -> list[int]:
        """All steps at which the slot is acted at."""
        return [*self.probes, self.germinate, self.train, self.blend, self.fossilise]


class Schedules:
    """All schedules of an episode, as far as prices tell them apart."""

    def __init__(self, parameters: Parameters, prospects: Sequence[Prospect]) -> None:
        self._horizon = parameters.episode.horizon
        self._blending = parameters.episode.blend_intervals
        self._prospects = tuple(prospects)
        slots = [prospect.slot for prospect in prospects]
        self._slots = sorted(set(slots))
        self._rows = {
            slot: (slots.index(slot), slots.index(slot) + slots.count(slot)) for slot in slots
        }
        share, shock = outcomes(parameters)
        effects = np.array([prospect.effect for prospect in prospects])
        # (prospect, step of training, step of blending)
        self._gains = effects[:, None, None] * share - shock

    def bound_and_best(self) -> tuple[float, list[Plan]]:
        """An upper bound on the sum of the slots' gains, and the best schedule that was found."""
        prices = np.zeros(self._horizon)
        bound, best = np.inf, list[Plan]()
        for turn in range(_ROUNDS):
            plans = self._best_plans(prices)
            value = float(prices.sum()) + sum(plan.profit for plan in plans)
            bound = min(bound, value)
            first = self._slots[turn % len(self._slots)]
            best = max(best, self._carried_out(plans, prices, first), key=_total)
            excess = 1.0 - self._uses(plans)
            shortfall = value - _total(best)
            if shortfall <= _TIGHT * value or not excess.any():
                break
            prices = np.maximum(prices - shortfall / float(excess @ excess) * excess, 0.0)
        return bound, best

    def _costs(self, prices: Array) -> _Costs:
        return _Costs(prices, [prospect.culls for prospect in self._prospects], self._blending)

    def _best_plans(self, prices: Array) -> list[Plan]:
        """Each slot's most profitable plan, of those that are worth their prices."""
        costs = self._costs(prices)
        found = (self._best_plan(slot, costs) for slot in self._slots)
        return [plan for plan in found if plan is not None]

    def _best_plan(self, slot: int, costs: _Costs) -> Plan | None:
        first, last = self._rows[slot]
        profits = (
            self._gains[first:last]
            - costs.until_training[first:last, :, None]
            - costs.from_blending
        )
        row, train, blend = (int(i) for i in np.unravel_index(profits.argmax(), profits.shape))
        profit = float(profits[row, train, blend])
        return self._plan(costs, first + row, train, blend, profit) if profit > 0.0 else None

    def _plan(self, costs: _Costs, index: int, train: int, blend: int, profit: float) -> Plan:
        prospect = self._prospects[index]
        probes, germinate = costs.steps_until_training(index, train)
        return Plan(
            slot=prospect.slot,
            gain=float(self._gains[index, train, blend]),
            profit=profit,
            probes=probes,
            germinate=germinate,
            train=train,
            blend=blend,
            fossilise=costs.step_of_fossilising(blend),
        )

    def _carried_out(self, plans: Sequence[Plan], prices: Array, first: int) -> list[Plan]:
        """A schedule without collisions: the slot `first` chooses its steps at these prices, and
        then the others in the order in which their plans would blend.
        """
        blend = {plan.slot: plan.blend for plan in plans}
        order = sorted(
            self._slots, key=lambda slot: (slot != first, blend.get(slot, self._horizon))
        )
        prices = prices.copy()
        chosen = []
        for slot in order:
            plan = self._best_plan(slot, self._costs(prices))
            if plan is not None:
                chosen.append(plan)
                prices[plan.steps] = _TAKEN
        return chosen

    def _uses(self, plans: Sequence[Plan]) -> Array:
        uses = np.zeros(self._horizon)
        for plan in plans:
            uses[plan.steps] += 1.0
        return uses


class _Costs:
    """What it costs at given prices to come to each point of a plan."""

    def __init__(self, prices: Array, culls: Sequence[int], blending: int) -> None:
        horizon = len(prices)
        self._prices = prices
        self._blending = blending
        # cheapest[t, n]: the n cheapest steps before t together.
        before = np.where(np.tri(horizon, k=-1, dtype=bool), prices, np.inf)
        self._order = np.argsort(before, axis=1, kind="stable")
        sums = np.cumsum(np.take_along_axis(before, self._order, axis=1), axis=1)
        cheapest = np.concatenate([np.zeros((horizon, 1)), sums], axis=1)
        self._culls = culls
        self._germinating = np.stack([cheapest[:, 2 * count] for count in culls]) + prices
        earlier = np.minimum.accumulate(self._germinating, axis=1)[:, :-1]
        first = np.full((len(culls), 1), np.inf)
        self.until_training: Array = np.concatenate([first, earlier], axis=1) + prices
        """(prospect, step of training): up to and with the ADVANCE into TRAINING."""
        later = np.minimum.accumulate(prices[::-1])[::-1]
        last = np.full(min(blending, horizon), np.inf)
        self.from_blending: Array = prices + np.concatenate([later[blending:], last])
        """(step of blending): the ADVANCE into BLENDING and that out of it."""

    def steps_until_training(self, index: int, train: int) -> tuple[tuple[int, ...], int]:
        """Steps of the probes and of the germination that cost so much."""
        germinate = int(self._germinating[index, :train].argmin())
        probes = self._order[germinate, : 2 * self._culls[index]]
        return tuple(sorted(probes.tolist())), germinate

    def step_of_fossilising(self, blend: int) -> int:
        """Step of the last ADVANCE that costs so much."""
        first = blend + self._blending
        return first + int(self._prices[first:].argmin())


def outcomes(parameters: Parameters) -> tuple[Array, Array]:
    """What becomes of a good seed by (step of training, step of blending): the share of its effect
    that the network draws in the end, and the shock of its blending that is left by then.

    Where the order of steps is impossible, or fossilising comes too late, the share is minus
    infinity.
    """
    horizon, blending = parameters.episode.horizon, parameters.episode.blend_intervals
    rates = GrowthRates.of(parameters.growth)
    maturity, shock = np.zeros(horizon + 1), np.zeros(horizon + 1)
    for live in range(1, horizon + 1):
        alpha = min(live / blending, 1.0)
        maturity[live] = maturity[live - 1] + (alpha - maturity[live - 1]) * rates.payoff
        rise = alpha - min((live - 1) / blending, 1.0)
        shock[live] = shock[live - 1] * rates.persistence + rise
    trained = np.arange(horizon)[None, :] - np.arange(horizon)[:, None]
    unready = (1.0 - rates.training) ** np.maximum(trained, 0)
    live_intervals = horizon - np.arange(horizon)
    share = (rates.stunted + (1.0 - rates.stunted) * (1.0 - unready)) * maturity[live_intervals]
    possible = (trained >= 1) & (live_intervals > blending)
    left = rates.untrained_shock * unready * shock[live_intervals]
    return np.where(possible, share, -np.inf), left


def _total(plans: Sequence[Plan]) -> float:
    return sum(plan.gain for plan in plans)
