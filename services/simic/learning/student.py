"""Student's t distribution, as far as an interval needs it."""

from __future__ import annotations

import math


def quantile(probability: float, freedom: int) -> float:
    """The t below which a t-distributed number lies with a probability.

    Args:
        probability: in (0.5, 1).
        freedom: degrees of freedom, at least 1.
    """
    within = 2 * probability - 1
    low, high = 0.0, math.pi / 2
    # In the angle, because it has bounds where t has none.
    for _ in range(64):
        middle = (low + high) / 2
        if _within(middle, freedom) < within:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """The probability of |t| < sqrt(freedom) * tan(angle), by the finite sums 26.7.3 and 26.7.4 of
    Abramowitz and Stegun's Handbook of Mathematical Functions.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
