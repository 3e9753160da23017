"""The episodes of a run: which of the indices are its own, where trainers share them."""

from __future__ import annotations

from leyline.v1.trainer_pb2 import RunSpec

LAST_INDEX = 1_000_000_000
"""The greatest index that an episode may have."""


def episode_indices(spec: RunSpec) -> range:
    """Return the indices of a run's episodes, in the order in which they are played."""
    stride = spec.episode_stride or 1
    first, episodes = spec.first_episode, spec.episodes or 1
    return range(first, first + episodes * stride, stride)


def in_words(indices: range) -> str:
    """Say at least one index as people write them: `3`, `0 to 7`, `1, 9, ... 57`."""
    if indices.step == 1 and len(indices) > 2:
        return f"{indices[0]} to {indices[-1]}"
    if len(indices) <= 3:
        return ", ".join(map(str, indices))
    return f"{indices[0]}, {indices[1]}, ... {indices[-1]}"
