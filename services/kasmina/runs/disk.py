"""Room on the disk under the state folder: known before a step begins, and kept in reserve to say
that there is none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

RESERVE_BYTES = 1 << 20
"""Enough for the journal to write down a pause: some pages of its log and of its index."""

_MEBIBYTE = 1 << 20


class DiskFull(Exception):
    """There is not enough room on a disk.

    Attributes:
        path: what could not be written, or the folder that has too little room.
        needed: bytes that must be free.
        free: bytes that are.
    """

    def __init__(self, path: Path, needed: int, free: int) -> None:
        super().__init__(
            f"no room on the disk of {path}: {free / _MEBIBYTE:.1f} MiB free,"
            f" {needed / _MEBIBYTE:.1f} MiB needed"
        )
        self.path = path
        self.needed = needed
        self.free = free


class Disk:
    """The disk of one folder."""

    def __init__(self, folder: Path, reserve: Path, min_free_bytes: int) -> None:
        self._folder = folder
        self._reserve = reserve
        self._min_free_bytes = min_free_bytes

    def require_room(self) -> None:
        """Raises `DiskFull` unless the room that must be left is there, and the reserve is or can
        be laid in.
        """
        free = free_bytes(self._folder)
        if free < self._min_free_bytes:
            raise DiskFull(self._folder, self._min_free_bytes, free)
        self._lay_in_reserve()

    def give_up_reserve(self) -> None:
        """Frees the reserve, so that a few small things can still be written."""
        self._reserve.unlink(missing_ok=True)

    def _lay_in_reserve(self) -> None:
        if self._reserve.exists() and self._reserve.stat().st_size >= RESERVE_BYTES:
            return
        try:
            with writing(self._reserve, RESERVE_BYTES), self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except DiskFull:
            self.give_up_reserve()
            raise


def free_bytes(path: Path) -> int:
    """Bytes that may still be written to the disk of `path`."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


@contextlib.contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Whatever is written inside raises `DiskFull` where the disk has no room for it; other errors
    stay as they are.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if not _is_full(error):
            raise
        raise DiskFull(path, needed, free_bytes(path.parent)) from error


def _is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # The index of the write-ahead log is a file of its own; when it cannot grow, SQLite calls it an
    # input/output error.
    return getattr(error, "sqlite_errorcode", None) in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    )
