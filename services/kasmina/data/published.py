"""The published datasets that are known by name: CIFAR-10 and CIFAR-100 (Krizhevsky 2009),
Fashion-MNIST (Xiao et al. 2017). Each as torchvision or as the Hugging Face Hub lays it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kasmina.data.cache import decoded
from kasmina.data.encoded import Form, decode, require_room, resized
from kasmina.data.errors import DatasetCorrupt, DatasetNotFound
from kasmina.data.parquet import shards_of_images
from kasmina.data.places import data_roots, parquet_shards
from kasmina.data.settings import DatasetSettings
from kasmina.data.source import ImageSource, Split
from kasmina.data.torchvision_files import Arrays, read_batches, read_idx


@dataclass(frozen=True)
class Published:
    """A published dataset: where its files are, what is in them, and how they are read."""

    size: tuple[int, int]
    channels: int
    classes: int
    parquet_labels: tuple[str, ...]
    """Names that the column of labels may have."""
    folder: str
    """Torchvision's."""
    files: Mapping[Split, tuple[str, ...]]
    """In that folder."""
    read_files: Callable[[Sequence[Path], tuple[int, int]], Arrays]
    class_names: tuple[str, ...] = ()
    """Where no file says them."""
    md5: Mapping[str, str] = field(default_factory=dict)
    """By file: what was published, as torchvision verifies it after a download."""

    def read(self, settings: DatasetSettings, split: Split) -> ImageSource:
        """One split, from the cache where it holds a copy.

        Raises `DatasetNotFound`, `DatasetCorrupt` or `DatasetTooLarge`.
        """
        sources = self.sources(settings, split)
        form = Form(self.size, self.channels, self.classes, self.class_names, augmented=True)

        def make() -> ImageSource:
            if sources[0].suffix == ".parquet":
                return decode(shards_of_images(sources, self.parquet_labels), form, settings)
            return self._from_files(sources, settings)

        return decoded(f"{settings.name}-{split}", sources, form, settings, make)

    def sources(self, settings: DatasetSettings, split: Split) -> list[Path]:
        """Files of one split. Raises `DatasetNotFound`."""
        looked_in: list[Path] = []
        for root in data_roots(settings.location):
            for folder in (root / settings.name, root):
                looked_in.append(folder)
                shards = parquet_shards(folder, split)
                if shards:
                    return shards
                files = [folder / self.folder / name for name in self.files[split]]
                if all(path.is_file() for path in files):
                    return files
        raise DatasetNotFound(
            settings.name,
            looked_in,
            (f"{split}-*.parquet", f"{self.folder}/{self.files[split][0]}"),
        )

    def _from_files(self, sources: Sequence[Path], settings: DatasetSettings) -> ImageSource:
        images, labels = self.read_files(sources, self.size)
        for path in sources:
            self._verify(path)
        side = settings.image_size
        if side is not None:
            require_room(settings, len(images) * self.channels * side * side)
            images = resized(images, side)
        try:
            return ImageSource(images, labels, self.classes, True, self.class_names)
        except ValueError as error:
            raise DatasetCorrupt(sources[0], str(error)) from error

    def _verify(self, path: Path) -> None:
        published = self.md5.get(path.name)
        if published is None:
            return
        with path.open("rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
        if found.hexdigest() != published:
            why = f"its MD5 is {found.hexdigest()}, that of the published file is {published}"
            raise DatasetCorrupt(path, why)


PUBLISHED: Mapping[str, Published] = {
    "cifar10": Published(
        size=(32, 32),
        channels=3,
        classes=10,
        parquet_labels=("label",),
        folder="cifar-10-batches-py",
        files={
            "train": tuple(f"data_batch_{index}" for index in range(1, 6)),
            "test": ("test_batch",),
        },
        read_files=lambda files, size: read_batches(files, "labels", size),
        md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
    "cifar100": Published(
        size=(32, 32),
        channels=3,
        classes=100,
        parquet_labels=("fine_label", "label"),
        folder="cifar-100-python",
        files={"train": ("train",), "test": ("test",)},
        read_files=lambda files, size: read_batches(files, "fine_labels", size),
        md5={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        },
    ),
    "fashion-mnist": Published(
        size=(28, 28),
        channels=1,
        classes=10,
        parquet_labels=("label",),
        folder="FashionMNIST/raw",
        files={
            "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        },
        read_files=read_idx,
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
}
