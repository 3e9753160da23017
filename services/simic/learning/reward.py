"""Rewards, computed from stored facts when a batch is learned from.

Nothing is paid while an episode runs, so another reward can be tried on old experience. A reward
of your own is a function from the steps of a whole episode to one number for each, under the entry
point group ``leyline.rewards``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import entry_points

import numpy as np
from numpy.typing import NDArray

from leyline.v1.transition_pb2 import IntervalFacts, Transition

Rewards = NDArray[np.float64]
"""One number for each step of an episode, (T,)."""
Reward = Callable[[Sequence[Transition]], Rewards]
"""From the steps of a whole episode, in order, to one number for each."""

GROUP = "leyline.rewards"
"""Entry points under which packages add rewards."""

POINTS_A_UNIT = 10.0
"""Ten percentage points of validation accuracy are one unit of reward."""

DEFAULT_RENT = 1.0
"""Percentage points for spending as much again as the bare host spends in the whole episode."""


class RewardUndefined(ValueError):
    """A reward cannot be computed for an episode. The text says what is missing."""


def accuracy_delta(steps: Sequence[Transition]) -> Rewards:
    """Change of validation accuracy over each interval, in tens of percentage points.

    It telescopes: whatever happens between, an episode's rewards add up to the accuracy at its
    end minus the one at its start. Where an accuracy was not measured, the last one that was
    stands for it, and the change is paid with the next measurement.
    """
    changes: Rewards = np.diff(_accuracies(steps)) / POINTS_A_UNIT
    return changes


def accuracy_delta_rent(steps: Sequence[Transition], price: float = DEFAULT_RENT) -> Rewards:
    """`accuracy_delta`, less the rent of the multiply-adds spent in each interval."""
    return accuracy_delta(steps) - rent(steps, price)


def final_accuracy_rent(steps: Sequence[Transition], price: float = DEFAULT_RENT) -> Rewards:
    """The accuracy at the end, paid there, less the rent, paid as it is spent.

    What is measured in between does not count, so that its noise does not either.
    """
    paid = np.zeros(len(steps))
    paid[-1] = _accuracies(steps)[-1] / POINTS_A_UNIT
    return paid - rent(steps, price)


def rent(steps: Sequence[Transition], price: float) -> Rewards:
    """What the multiply-adds of each interval cost beyond those of the bare host, (T,).

    Args:
        steps: of a whole episode.
        price: percentage points for spending as much again as the bare host spends in the whole
            episode.

    Raises:
        RewardUndefined: they were not counted.
    """
    if not all(_counted(step.facts) for step in steps):
        raise RewardUndefined(
            "rent needs the multiply-adds spent, which this episode's trainer has not counted"
        )
    spent = np.diff([0.0, *(float(step.facts.multiply_adds_spent) for step in steps)])
    bare = np.array([float(step.facts.multiply_adds_bare) for step in steps])
    if not bare.sum() > 0:
        raise RewardUndefined("rent needs an episode whose host has spent something")
    beyond: Rewards = (spent - bare) / bare.sum()
    return price / POINTS_A_UNIT * beyond


def _counted(facts: IntervalFacts) -> bool:
    return facts.HasField("multiply_adds_spent") and facts.HasField("multiply_adds_bare")


def reward_names() -> tuple[str, ...]:
    """The names of all rewards: ours, then those of packages."""
    return (*_OURS, *sorted(entry_points(group=GROUP).names - _OURS.keys()))


def reward_by_name(name: str, price: float) -> Reward:
    """The reward of a name, with its rent where it has one.

    Raises:
        KeyError: there is none of that name.
    """
    if name in _WITH_RENT:
        return partial(_WITH_RENT[name], price=price)
    if name in _OURS:
        return _OURS[name]
    return partial(_theirs, name, entry_points(group=GROUP)[name].load())


def _theirs(name: str, reward: Reward, steps: Sequence[Transition]) -> Rewards:
    """A reward of a package's, held to what a reward is: a NaN would spoil a network for good."""
    try:
        rewards = np.asarray(reward(steps), np.float64)
    except Exception as error:
        raise RewardUndefined(f"the reward {name} failed: {error!r}") from error
    if rewards.shape != (len(steps),):
        raise RewardUndefined(
            f"the reward {name} gave an array of the shape {rewards.shape} for {len(steps)} steps"
        )
    if not np.isfinite(rewards).all():
        raise RewardUndefined(f"the reward {name} gave a number that is not finite: {rewards}")
    return rewards


def less_the_twin(rewards: Rewards, of_twin: Rewards) -> Rewards:
    """What acting has brought: the twin, which is the same in all else, only waits.

    Raises:
        RewardUndefined: the twin has another number of steps.
    """
    if len(rewards) != len(of_twin):
        raise RewardUndefined(f"the twin has {len(of_twin)} steps, the episode {len(rewards)}")
    return rewards - of_twin


def _accuracies(steps: Sequence[Transition]) -> Rewards:
    """Validation accuracy before the first step and after each, percentage points, (T + 1,)."""
    measured = [steps[0].snapshot, *(step.next_snapshot for step in steps)]
    return _hold_last(
        np.array(
            [
                100 * snapshot.val_accuracy if snapshot.HasField("val_accuracy") else np.nan
                for snapshot in measured
            ]
        )
    )


def _hold_last(values: Rewards) -> Rewards:
    """Put the last measured value, or else the first to come, in place of each NaN."""
    known = np.flatnonzero(~np.isnan(values))
    if len(known) == 0:
        return np.zeros_like(values)
    held = np.maximum(np.searchsorted(known, np.arange(len(values)), side="right") - 1, 0)
    result: Rewards = values[known[held]]
    return result


_WITH_RENT: dict[str, Callable[..., Rewards]] = {
    "accuracy-delta-rent": accuracy_delta_rent,
    "final-accuracy-rent": final_accuracy_rent,
}
_OURS: dict[str, Callable[..., Rewards]] = {"accuracy-delta": accuracy_delta, **_WITH_RENT}
