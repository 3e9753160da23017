"""Downloads that go on where they broke, and leave a whole file or none."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import AsyncIterable, Callable
from pathlib import Path
from typing import Protocol

from leyline.client.patience import Patience
from leyline.error import ServiceError

OnProgress = Callable[[int, int], None]
"""Told how many bytes are there, and of how many."""

_NAMED = 16  # hexadecimal digits of the SHA-256 in the name of what is not yet whole


class Piece(Protocol):
    """A part of a file, with what is known of the whole."""

    @property
    def offset(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def total_size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class DownloadCorrupt(Exception):
    """What came is not what the service has."""

    def __init__(self, path: Path, expected: str) -> None:
        super().__init__(
            f"{path} was not written: twice, what came did not have the SHA-256 {expected} that "
            f"the service names; download it again, and if that does not help, look at the "
            f"service's disk"
        )
        self.path = path


class _Partial:
    """What is there of a file, beside its place. Its name tells of which content it is a part."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        left = [other for other in path.parent.iterdir() if self._is_mine(other)]
        self._file: Path | None = left[0] if left else None

    def _is_mine(self, other: Path) -> bool:
        name = other.name.removeprefix(f".{self._path.name}.").removesuffix(".partial")
        return other.name == self._named(name).name and len(name) == _NAMED

    def _named(self, name: str) -> Path:
        return self._path.with_name(f".{self._path.name}.{name}.partial")

    @property
    def size(self) -> int:
        return self._file.stat().st_size if self._file is not None else 0

    def fits(self, piece: Piece) -> bool:
        """Whether a piece goes on where the file ends, and belongs to the same content."""
        name = self._named(piece.sha256[:_NAMED])
        return piece.offset == self.size and self._file in (None, name)

    def append(self, piece: Piece) -> None:
        self._file = self._named(piece.sha256[:_NAMED])
        with self._file.open("ab") as file:
            file.write(piece.data)

    def finish(self, sha256: str) -> bool:
        """Put the file into its place, if it has this SHA-256; what has another is dropped."""
        assert self._file is not None
        with self._file.open("rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest() == sha256
            if sound:
                os.fsync(file.fileno())
        if not sound:
            self.drop()
            return False
        self._file.replace(self._path)
        return True

    def drop(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file = None


async def download(
    call: Callable[[int], AsyncIterable[Piece]],
    path: Path,
    patience: Patience,
    on_progress: OnProgress | None = None,
) -> str:
    """Fetch a file and return its SHA-256; see `Trainer.download`.

    Args:
        call: streams the file from an offset on; at the very end it sends one empty piece, which
            still tells size and SHA-256.
    """
    partial = _Partial(path)
    second_try = False
    while True:
        patience.calls()
        try:
            whole = await _fetch(call(partial.size), partial, patience, on_progress)
        except ServiceError as error:
            # The service has another file now, which is shorter than what is here.
            if error.code == "INVALID_ARGUMENT" and partial.size:
                partial.drop()
                continue
            await patience.after(error)
            continue
        if whole is None:
            partial.drop()
        elif partial.finish(whole):
            return whole
        elif second_try:
            raise DownloadCorrupt(path, whole)
        else:
            second_try = True


async def _fetch(
    pieces: AsyncIterable[Piece],
    partial: _Partial,
    patience: Patience,
    on_progress: OnProgress | None,
) -> str | None:
    """Append what comes; return the SHA-256 of the whole, or None where it is another file's.

    Raises:
        ServiceError: the stream broke, or ended too early.
    """
    async for piece in pieces:
        if not partial.fits(piece):
            if partial.size == 0:
                raise ServiceError("DATA_LOSS", "", "the service sent another part than asked for")
            return None
        partial.append(piece)
        patience.hears()
        if on_progress is not None:
            on_progress(partial.size, piece.total_size)
        if partial.size >= piece.total_size:
            return piece.sha256
    raise ServiceError("UNAVAILABLE", "", "the stream ended before the file did")
