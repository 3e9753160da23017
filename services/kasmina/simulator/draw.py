"""Random numbers by place: streams of PCG64 (O'Neill 2014), each named by what it is for.

What a stream gives depends on its name alone, not on what was drawn before. Only the generator's
raw bits are used, which NumPy promises to keep (NEP 19): the same seed gives the same episode under
any version of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kasmina.randomness import derive_seed

_TWO_TO_MINUS_53 = 2.0**-53


def uniforms(seed: int, *path: str | int, count: int) -> NDArray[np.float64]:
    """`count` independent uniform numbers in [0, 1)."""
    bits = np.random.PCG64(derive_seed(seed, *path)).random_raw(count)
    return (bits >> np.uint64(11)).astype(np.float64) * _TWO_TO_MINUS_53


def normals(seed: int, *path: str | int, count: int) -> NDArray[np.float64]:
    """`count` independent standard normal numbers (Box and Muller 1958)."""
    pairs = (count + 1) // 2
    uniform = uniforms(seed, *path, count=2 * pairs)
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:pairs]))
    angle = 2.0 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def between(ends: tuple[float, float], share: float) -> float:
    """The number that lies that share of the way from one end to the other."""
    return ends[0] + (ends[1] - ends[0]) * share
