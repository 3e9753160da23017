"""Small files of images, as they lie on people's disks."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from kasmina.data.images import Dataset, ImageSplit

Pixels = npt.NDArray[np.uint8]


def pixels(count: int, seed: int = 0, side: int = 32) -> Pixels:
    """(count, side, side, 3)"""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def encoded(image: Pixels, mode: str | None = None, kind: str = "PNG") -> bytes:
    """A picture (height, width, 3) or (height, width), converted to a mode."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    (picture if mode is None else picture.convert(mode)).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(
    path: Path,
    images: Sequence[object],
    labels: Sequence[object],
    *,
    image: str = "img",
    label: str = "fine_label",
    names: Sequence[str] = (),
    plain: bool = False,
) -> Path:
    """A shard as the Hub has them; `plain` puts bytes in the place of structs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = list(images) if plain else [{"bytes": data, "path": None} for data in images]
    table = pa.table({image: cells, label: list(labels)})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        facts = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": facts})
    pq.write_table(table, path)
    return path


def write_batch(path: Path, images: Pixels, labels: list[int], label_key: str) -> None:
    """A batch as the CIFAR authors pickle it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    path.write_bytes(pickle.dumps({"data": rows, label_key: labels, "filenames": []}, protocol=2))


def write_idx(path: Path, values: Pixels) -> Path:
    """An idx file of bytes: two zeros, 8 for bytes, the dimensions big-endian, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())
    return path


def write_images(folder: Path, images: Pixels, first: int = 0) -> list[Path]:
    """PNG files of one class, numbered."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04}.png" for number in range(first, first + len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(encoded(image))
    return paths


def all_images(dataset: Dataset) -> list[bytes]:
    """Every image that is trained or validated on, sorted."""
    both = torch.cat([dataset.train.images, dataset.validation.images])
    return sorted(image.contiguous().numpy().tobytes() for image in both)


def label_of(split: ImageSplit, image: Pixels) -> int:
    """The label that an image (height, width, channels) has in a split that holds it."""
    matches = (split.images.permute(0, 2, 3, 1) == torch.from_numpy(image)).flatten(1).all(1)
    (place,) = matches.nonzero().flatten().tolist()
    return int(split.labels[place])
