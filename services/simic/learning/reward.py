"""Rewards, computed from stored facts when a batch is learned from.

Nothing is paid while an episode runs, so another reward can be tried on old experience.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from leyline.v1.transition_pb2 import Transition

Reward = Callable[[Sequence[Transition]], NDArray[np.float64]]
"""From the steps of a whole episode, in order, to one number for each."""

POINTS_A_UNIT = 10.0
"""Ten percentage points of validation accuracy are one unit of reward."""


def accuracy_delta(steps: Sequence[Transition]) -> NDArray[np.float64]:
    """Change of validation accuracy over each interval, in tens of percentage points.

    It telescopes: whatever happens between, an episode's rewards add up to the accuracy at its
    end minus the one at its start. Where an accuracy was not measured, the last one that was
    stands for it, and the change is paid with the next measurement.
    """
    measured = [steps[0].snapshot, *(step.next_snapshot for step in steps)]
    accuracies = [
        100 * snapshot.val_accuracy if snapshot.HasField("val_accuracy") else np.nan
        for snapshot in measured
    ]
    return np.diff(_hold_last(np.array(accuracies))) / POINTS_A_UNIT


def _hold_last(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put the last measured value, or else the first to come, in place of each NaN."""
    known = np.flatnonzero(~np.isnan(values))
    if len(known) == 0:
        return np.zeros_like(values)
    held = np.maximum(np.searchsorted(known, np.arange(len(values)), side="right") - 1, 0)
    result: NDArray[np.float64] = values[known[held]]
    return result


REWARDS: Mapping[str, Reward] = {"accuracy-delta": accuracy_delta}
"""Rewards by name."""
