"""Which images to use, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetSettings:
    """Which images to use."""

    name: str = "cifar100"
    """A name out of `dataset_names`, or that of a folder of images in `location`."""
    location: Path | None = None
    """Folder that holds a folder `<name>/` with the files. None: $LEYLINE_DATA where it is set,
    else the folder shared/data beside the project."""
    cache: Path | None = None
    """Folder for decoded copies. None: $LEYLINE_CACHE, else leyline/ in the user's cache folder."""
    train_images: int | None = None
    """Training images to keep. None: all that the validation split leaves."""
    validation_images: int | None = None
    """Images of the validation split. None: a tenth of the training images, at least one."""
    split_seed: int = 0
    """Of the choice of images. It belongs to the dataset: every episode has the same splits."""
    image_size: int | None = None
    """Side of the squares, in pixels, that images are resized to. None: they stay as they are."""
    max_bytes: int = 8 << 30
    """What the decoded images of one split may take in memory."""

    def __post_init__(self) -> None:
        for name in ("train_images", "validation_images", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1, or None")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes is {self.max_bytes}; it must be at least 1")
