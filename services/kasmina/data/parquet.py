"""Images from the Hugging Face Hub's parquet layout: columns of encoded images and of labels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from kasmina.data.errors import DatasetCorrupt

IMAGE_COLUMNS = ("img", "image")


def read_parquet(
    shards: Sequence[Path], label_columns: Sequence[str], size: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (n, 3, height, width) and labels (n,) of all shards, in order.

    `label_columns` are the names that the labels may have, the first one present is taken; `size`
    is the height and width that every image must have. Raises `DatasetCorrupt`.
    """
    parts = [_read_shard(shard, label_columns, size) for shard in shards]
    return (
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
    )


def _read_shard(
    path: Path, label_columns: Sequence[str], size: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        file = pq.ParquetFile(path)
        image_column = _column(path, file, IMAGE_COLUMNS)
        label_column = _column(path, file, label_columns)
        table = file.read(columns=[image_column, label_column])
        encoded = pc.struct_field(table[image_column], "bytes").to_pylist()
        labels = table[label_column].to_numpy().astype(np.int64)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetCorrupt(path, f"not a readable parquet file of images ({error})") from error
    images = np.empty((len(encoded), 3, *size), dtype=np.uint8)
    for row, data in enumerate(encoded):
        images[row] = _decode(path, row, data, size)
    return images, labels


def _column(path: Path, file: pq.ParquetFile, names: Sequence[str]) -> str:
    present = file.schema_arrow.names
    for name in names:
        if name in present:
            return name
    raise DatasetCorrupt(
        path, f"no column {' or '.join(names)}; its columns are {', '.join(present)}"
    )


def _decode(
    path: Path, row: int, data: bytes | None, size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    if data is None:
        raise DatasetCorrupt(path, f"row {row} has no image")
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DatasetCorrupt(path, f"row {row} is not an image ({error})") from error
    if pixels.shape[:2] != size:
        found = "x".join(map(str, pixels.shape[:2]))
        raise DatasetCorrupt(path, f"row {row} is {found}, not {size[0]}x{size[1]}")
    return pixels.transpose(2, 0, 1)
