"""Images from the layouts that torchvision leaves on disk: the CIFAR authors' own Python batches,
and the idx files of the MNIST family.

The batches are pickles, and a pickle can run code. This reader admits what an array of bytes and a
list of labels are made of and nothing else, so a file from a stranger can be damaged but not
dangerous.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kasmina.data.errors import DatasetCorrupt

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Images (n, channels, height, width) and labels (n,)."""


def read_batches(files: Sequence[Path], label_key: str, size: tuple[int, int]) -> Arrays:
    """Colour images and labels of all files. Raises `DatasetCorrupt`."""
    parts = [_read_batch(path, label_key, size) for path in files]
    return (
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
    )


def read_idx(files: Sequence[Path], size: tuple[int, int]) -> Arrays:
    """Grey images of the first file and labels of the second. Raises `DatasetCorrupt`."""
    from torchvision.datasets.mnist import read_image_file, read_label_file  # 1.5 s to import

    images_file, labels_file = files
    images = np.asarray(_idx(images_file, read_image_file))
    labels = np.asarray(_idx(labels_file, read_label_file), dtype=np.int64)
    if images.shape[1:] != size:
        found, wanted = ("x".join(map(str, shape)) for shape in (images.shape[1:], size))
        raise DatasetCorrupt(images_file, f"its images are {found}, not {wanted}")
    if len(labels) != len(images):
        raise DatasetCorrupt(labels_file, f"it has {len(labels)} labels for {len(images)} images")
    return images[:, None], labels


def _idx(path: Path, read: Any) -> Any:
    try:
        return read(str(path))
    except Exception as error:  # asserts, among others, are torchvision's checks
        raise DatasetCorrupt(path, f"not a readable idx file ({error!r})") from error


def _read_batch(path: Path, label_key: str, size: tuple[int, int]) -> Arrays:
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="latin1").load()
        pixels = np.asarray(batch["data"], dtype=np.uint8)
        labels = np.asarray(batch[label_key], dtype=np.int64)
        images = pixels.reshape(len(labels), 3, *size)
    except Exception as error:  # an unpickler raises whatever a damaged file makes it call
        raise DatasetCorrupt(path, f"not a batch of images ({error})") from error
    return images, labels


class _ArraysOnly(pickle.Unpickler):
    """Knows the three names that a pickled numpy array mentions."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if name == "_reconstruct" and module.endswith("core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("_codecs", "encode"):  # protocol 2 spells bytes so
            return str.encode
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a batch of images")
