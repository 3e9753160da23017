"""Decoding: from PNG, JPEG and the like to one array of bytes.

Grey images have one channel, colour images three; where a split has both, all have three. Palettes
count as colour, and transparency is dropped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from kasmina.data.errors import (
    DatasetCorrupt,
    DatasetTooLarge,
    DatasetUnsuitable,
    ImageSizesDiffer,
)
from kasmina.data.settings import DatasetSettings
from kasmina.data.source import ImageSource

_GREY = frozenset({"1", "L", "LA", "La"})
_DEEP = ("I", "F")
"""Modes, or beginnings of modes, of more than 8 bits a pixel."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Form:
    """What is known of a split's images before they are decoded. None: they decide themselves."""

    size: Size | None = None
    """Height and width."""
    channels: int | None = None
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    augmented: bool | None = None
    """None: colour images are, grey ones (glyphs and scans, often) are not."""

    @classmethod
    def of(cls, source: ImageSource) -> Form:
        """That of a split that has been decoded."""
        _, channels, height, width = source.images.shape
        size = (height, width)
        return cls(size, channels, source.classes, source.class_names, source.augmented)


@dataclass(frozen=True)
class EncodedImage:
    """One image as it is stored."""

    path: Path
    row: int | None
    """In a parquet shard; None where the file is the image."""
    data: bytes | None

    def refused(self, why: str, kind: type[DatasetCorrupt] = DatasetCorrupt) -> DatasetCorrupt:
        """The error that says which image it is about."""
        return kind(self.path, f"{'it' if self.row is None else f'row {self.row}'} {why}")


@dataclass(frozen=True)
class EncodedSplit:
    """A split as it is stored."""

    images: Callable[[], Iterator[EncodedImage]]
    labels: npt.NDArray[np.int64] | Sequence[str]
    """One for each image: numbers, or names of classes."""
    class_names: tuple[str, ...]
    """By label, where the files say; names that are labels are numbered in their order."""
    path: Path
    """What to name when the labels are wrong."""


def decode(split: EncodedSplit, form: Form, settings: DatasetSettings) -> ImageSource:
    """Decodes a split. Raises `DatasetCorrupt` or `DatasetTooLarge`."""
    names = form.class_names or split.class_names
    labels, names = _numbered(split, names)
    classes = form.classes or len(names) or int(labels.max(initial=-1)) + 1
    pixels = _Decoder(form, settings).decode(split.images, len(labels))
    try:
        return ImageSource(
            images=pixels.transpose(0, 3, 1, 2),
            labels=labels,
            classes=classes,
            augmented=pixels.shape[3] == 3 if form.augmented is None else form.augmented,
            class_names=names if len(names) == classes else (),
        )
    except ValueError as error:
        raise DatasetCorrupt(split.path, str(error)) from error


def resized(images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Images (n, channels, height, width) as squares: bilinear, antialiased where they shrink."""
    count, channels, *_ = images.shape
    squares = np.empty((count, side, side, channels), dtype=np.uint8)
    for image, square in zip(images, squares, strict=True):
        for channel, plane in enumerate(image):
            small = Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR)
            square[:, :, channel] = np.asarray(small)
    return squares.transpose(0, 3, 1, 2)


def require_room(settings: DatasetSettings, size: int) -> None:
    """Raises `DatasetTooLarge` where images of `size` bytes are more than the settings allow."""
    if size > settings.max_bytes:
        raise DatasetTooLarge(settings.name, size, settings.max_bytes)


class _ColourAmongGrey(Exception):
    """A split that began with grey images has one in colour."""


class _Decoder:
    def __init__(self, form: Form, settings: DatasetSettings) -> None:
        side = settings.image_size
        self._size = form.size if side is None else (side, side)
        self._resizes = side is not None
        self._channels = form.channels
        self._settings = settings

    def decode(
        self, images: Callable[[], Iterator[EncodedImage]], count: int
    ) -> npt.NDArray[np.uint8]:
        """All pixels, (count, height, width, channels)."""
        try:
            return self._decode_as(images(), count, self._channels)
        except _ColourAmongGrey:
            return self._decode_as(images(), count, 3)

    def _decode_as(
        self, images: Iterator[EncodedImage], count: int, channels: int | None
    ) -> npt.NDArray[np.uint8]:
        decided = channels is not None
        pixels: npt.NDArray[np.uint8] | None = None
        for place, encoded in enumerate(images):
            with _opened(encoded) as image:
                grey = image.mode in _GREY
                if channels is None:
                    channels = 1 if grey else 3
                if channels == 1 and not grey and not decided:
                    raise _ColourAmongGrey
                if pixels is None:
                    pixels = self._room(image, count, channels)
                pixels[place] = self._decoded(encoded, image, pixels.shape[1:3], channels)
        return np.empty((0, 1, 1, channels or 3), dtype=np.uint8) if pixels is None else pixels

    def _room(self, image: Image.Image, count: int, channels: int) -> npt.NDArray[np.uint8]:
        """An array for all images, once the first one's header has been read."""
        height, width = self._size or (image.height, image.width)
        require_room(self._settings, count * height * width * channels)
        return np.empty((count, height, width, channels), dtype=np.uint8)

    def _decoded(
        self, encoded: EncodedImage, image: Image.Image, size: Size, channels: int
    ) -> npt.NDArray[np.uint8]:
        if (image.height, image.width) != size and not self._resizes:
            why = f"is {image.height}x{image.width}, not {size[0]}x{size[1]}"
            raise encoded.refused(why, ImageSizesDiffer)
        try:
            whole = image.convert("L" if channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise encoded.refused(f"is not an image ({error})") from error
        if (whole.height, whole.width) != size:
            whole = whole.resize(size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(whole, dtype=np.uint8).reshape(*size, channels)


def _opened(encoded: EncodedImage) -> Image.Image:
    """The image with its header read."""
    if encoded.data is None:
        raise encoded.refused("has no image")
    try:
        image = Image.open(io.BytesIO(encoded.data))
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        raise encoded.refused(f"is not an image ({error})") from error
    if image.mode.startswith(_DEEP):
        raise encoded.refused("has more than 8 bits a pixel and channel", DatasetUnsuitable)
    return image


def _numbered(
    split: EncodedSplit, names: tuple[str, ...]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Labels as numbers, and the names behind them."""
    if isinstance(split.labels, np.ndarray):
        return split.labels, names
    names = names or tuple(sorted(set(split.labels)))
    numbers = {name: number for number, name in enumerate(names)}
    unknown = sorted(set(split.labels) - set(numbers))
    if unknown:
        raise DatasetUnsuitable(
            split.path, f"its class {unknown[0]!r} is none of the training images' classes"
        )
    return np.array([numbers[name] for name in split.labels], dtype=np.int64), names
