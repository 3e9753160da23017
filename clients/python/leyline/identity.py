"""All randomness of a run comes from its seed: here is how.

A seed is derived from a purpose and a few whole numbers by SHA-256, so that seeds for different
purposes, episodes and steps have nothing to do with each other, and any language derives the same
ones with a hash function and nothing else.
"""

from __future__ import annotations

import hashlib


def derived_seed(purpose: str, *parts: int) -> int:
    """Return a seed in [0, 2**64) for a purpose.

    It is the first 8 bytes, big-endian, of the SHA-256 of an ASCII text: `leyline/`, the purpose,
    `/1`, and each part as a decimal number with a colon before it.
    """
    text = ":".join([f"leyline/{purpose}/1", *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big")


def sampling_seed(run_seed: int, episode_index: int, step: int) -> int:
    """Return a decision's `sampling_seed`, in [0, 2**64): all the randomness that it has."""
    return derived_seed("sampling", run_seed, episode_index, step)
