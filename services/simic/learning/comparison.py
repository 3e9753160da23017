"""What pairs of returns say of the difference between two versions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simic.learning import student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """A version's returns beside another one's, pair by pair, in units of the reward.

    Attributes:
        pairs: how many.
        mean: of the version's returns.
        baseline_mean: of the other one's.
        difference: mean of the version's return less the other one's.
        interval: ends of the 95 % interval of that mean, by Student's t; None for fewer than two
            pairs.
    """

    pairs: int
    mean: float
    baseline_mean: float
    difference: float
    interval: tuple[float, float] | None

    @property
    def is_worse(self) -> bool:
        """Whether the evidence says that the version is worse: the interval lies below 0.

        A version is given the benefit of the doubt. Few pairs make a wide interval, so they refuse
        only what is worse by much and in all of them; and of versions that are as good as each
        other one in forty is refused, however many the pairs.
        """
        return self.interval is not None and self.interval[1] < 0


def compare(returns: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Compare returns with those of the other version in the same pairs, at least one."""
    differences = np.subtract(returns, baseline)
    pairs, difference = len(differences), float(np.mean(differences))
    interval = None
    if pairs > 1:
        error = float(np.std(differences, ddof=1)) / math.sqrt(pairs)
        reach = student.quantile((1 + CONFIDENCE) / 2, pairs - 1) * error
        interval = difference - reach, difference + reach
    return Comparison(
        pairs, float(np.mean(returns)), float(np.mean(baseline)), difference, interval
    )
