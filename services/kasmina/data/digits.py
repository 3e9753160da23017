"""Scikit-learn's handwritten digits (Alpaydin and Kaynak 1998): 8x8 pixels, grey, no files."""

from __future__ import annotations

import numpy as np

from kasmina.data.settings import DatasetSettings
from kasmina.data.source import ImageSource, Split
from kasmina.data.split import stratified_split

_TEST_IMAGES = 360


def digits(settings: DatasetSettings, split: Split) -> ImageSource:
    """One split of the 1,797 images; the test split is carved out of them."""
    from sklearn.datasets import load_digits  # 1 s to import, and needed for digits alone

    bunch = load_digits()
    images = np.round(bunch.images[:, None] * (255.0 / 16.0)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    test, train = stratified_split(labels, _TEST_IMAGES, seed=0)
    kept = test if split == "test" else train
    return ImageSource(images[kept], labels[kept], classes=10, augmented=False)
