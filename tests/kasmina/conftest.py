"""Small images to grow on: real enough to learn from, small enough to be quick."""

from __future__ import annotations

import pytest
import torch

from kasmina.data.dataset import Dataset, ImageSplit

CLASSES = 4


def striped_images(count: int, seed: int, side: int = 16) -> ImageSplit:
    """Noise with a bright stripe whose place is the label: bytes, (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 160, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    width = side // CLASSES
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, label * width : (label + 1) * width] += 95
    return ImageSplit(images, labels)


@pytest.fixture(scope="session")
def stripes() -> Dataset:
    """96 training and 40 validation images of four classes."""
    return Dataset(
        name="stripes",
        train=striped_images(96, seed=1),
        validation=striped_images(40, seed=2),
        classes=CLASSES,
        augmented=True,
    )
