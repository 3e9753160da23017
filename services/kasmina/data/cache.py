"""Decoded copies of a dataset, so that 50,000 PNGs are decoded once a machine and not once a run.

A copy is named after the SHA-256 of the files that it was decoded from, and carries one of its own
content: a changed source is decoded afresh, and a damaged copy is replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

_LAYOUT = 1
"""Changes when the same source would be decoded differently."""

_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """$LEYLINE_CACHE, or leyline/ in the user's cache folder."""
    chosen = os.environ.get("LEYLINE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leyline"


def decoded(
    name: str, sources: Sequence[Path], cache: Path, decode: Callable[[], Arrays]
) -> Arrays:
    """What `decode` makes of `sources`, from the cache where it holds a sound copy.

    Else it is decoded and put there. A cache that cannot be written costs time at the next start
    and nothing else; it is logged.
    """
    path = cache / f"{name}-{_digest_of_files(sources)[:24]}.safetensors"
    copy = _read(path)
    if copy is not None:
        return copy
    images, labels = decode()
    try:
        _write(path, images, labels)
    except OSError as error:
        _log.warning("decoded dataset not cached", extra={"path": str(path), "error": str(error)})
    return images, labels


def _read(path: Path) -> Arrays | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
            digest = json.loads((file.metadata() or {})["leyline"])["sha256"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        _log.warning("damaged cache file", extra={"path": str(path), "error": str(error)})
        return None
    if digest != _digest_of_arrays(images, labels):
        _log.warning("damaged cache file", extra={"path": str(path), "error": "wrong sha256"})
        return None
    return images, labels


def _write(path: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"leyline": json.dumps({"sha256": _digest_of_arrays(images, labels)})}
    data = save(
        {"images": np.ascontiguousarray(images), "labels": np.ascontiguousarray(labels)}, metadata
    )
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def _digest_of_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256(str(_LAYOUT).encode())
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _digest_of_arrays(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> str:
    digest = hashlib.sha256(f"{images.shape}{labels.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
