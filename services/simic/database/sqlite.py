"""SQLite: one file, one writer at a time, on disk when a commit returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from chassis.errors import ErrorCode, LeylineError

BUSY_TIMEOUT_S = 30
"""How long a writer waits for the other one: the server and its learner share the file."""

# What SQLite says when a write finds no room: in the file itself, or in the shared index beside it.
# Another process has held the lock for longer than anybody waits for it.
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT})
_DISK_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})


class Sqlite:
    """A database in a file."""

    def __init__(self, url: URL) -> None:
        """Use the file at ``url``; nothing is opened yet."""
        self.place = url.database or "in memory"
        self.engine = create_engine(url)
        # The driver would begin transactions by itself, late and shared: we begin them.
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)
        self.reader: Engine = self.engine
        self.writer: Engine = self.engine.execution_options(simic_writes=True)

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """A writing transaction that may make tables anew, referred to or not.

        SQLite would empty what refers to a table that goes; so references are looked at in the end.
        """
        with self.writer.connect() as connection:
            # A connection of its own: within a transaction there is no turning references off.
            connection.detach()
            connection.connection.cursor().execute("PRAGMA foreign_keys = OFF").close()
            with connection.begin():
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise RuntimeError(f"a migration leaves a reference without its row: {broken}")

    def fault(self, error: DBAPIError) -> LeylineError | None:
        """What an error means to whoever asked, where it is not a mistake of ours."""
        if getattr(error.orig, "sqlite_errorcode", None) in _DISK_FULL:
            return LeylineError(ErrorCode.DISK_FULL, path=self.place)
        if getattr(error.orig, "sqlite_errorcode", None) in _BUSY:
            return LeylineError(ErrorCode.DATABASE_UNAVAILABLE)
        return None


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_S * 1000}",
        # Of a file that is made now, and before anything stands in it.
        "auto_vacuum = INCREMENTAL",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later may find that somebody wrote in between, and
    # no waiting helps it then. Writers therefore take the lock at once.
    writes = connection.get_execution_options().get("simic_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
