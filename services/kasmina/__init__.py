"""Kasmina: trains networks that grow under a policy.

import kasmina
grown = kasmina.load_network("my-run-0.safetensors")
labels = grown.classify(images).argmax(1)   # images: bytes, (n, channels, height, width)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kasmina.training.network_file import GrownNetwork


def load_network(path: str | os.PathLike[str]) -> GrownNetwork:
    """The network that `leyline run export` wrote, on the processor, in eval mode.

    Raises `kasmina.checkpoint.CheckpointError`: there is no such file, it is damaged, or a package
    that brings its host or a blueprint of it is missing.
    """
    # Torch takes seconds to import, and not everybody who imports this package needs it.
    from kasmina.training.network_file import read_network

    return read_network(Path(path))
