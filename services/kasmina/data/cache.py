"""Decoded copies of a dataset, so that 50,000 PNGs are decoded once a machine and not once a run.

A copy is named after the SHA-256 of the files that it was decoded from, and of what was asked for;
it carries one of its own content: a changed source is decoded afresh, and a damaged copy is
replaced. Both are verified once, and again when a file looks touched. Two processes that decode at
once each put a whole copy there, and it is the same one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kasmina.checkpoint import write_atomically
from kasmina.data.encoded import Form
from kasmina.data.errors import DatasetCorrupt
from kasmina.data.settings import DatasetSettings
from kasmina.data.source import ImageSource
from kasmina.data.stamps import Stamp

_LAYOUT = 2
"""Changes when the same source would be decoded differently."""

_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """$LEYLINE_CACHE, or leyline/ in the user's cache folder."""
    chosen = os.environ.get("LEYLINE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leyline"


def decoded(
    title: str,
    sources: Sequence[Path],
    form: Form,
    settings: DatasetSettings,
    make: Callable[[], ImageSource],
    labels: Sequence[str] = (),
) -> ImageSource:
    """What `make` decodes from `sources`, from the cache where it holds a sound copy.

    Else it is decoded and put there, under a name that begins with `title`. `labels` are those that
    the names of the files give. A cache that cannot be written costs time at the next start and
    nothing else; it is logged. The images of a copy are mapped, not read: they belong to whoever
    copies them before the file is changed.
    """
    cache = settings.cache or default_cache()
    stamps = cache / "stamps"
    asked = f"{_LAYOUT}\n{form}\n{settings.image_size}\n{'/'.join(labels)}\n"
    key = hashlib.sha256((asked + _content(sources, stamps)).encode()).hexdigest()
    path = cache / f"{title}-{key[:24]}.safetensors"
    copy = _read(path, stamps)
    if copy is not None:
        return copy
    source = make()
    try:
        _write(path, source)
    except OSError as error:
        _log.warning("decoded dataset not cached", extra={"path": str(path), "error": str(error)})
    return source


def _content(sources: Sequence[Path], stamps: Path) -> str:
    """SHA-256 of the content of all files in their order."""
    path = sources[0]
    try:
        stamp = Stamp(sources, stamps)
        known = stamp.finding()
        if known is not None:
            return known
        digest = hashlib.sha256()
        for path in sources:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise DatasetCorrupt(path, f"it cannot be read ({error})") from error
    stamp.record(digest.hexdigest())
    return digest.hexdigest()


def _read(path: Path, stamps: Path) -> ImageSource | None:
    if not path.exists():
        return None
    try:
        stamp = Stamp([path], stamps)
        with safe_open(path, framework="pt") as file:  # maps the file, where "numpy" reads it
            pixels = file.get_tensor("pixels").numpy()
            labels = file.get_tensor("labels").numpy()
            facts = json.loads((file.metadata() or {})["leyline"])
        if stamp.finding() != facts["sha256"]:
            if facts["sha256"] != _digest(pixels, labels):
                raise ValueError("wrong sha256")
            stamp.record(facts["sha256"])
        images = pixels.transpose(0, 3, 1, 2)
        names = tuple(facts["class_names"])
        return ImageSource(images, labels, facts["classes"], facts["augmented"], names)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        _log.warning("damaged cache file", extra={"path": str(path), "error": str(error)})
        return None


def _write(path: Path, source: ImageSource) -> None:
    pixels = np.ascontiguousarray(source.images.transpose(0, 2, 3, 1))
    labels = np.ascontiguousarray(source.labels)
    facts = {
        "sha256": _digest(pixels, labels),
        "classes": source.classes,
        "augmented": source.augmented,
        "class_names": source.class_names,
    }
    write_atomically(
        path, save({"pixels": pixels, "labels": labels}, metadata={"leyline": json.dumps(facts)})
    )


def _digest(pixels: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{pixels.shape}{labels.shape}".encode())
    digest.update(pixels.data)
    digest.update(labels.data)
    return digest.hexdigest()
