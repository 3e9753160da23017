"""Paired comparisons: how far their mean may be off."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""97.5 % quantiles of Student's t distribution for 1 to 20 degrees of freedom; more get that of 20,
which is a little too wide."""


def interval_of(values: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences or ratios, and half the width of its 95 % interval by Student's t.

    The half width is NaN where there is one value only.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, float("nan")
    quantile = _T_975[min(len(values) - 1, len(_T_975)) - 1]
    return mean, quantile * statistics.stdev(values) / len(values) ** 0.5


def interval_of_median(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % interval of the median by order statistics, whatever the distribution (David and
    Nagaraja 2003, section 7.1). None for fewer than six values, of which none is wide enough.
    """
    ordered, count = sorted(values), len(values)
    below, outside = 0.0, -1
    while (below := below + math.comb(count, outside + 1) / 2**count) <= 0.025:
        outside += 1
    return None if outside < 0 else (ordered[outside], ordered[count - 1 - outside])


def bootstrap_interval(values: Sequence[float], resamples: int = 10_000) -> tuple[float, float]:
    """A 95 % interval of the mean by the percentiles of means of resamples (Efron and Tibshirani
    1993, chapter 13), the same for the same values. It is a little too narrow for few of them.
    """
    of = np.asarray(values, float)
    drawn = np.random.default_rng(0).integers(len(of), size=(resamples, len(of)))
    low, high = np.percentile(of[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)
