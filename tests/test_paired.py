"""Intervals of paired comparisons."""

from __future__ import annotations

import random
import statistics

import pytest
from tests.paired import bootstrap_interval, interval_of, interval_of_median


def test_an_interval_of_the_mean_is_students() -> None:
    mean, half = interval_of([1.0, 2.0, 1.5, 1.5, 3.0])
    assert mean == pytest.approx(1.8)
    assert half == pytest.approx(0.9415, abs=1e-3)


def test_too_few_values_have_no_interval_of_the_median() -> None:
    assert interval_of_median([1.0] * 5) is None
    assert interval_of_median([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (1.0, 6.0)


@pytest.mark.parametrize("count", [9, 20, 40])
def test_nineteen_of_twenty_intervals_of_the_median_hold_it(count: int) -> None:
    chance = random.Random(count)
    held = []
    for _ in range(2000):
        interval = interval_of_median([chance.expovariate(1.0) for _ in range(count)])
        assert interval is not None
        held.append(interval[0] <= 0.693147 <= interval[1])
    assert statistics.fmean(held) > 0.94


def test_a_bootstrap_interval_is_the_same_for_the_same_values() -> None:
    chance = random.Random(0)
    values = [chance.gauss(2.0, 1.0) for _ in range(40)]
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    mean, half = interval_of(values)
    assert low == pytest.approx(mean - half, abs=0.08)
    assert high == pytest.approx(mean + half, abs=0.08)
    assert bootstrap_interval([1.5]) == (1.5, 1.5)
