"""What a source of images delivers. A package adds one with an entry point:

    [project.entry-points."leyline.datasets"]
    my-images = "my_package.images:read"

where `read(settings: DatasetSettings, split: Split) -> ImageSource`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from kasmina.data.settings import DatasetSettings

Split = Literal["train", "test"]
"""The validation split is carved out of "train"."""


@dataclass(frozen=True)
class ImageSource:
    """All images of one split, and what there is to say about them.

    Raises ValueError where images, labels and description contradict each other.
    """

    images: npt.NDArray[np.uint8]
    """(n, channels, height, width), with any strides."""
    labels: npt.NDArray[np.int64]
    """(n,), in [0, classes)."""
    classes: int
    augmented: bool
    """Whether training images may be shifted and mirrored."""
    class_names: tuple[str, ...] = ()
    """By label; empty where they are not known."""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                "images must be uint8 of shape (n, channels, height, width),"
                f" not {images.dtype} of shape {images.shape}"
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(images)},), one for each image,"
                f" not {labels.dtype} of shape {labels.shape}"
            )
        if len(labels) == 0:
            raise ValueError("there are no images in it")
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(f"labels must be in [0, {self.classes})")
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} names for {self.classes} classes")


SourceReader = Callable[[DatasetSettings, Split], ImageSource]
"""Reads one split. `settings.image_size` and the number of images are seen to by the caller."""
