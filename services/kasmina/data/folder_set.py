"""Datasets that nobody registered: a folder of the dataset's name among the data, with parquet
shards as the Hugging Face Hub has them, or with a folder of images for each class.
"""

from __future__ import annotations

from pathlib import Path

from kasmina.data.cache import decoded
from kasmina.data.encoded import Form, decode
from kasmina.data.errors import DatasetNotFound
from kasmina.data.image_folder import ImageFolder
from kasmina.data.parquet import shards_of_images
from kasmina.data.places import data_roots, is_folder_name, parquet_shards
from kasmina.data.settings import DatasetSettings
from kasmina.data.source import ImageSource, Split


def folder_set_names(location: Path | None) -> tuple[str, ...]:
    """Names of the folders that may be datasets: there are shards in them, or folders."""
    return tuple(
        folder.name
        for root in data_roots(location)
        if root.is_dir()
        for folder in sorted(root.iterdir())
        if is_folder_name(folder.name) and folder.is_dir() and _may_hold_images(folder)
    )


def find_folder_set(settings: DatasetSettings) -> Path | None:
    """The dataset's folder; None where there is none of that name.

    Raises `DatasetNotFound` where no training images are in it.
    """
    if not is_folder_name(settings.name):
        return None
    for root in data_roots(settings.location):
        folder = root / settings.name
        if folder.is_dir():
            if not parquet_shards(folder, "train") and not ImageFolder(folder, "train").files:
                raise _not_found(settings, folder, "train")
            return folder
    return None


def read_folder_set(folder: Path, settings: DatasetSettings, split: Split) -> ImageSource:
    """One split, from the cache where it holds a copy.

    What the training images are decides about those of the test: size, channels, classes. Raises
    `DatasetNotFound`, `DatasetCorrupt` or `DatasetTooLarge`.
    """
    form = Form() if split == "train" else Form.of(read_folder_set(folder, settings, "train"))
    title = f"{settings.name}-{split}"
    shards = parquet_shards(folder, split)
    if shards:
        return decoded(
            title, shards, form, settings, lambda: decode(shards_of_images(shards), form, settings)
        )
    images = ImageFolder(folder, split)
    if not images.files:
        raise _not_found(settings, folder, split)
    return decoded(
        title,
        images.files,
        form,
        settings,
        lambda: decode(images.split(), form, settings),
        labels=(*images.class_names, *images.labels),
    )


def _may_hold_images(folder: Path) -> bool:
    return bool(parquet_shards(folder, "train")) or any(path.is_dir() for path in folder.iterdir())


def _not_found(settings: DatasetSettings, folder: Path, split: Split) -> DatasetNotFound:
    wanted = (f"{split}-*.parquet", f"{split}/<class>/ with images")
    return DatasetNotFound(settings.name, [folder], wanted)
