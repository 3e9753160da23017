"""A backup that comes as a stream, written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from leyline.error import ServiceError
from leyline.v1.experience_pb2 import BackUpResponse

OnProgress = Callable[[int, int], None]
"""Told how many bytes are there, and of how many."""


async def save(
    call: Callable[[], AsyncIterable[BackUpResponse]],
    path: Path,
    *,
    overwrite: bool,
    on_progress: OnProgress | None,
) -> str:
    """Write a copy that comes in pieces into a file; its SHA-256. See `Experience.back_up`."""
    with _part_of(path, overwrite) as file:
        digest, sha256, size = hashlib.sha256(), "", 0
        async for piece in call():
            if piece.offset != file.tell():
                raise _broken(f"a piece at {piece.offset} came after {file.tell()} bytes")
            file.write(piece.data)
            digest.update(piece.data)
            sha256, size = piece.sha256, piece.total_size
            if on_progress is not None:
                on_progress(file.tell(), size)
        if not sha256 or file.tell() != size:
            raise _broken(f"it ended after {file.tell()} of {size} bytes")
        if digest.hexdigest() != sha256:
            raise _broken(f"what came does not have the SHA-256 {sha256} that the service names")
    return sha256


@contextmanager
def _part_of(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """A file beside ``path`` that takes its place if the block ends well, and else goes."""
    part = path.with_name(f"{path.name}.part")
    _refuse_to_overwrite(path, overwrite)
    # Not emptied before it is ours: somebody else's backup may be coming into it.
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another backup may have come to its end since it was opened: then this is the whole.
            mine = part.exists() and os.path.samestat(part.stat(), os.fstat(file.fileno()))
        except BlockingIOError:
            mine = False
        if not mine:
            raise FileExistsError(f"another backup is being written to {path}")
        try:
            file.seek(file.truncate(0))
            yield file
            file.flush()
            os.fsync(file.fileno())
            _refuse_to_overwrite(path, overwrite)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    _sync(path.parent)


def _refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not overwrite:
        raise FileExistsError(f"there is a file at {path} already: --force (overwrite) replaces it")


def _sync(directory: Path) -> None:
    """Let the new name outlive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _broken(problem: str) -> ServiceError:
    return ServiceError("DATA_LOSS", "", f"the backup is broken and was not kept: {problem}")
