"""A backup into an empty database, of either kind."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from sqlalchemy import Connection, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from chassis.logging import get_logger
from chassis.process import StartupError
from simic.database import copying, moment, revision, schema
from simic.database.copying import Stopped, kept_tables
from simic.database.database import Database

ROWS_A_LINE = 50_000
"""Rows between two lines of the log."""

_log = get_logger(__name__)


class BackupFile:
    """A backup that somebody brings. Nothing of it is changed."""

    def __init__(self, path: Path) -> None:
        """Take the file at ``path``.

        Raises:
            StartupError: there is none, it is no backup, or a release with another schema wrote it.
        """
        self.path = path
        self._stopped = threading.Event()
        if not path.is_file():
            raise StartupError(f"there is no backup at {path}")
        journal = path.with_name(f"{path.name}-wal")
        if journal.is_file() and journal.stat().st_size:
            raise StartupError(
                f"{path} is no backup but a database that is in use, or was not closed in good "
                f"order: what is newest in it stands in {journal}"
            )
        # Immutable: a file on a disk that only reads is read all the same.
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._engine = create_engine(
            "sqlite://",
            poolclass=NullPool,
            creator=lambda: sqlite3.connect(address, uri=True, isolation_level=None),
        )
        event.listen(self._engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN"))
        try:
            with self._engine.connect() as connection:
                self._refuse_what_is_no_backup(connection)
        except DatabaseError as error:
            raise StartupError(f"{path} is no backup of Simic's: {error.orig}") from error

    def restore(self, database: Database) -> None:
        """Put everything into ``database``: all of it or, where that fails, nothing.

        Raises:
            StartupError: it holds something already, or the file is damaged.
            LeylineError: DISK_FULL.
            Stopped: somebody stopped it.
        """
        with database.write() as target:
            self._refuse_what_is_not_empty(target, database.place)
            try:
                with self._engine.connect() as source:
                    copying.copy(source, target, self._tell)
            except DatabaseError as error:
                if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_CORRUPT:
                    raise
                raise StartupError(f"{self.path} is damaged: {error.orig}") from error
            # The file may have been kept for years: whoever opens this first looks at all of it.
            target.execute(insert(schema.openings).values(opened_at=moment.now()))

    def stop(self) -> None:
        """Let a restore that is under way end soon, with nothing restored."""
        self._stopped.set()

    def _tell(self, table: str, rows: int) -> None:
        if self._stopped.is_set():
            raise Stopped
        if rows % ROWS_A_LINE == 0:
            _log.info("restoring", table=table, rows=rows)

    def _refuse_what_is_no_backup(self, connection: Connection) -> None:
        there = set(inspect(connection).get_table_names())
        found = revision.found(connection)
        if not revision.is_ours(found):
            raise StartupError(f"{self.path} is no backup of Simic's: it has other tables")
        if found != revision.newest():
            raise StartupError(
                f"{self.path} is a backup with revision {found}, and this release knows "
                f"{revision.newest()}: restore it with the release that wrote it"
            )
        missing = [table.name for table in kept_tables() if table.name not in there]
        if missing:
            raise StartupError(f"{self.path} is damaged: it has no table {missing[0]!r}")

    def _refuse_what_is_not_empty(self, target: Connection, place: str) -> None:
        for table in kept_tables():
            if target.execute(select(table).limit(1)).first() is not None:
                raise StartupError(
                    f"the database {place} is not empty (there is something in its table "
                    f"{table.name!r}): a backup is restored into a new one"
                )
