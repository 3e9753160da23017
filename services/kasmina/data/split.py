"""Carving one set of images into training and validation, every class in its proportion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def stratified_split(
    labels: npt.NDArray[np.int64], taken: int, seed: int
) -> tuple[Indices, Indices]:
    """Indices of `taken` images, and of the rest, each ascending.

    Every class gives its share to the nearest image. A function of the labels and the seed alone.
    Raises ValueError unless 0 <= taken <= len(labels).
    """
    if not 0 <= taken <= len(labels):
        raise ValueError(f"cannot take {taken} of {len(labels)} images")
    draw = np.random.Generator(np.random.PCG64(seed))
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    quotas = _quotas(np.array([len(group) for group in members]), taken)
    chosen = [draw.permutation(group)[:quota] for group, quota in zip(members, quotas, strict=True)]
    mask = np.zeros(len(labels), dtype=bool)
    for group in chosen:
        mask[group] = True
    return np.flatnonzero(mask), np.flatnonzero(~mask)


def _quotas(sizes: npt.NDArray[np.int64], taken: int) -> npt.NDArray[np.int64]:
    """Whole numbers that add up to `taken`, in proportion to `sizes`: by the largest remainder."""
    exact = sizes * (taken / max(int(sizes.sum()), 1))
    quotas: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    missing = taken - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1
    return quotas
