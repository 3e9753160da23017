"""Images from the Hugging Face Hub's parquet layout: columns of encoded images and of labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kasmina.data.encoded import EncodedImage, EncodedSplit
from kasmina.data.errors import DatasetCorrupt, DatasetUnsuitable

IMAGE_COLUMNS = ("img", "image", "images")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
_ROWS = 1024
"""Encoded images in memory at a time."""

_UNREADABLE = (pa.ArrowException, OSError, KeyError, TypeError, ValueError)


def shards_of_images(
    paths: Sequence[Path],
    label_columns: Sequence[str] = LABEL_COLUMNS,
    class_names: tuple[str, ...] | None = None,
) -> EncodedSplit:
    """The split that shards hold together, in their order.

    `label_columns` are the names that the labels may have; the first one present is taken.
    `class_names` are those of the labels; None: as the Hub's metadata in the first shard has them.
    The image column holds structs with a field `bytes`, or bytes. Raises `DatasetCorrupt`.
    """
    shards = [_Shard(path, label_columns) for path in paths]
    labels = [shard.labels() for shard in shards]
    if all(isinstance(part, np.ndarray) for part in labels):
        joined: npt.NDArray[np.int64] | list[str] = np.concatenate(labels)
    else:
        joined = [str(label) for part in labels for label in part]
    return EncodedSplit(
        images=lambda: (image for shard in shards for image in shard.images()),
        labels=joined,
        class_names=shards[0].class_names() if class_names is None else class_names,
        path=paths[0],
    )


class _Shard:
    def __init__(self, path: Path, label_columns: Sequence[str]) -> None:
        self._path = path
        try:
            schema = pq.read_schema(path)
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        self._metadata: dict[bytes, bytes] = schema.metadata or {}
        self._image_column = self._column(schema.names, IMAGE_COLUMNS)
        self._label_column = self._column(schema.names, label_columns)

    def labels(self) -> npt.NDArray[np.int64] | list[str]:
        """Numbers or names, one for each row."""
        try:
            with pq.ParquetFile(self._path) as file:
                column = file.read(columns=[self._label_column])[0]
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        if column.null_count:
            raise DatasetCorrupt(
                self._path, f"column {self._label_column} has rows without a label"
            )
        if pa.types.is_integer(column.type):
            numbers: npt.NDArray[np.int64] = column.to_numpy().astype(np.int64)
            return numbers
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            names: list[str] = column.to_pylist()
            return names
        raise DatasetUnsuitable(
            self._path,
            f"column {self._label_column} holds {column.type}; labels are whole numbers or strings",
        )

    def images(self) -> Iterator[EncodedImage]:
        """All rows, a block of them in memory at a time."""
        row = 0
        try:
            with pq.ParquetFile(self._path) as file:
                for block in file.iter_batches(_ROWS, columns=[self._image_column]):
                    for data in self._encoded(block.column(0)):
                        yield EncodedImage(self._path, row, data)
                        row += 1
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def class_names(self) -> tuple[str, ...]:
        """Names in the metadata that the Hub's library writes; none where there are none."""
        try:
            features = json.loads(self._metadata[b"huggingface"])["info"]["features"]
            return tuple(str(name) for name in features[self._label_column]["names"])
        except (KeyError, TypeError, ValueError):
            return ()

    def _encoded(self, column: pa.Array) -> list[bytes | None]:
        kind = column.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            column = pc.struct_field(column, "bytes")
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            why = f"column {self._image_column} holds {kind}; images are bytes or a struct of them"
            raise DatasetUnsuitable(self._path, why)
        cells: list[bytes | None] = column.to_pylist()
        return cells

    def _column(self, present: Sequence[str], names: Sequence[str]) -> str:
        for name in names:
            if name in present:
                return name
        raise DatasetCorrupt(
            self._path, f"no column {' or '.join(names)}; its columns are {', '.join(present)}"
        )

    def _unreadable(self, error: Exception) -> DatasetCorrupt:
        return DatasetCorrupt(self._path, f"not a readable parquet file of images ({error})")
