"""Stamps: what has been found out about files, for as long as they look untouched.

Files are known by path, size and time of change. Reading 150 MB to see that they are the same as an
hour ago costs more than reading the decoded copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from kasmina.checkpoint import write_atomically

_SETTLED_NS = 2_000_000_000
"""Clocks of file systems are coarse (2 s at worst, on FAT): a file that was changed just now may
change again without a new time."""


class Stamp:
    """One finding about the files as they are when it is made."""

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        """`folder` is where stamps are kept. Raises OSError where a file is not there."""
        facts = [(str(path.absolute()), path.stat()) for path in files]
        listing = "\n".join(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}" for path, stat in facts)
        self._path = folder / hashlib.sha256(listing.encode()).hexdigest()
        newest = max((stat.st_mtime_ns for _, stat in facts), default=0)
        self._settled = newest < time.time_ns() - _SETTLED_NS

    def finding(self) -> str | None:
        """What was recorded, a SHA-256 in hexadecimal; None where nothing was."""
        try:
            finding = self._path.read_text(errors="replace")
        except OSError:
            return None
        return finding if len(finding) == 64 else None

    def record(self, finding: str) -> None:
        """Keeps a finding, if the files have not been changed just now and there is a place."""
        if not self._settled:
            return
        with contextlib.suppress(OSError):
            write_atomically(self._path, finding.encode())
