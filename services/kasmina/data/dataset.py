"""Datasets: images in memory as bytes, in three splits.

The validation split is carved out of the training images. Decisions are rewarded on the validation
split. The test split has a function of its own and is for reports. Nothing is downloaded, and no
dataset stands in for one that is missing.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kasmina.data.cache import Arrays, decoded, default_cache
from kasmina.data.errors import (
    DatasetCorrupt,
    DatasetNotFound,
    DatasetTooSmall,
    UnknownDataset,
)
from kasmina.data.parquet import read_parquet
from kasmina.data.split import Indices, stratified_split
from kasmina.data.torchvision_files import read_batches


@dataclass(frozen=True)
class DatasetSettings:
    """Which images to use."""

    name: str = "cifar100"
    """cifar100, cifar10 or digits."""
    location: Path | None = None
    """Folder with the files, or one that holds a folder `<name>/` with them. None: $LEYLINE_DATA
    where it is set, else the folder shared/data beside the project."""
    cache: Path | None = None
    """Folder for decoded copies. None: $LEYLINE_CACHE, else leyline/ in the user's cache folder."""
    train_images: int | None = None
    """Training images to keep. None: all that the validation split leaves."""
    validation_images: int | None = None
    """Images of the validation split. None: a tenth of the training images."""
    split_seed: int = 0
    """Of the choice of images. It belongs to the dataset: every episode has the same splits."""

    def __post_init__(self) -> None:
        for name in ("train_images", "validation_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1, or None")


@dataclass(frozen=True)
class ImageSplit:
    """Images and what they show."""

    images: Tensor
    """Bytes, (n, channels, height, width)."""
    labels: Tensor
    """int64, (n,), in [0, classes)."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """What a network is trained and validated on."""

    name: str
    train: ImageSplit
    validation: ImageSplit
    classes: int
    augmented: bool
    """Whether training images may be shifted and mirrored: not so for digits."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @functools.cached_property
    def mean(self) -> Tensor:
        """Mean of each channel over the training images, in [0, 1]."""
        return self._moments[0]

    @functools.cached_property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel over the training images, in units of [0, 1]."""
        return self._moments[1]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all images and labels, in hexadecimal: checkpoints go on with the same
        only."""
        digest = hashlib.sha256(self.name.encode())
        for tensor in (
            self.train.images,
            self.train.labels,
            self.validation.images,
            self.validation.labels,
        ):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    @functools.cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        # A histogram of bytes has the exact moments without a copy of all images as floats.
        means, deviations = [], []
        levels = torch.arange(256, dtype=torch.float64) / 255.0
        for channel in range(self.shape[0]):
            counts = torch.bincount(self.train.images[:, channel].flatten(), minlength=256)
            share = counts / counts.sum()
            mean = (share * levels).sum()
            means.append(mean)
            deviations.append((share * (levels - mean) ** 2).sum().sqrt().clamp_min(1e-6))
        return torch.stack(means).float(), torch.stack(deviations).float()


@dataclass(frozen=True)
class _Layout:
    """Where a dataset's files are, and how they are read."""

    classes: int
    size: tuple[int, int]
    parquet_labels: tuple[str, ...]
    batches_folder: str
    batches: dict[str, tuple[str, ...]]
    batch_labels: str


_CIFAR = {
    "cifar100": _Layout(
        classes=100,
        size=(32, 32),
        parquet_labels=("fine_label", "label"),
        batches_folder="cifar-100-python",
        batches={"train": ("train",), "test": ("test",)},
        batch_labels="fine_labels",
    ),
    "cifar10": _Layout(
        classes=10,
        size=(32, 32),
        parquet_labels=("label",),
        batches_folder="cifar-10-batches-py",
        batches={
            "train": tuple(f"data_batch_{index}" for index in range(1, 6)),
            "test": ("test_batch",),
        },
        batch_labels="labels",
    ),
}

_DIGITS_CLASSES = 10
_DIGITS_TEST_IMAGES = 360


def dataset_names() -> tuple[str, ...]:
    """Names of the datasets that can be asked for, sorted."""
    return tuple(sorted((*_CIFAR, "digits")))


def load_dataset(settings: DatasetSettings) -> Dataset:
    """The training and validation splits.

    Raises `UnknownDataset`, `DatasetNotFound`, `DatasetCorrupt` or `DatasetTooSmall`.
    """
    images, labels = _read(settings, "train")
    held_out = settings.validation_images
    if held_out is None:
        held_out = len(labels) // 10
    wanted = held_out + (settings.train_images or 1)
    if wanted > len(labels):
        raise DatasetTooSmall(settings.name, wanted, len(labels))
    validation, rest = stratified_split(labels, held_out, settings.split_seed)
    train = rest
    if settings.train_images is not None:
        kept, _ = stratified_split(labels[rest], settings.train_images, settings.split_seed + 1)
        train = rest[kept]
    return Dataset(
        name=settings.name,
        train=_take(images, labels, train),
        validation=_take(images, labels, validation),
        classes=_classes(settings.name),
        augmented=settings.name in _CIFAR,
    )


def load_test_split(settings: DatasetSettings) -> ImageSplit:
    """The test split, whole. For reports: no decision and no reward may depend on it.

    Raises `UnknownDataset`, `DatasetNotFound` or `DatasetCorrupt`.
    """
    images, labels = _read(settings, "test")
    return _take(images, labels, np.arange(len(labels)))


def locate(settings: DatasetSettings) -> Path | None:
    """Folder from which the training images would be read; None where they need no files.

    Raises `UnknownDataset` or `DatasetNotFound`.
    """
    _classes(settings.name)
    if settings.name == "digits":
        return None
    return _sources(settings, "train")[0].parent


def _classes(name: str) -> int:
    if name == "digits":
        return _DIGITS_CLASSES
    if name not in _CIFAR:
        raise UnknownDataset(name, dataset_names())
    return _CIFAR[name].classes


def _read(settings: DatasetSettings, split: str) -> Arrays:
    classes = _classes(settings.name)
    if settings.name == "digits":
        return _digits(split)
    layout = _CIFAR[settings.name]
    sources = _sources(settings, split)

    def decode() -> Arrays:
        if sources[0].suffix == ".parquet":
            arrays = read_parquet(sources, layout.parquet_labels, layout.size)
        else:
            arrays = read_batches(sources, layout.batch_labels, layout.size)
        labels = arrays[1]
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
            raise DatasetCorrupt(
                sources[0], f"labels must be in [0, {classes}), and some must be there"
            )
        return arrays

    return decoded(f"{settings.name}-{split}", sources, settings.cache or default_cache(), decode)


def _sources(settings: DatasetSettings, split: str) -> list[Path]:
    layout = _CIFAR[settings.name]
    looked_in: list[Path] = []
    for root in _roots(settings.location):
        for folder in (root / settings.name, root):
            looked_in.append(folder)
            for shards in (folder, folder / "data"):
                parquet = sorted(shards.glob(f"{split}-*.parquet"))
                if parquet:
                    return parquet
            batches = [folder / layout.batches_folder / name for name in layout.batches[split]]
            if all(path.is_file() for path in batches):
                return batches
    wanted = (f"{split}-*.parquet", f"{layout.batches_folder}/")
    raise DatasetNotFound(settings.name, looked_in, wanted)


def _roots(location: Path | None) -> Sequence[Path]:
    if location is not None:
        return [location.absolute()]
    chosen = os.environ.get("LEYLINE_DATA")
    if chosen:
        return [Path(chosen).absolute()]
    checkout = Path(__file__).parents[3]
    projects = [Path.cwd(), *([checkout] if (checkout / "pyproject.toml").is_file() else [])]
    return [project.absolute().parent / "shared" / "data" for project in dict.fromkeys(projects)]


def _digits(split: str) -> Arrays:
    from sklearn.datasets import load_digits  # 1 s to import, and needed for digits alone

    bunch = load_digits()
    images = np.round(bunch.images[:, None] * (255.0 / 16.0)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    test, train = stratified_split(labels, _DIGITS_TEST_IMAGES, seed=0)
    kept = test if split == "test" else train
    return images[kept], labels[kept]


def _take(images: np.ndarray, labels: np.ndarray, indices: Indices) -> ImageSplit:
    return ImageSplit(
        torch.from_numpy(np.ascontiguousarray(images[indices])),
        torch.from_numpy(np.ascontiguousarray(labels[indices])),
    )
