"""What is made of files is kept true to them, so that a certificate or a token is replaced without
a restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

Made = TypeVar("Made")
Stamp = tuple[tuple[int, int, int] | None, ...]


class Renewed(Generic[Made]):
    """What was made of files, and is made anew whenever they change. Threads may share it."""

    def __init__(
        self,
        files: Iterable[Path | None],
        make: Callable[[], Made],
        wrong: type[Exception],
        told: Callable[[Made | None, Exception | None], None] | None = None,
    ) -> None:
        """Make it. Raises what ``make`` does.

        Args:
            files: that it is made of; None stands for one that was not given.
            make: reads them.
            wrong: what `make` raises where they cannot be used.
            told: hears what was made anew or, once for each change, why it could not be.
        """
        self._files = [file for file in files if file is not None]
        self._make = make
        self._wrong = wrong
        self._told = told
        self._lock = threading.Lock()
        # Looked at first: what changes while they are read is another change.
        self._seen = _stamp(self._files)
        self._refused: Stamp | None = None
        self._made = make()

    def now(self) -> Made:
        """What the files make as they are; while they cannot be used, what they made before:
        whoever replaces several does it one after the other.
        """
        with self._lock:
            found = _stamp(self._files)
            if found != self._seen:
                self._renew(found)
            return self._made

    def _renew(self, found: Stamp) -> None:
        # Also those that were refused before: a file does not change when one is let read it.
        try:
            self._made = self._make()
        except self._wrong as error:
            if found != self._refused:
                self._refused = found
                self._tell(None, error)
        else:
            self._seen, self._refused = found, None
            self._tell(self._made, None)

    def _tell(self, made: Made | None, error: Exception | None) -> None:
        if self._told is not None:
            self._told(made, error)


def _stamp(files: Iterable[Path]) -> Stamp:
    return tuple(map(_stamp_of, files))


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
