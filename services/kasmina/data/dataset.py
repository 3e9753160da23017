"""Datasets: images in memory as bytes, in three splits.

The validation split is carved out of the training images. Decisions are rewarded on the validation
split. The test split has a function of its own and is for reports. Nothing is downloaded, and no
dataset stands in for one that is missing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kasmina.data.digits import digits
from kasmina.data.encoded import require_room, resized
from kasmina.data.errors import (
    DatasetError,
    DatasetTooSmall,
    PlugInFailed,
    UnknownDataset,
)
from kasmina.data.folder_set import find_folder_set, folder_set_names, read_folder_set
from kasmina.data.images import Dataset, ImageSplit
from kasmina.data.places import data_roots
from kasmina.data.published import PUBLISHED
from kasmina.data.settings import DatasetSettings
from kasmina.data.source import ImageSource, SourceReader, Split
from kasmina.data.split import Indices, stratified_split
from kasmina.registry import Registry

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetSettings",
    "ImageSplit",
    "dataset_names",
    "load_dataset",
    "load_test_split",
    "locate",
]

_BUILT_IN: dict[str, SourceReader] = {
    "digits": digits,
    **{name: published.read for name, published in PUBLISHED.items()},
}
DATASETS: Registry[SourceReader] = Registry(
    "dataset", "leyline.datasets", _BUILT_IN, UnknownDataset
)
"""Every dataset that has a name of its own; folders of images have theirs besides."""


def dataset_names(location: Path | None = None) -> tuple[str, ...]:
    """Names of the datasets that can be asked for, folders of images in `location` among them,
    sorted. The files of the published ones may be missing."""
    return tuple(sorted({*DATASETS.names(), *folder_set_names(location)}))


def load_dataset(settings: DatasetSettings) -> Dataset:
    """The training and validation splits. Raises `DatasetError`, of the kinds in `errors`."""
    source = _read(settings, "train")
    labels = source.labels
    held_out = settings.validation_images
    if held_out is None:
        held_out = max(len(labels) // 10, 1)
    wanted = held_out + (settings.train_images or 1)
    if wanted > len(labels):
        raise DatasetTooSmall(settings.name, wanted, len(labels))
    validation, train = stratified_split(labels, held_out, settings.split_seed)
    if settings.train_images is not None:
        kept, _ = stratified_split(labels[train], settings.train_images, settings.split_seed + 1)
        train = train[kept]
    return Dataset(
        name=settings.name,
        train=_take(source, train),
        validation=_take(source, validation),
        classes=source.classes,
        augmented=source.augmented,
        class_names=source.class_names,
    )


def load_test_split(settings: DatasetSettings) -> ImageSplit:
    """The test split, whole. For reports: no decision and no reward may depend on it.

    Raises `DatasetError`, of the kinds in `errors`.
    """
    source = _read(settings, "test")
    return _take(source, np.arange(len(source.labels)))


def locate(settings: DatasetSettings) -> Path | None:
    """Folder from which the training images would be read; None where Kasmina needs no files.

    Raises `UnknownDataset` or `DatasetNotFound`.
    """
    if settings.name in PUBLISHED:
        return PUBLISHED[settings.name].sources(settings, "train")[0].parent
    if settings.name in DATASETS.names():
        return None
    return _folder_set(settings)


def _read(settings: DatasetSettings, split: Split) -> ImageSource:
    """One split, within the limits that the settings put."""
    if settings.name in _BUILT_IN:
        source = _BUILT_IN[settings.name](settings, split)
    elif settings.name in DATASETS.names():
        source = _of_plug_in(settings, split)
    else:
        source = read_folder_set(_folder_set(settings), settings, split)
    count, channels, height, width = source.images.shape
    side = settings.image_size
    require_room(settings, count * channels * (height * width if side is None else side * side))
    if side is None or (height, width) == (side, side):
        return source
    return replace(source, images=resized(source.images, side))


def _of_plug_in(settings: DatasetSettings, split: Split) -> ImageSource:
    try:
        source = DATASETS.get(settings.name)(settings, split)
    except DatasetError:
        raise
    except Exception as error:  # whatever the package's code may raise
        raise PlugInFailed(settings.name, f"{type(error).__name__}: {error}") from error
    if not isinstance(source, ImageSource):
        raise PlugInFailed(settings.name, f"it returns {type(source).__name__}, not ImageSource")
    return source


def _folder_set(settings: DatasetSettings) -> Path:
    folder = find_folder_set(settings)
    if folder is None:
        known = dataset_names(settings.location)
        raise UnknownDataset(settings.name, known, data_roots(settings.location))
    return folder


def _take(source: ImageSource, indices: Indices) -> ImageSplit:
    """Copies, channels innermost: the source's may be a file that somebody replaces."""
    whole = ImageSplit(torch.from_numpy(source.images), torch.from_numpy(source.labels))
    return ImageSplit(*whole.take(torch.from_numpy(indices)))
