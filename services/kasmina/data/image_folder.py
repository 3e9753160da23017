"""Images in a folder for each class.

Either `train/<class>/` and `test/<class>/`, or `<class>/` alone. In the second case the test split
is carved out by the SHA-256 of `<class>/<file name>`, about a tenth of the images: adding images
moves no other from one split to the other, and a copy elsewhere is split the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from kasmina.data.encoded import EncodedImage, EncodedSplit
from kasmina.data.errors import DatasetCorrupt
from kasmina.data.source import Split

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
_TEST_SHARE = 10
"""One image of so many is for the test."""


class ImageFolder:
    """A folder of images. Files of other kinds, and names that begin with a dot, are left alone."""

    def __init__(self, folder: Path, split: Split) -> None:
        parted = (folder / "train").is_dir()
        found = _files_of_classes(folder / "train" if parted else folder)
        self.class_names = tuple(sorted({path.parent.name for path in found}))
        """Of the classes that the training images have; where the test split is carved out, of
        all."""
        if parted:
            self.files = found if split == "train" else _files_of_classes(folder / split)
        else:
            self.files = [path for path in found if _is_for_the_test(path) == (split == "test")]
        self.labels = [path.parent.name for path in self.files]
        """Name of the class of each file."""
        self._folder = folder

    def split(self) -> EncodedSplit:
        """The images and their classes."""
        return EncodedSplit(self._images, self.labels, self.class_names, self._folder)

    def _images(self) -> Iterator[EncodedImage]:
        for path in self.files:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DatasetCorrupt(path, f"it cannot be read ({error})") from error
            yield EncodedImage(path, None, data)


def _files_of_classes(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.glob("[!.]*/[!.]*")
        if path.suffix.lower() in _ENDINGS and path.is_file()
    )


def _is_for_the_test(path: Path) -> bool:
    name = f"{path.parent.name}/{path.name}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _TEST_SHARE == 0
