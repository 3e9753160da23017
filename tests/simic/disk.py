"""Disks that fill up: SQLite itself refuses to let its file grow, PostgreSQL to take a row."""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import Self

from sqlalchemy import event
from sqlalchemy.pool import Pool
from tests.postgres import connect

from simic.database import schema

UNLIMITED = 1_000_000_000

# What a server says whose disk is full: 53100, disk_full.
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full';
END $$
"""


class FullDisk:
    """No SQLite database of this process grows while the block lasts."""

    def __init__(self) -> None:
        self._pages = 1

    def _limit(self, connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {self._pages}").close()

    def __enter__(self) -> Self:
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


class FullServer:
    """A PostgreSQL database takes no row while the block lasts."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> Self:
        with connect(self._url) as connection:
            connection.execute(REFUSE)
            for table in schema.metadata.tables:
                what = f"BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION refuse()"
                connection.execute(f"CREATE TRIGGER refuse {what}".encode())
        return self

    def make_room(self) -> None:
        """Let it take rows again."""
        with connect(self._url) as connection:
            connection.execute("DROP FUNCTION IF EXISTS refuse CASCADE")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.make_room()
