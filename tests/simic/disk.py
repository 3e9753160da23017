"""A disk that fills up: SQLite itself refuses to let its file grow."""

from __future__ import annotations

import sqlite3
from types import TracebackType

from sqlalchemy import event
from sqlalchemy.pool import Pool

UNLIMITED = 1_000_000_000


class FullDisk:
    """No database of this process grows while the block lasts."""

    def __init__(self) -> None:
        self._pages = 1

    def _limit(self, connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {self._pages}").close()

    def __enter__(self) -> FullDisk:
        event.listen(Pool, "checkout", self._limit)
        return self

    def make_room(self) -> None:
        """Let them grow again."""
        self._pages = UNLIMITED

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        event.remove(Pool, "checkout", self._limit)
