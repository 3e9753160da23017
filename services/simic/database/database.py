"""The database: connections that keep what they acknowledge, and the lock on its directory."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError

from chassis.errors import ErrorCode, LeylineError
from chassis.process import StartupError
from simic.database import schema

BUSY_TIMEOUT_S = 30
"""How long a writer waits for the other one: the server and its learner share the file."""

# What SQLite says when a write finds no room: in the file itself, or in the shared index beside it.
_DISK_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})


def sqlite_url(directory: Path) -> str:
    """The URL of the database that a state directory holds by default."""
    return f"sqlite:///{(directory / 'simic.sqlite3').absolute()}"


class Database:
    """A database whose commits are on disk when they return.

    Safe to use from many threads and, each with an instance of its own, from many processes.
    """

    def __init__(self, url: str) -> None:
        """Connect to ``url`` and create the tables where there are none.

        Raises:
            StartupError: the URL is not one, the file is no database, or another release wrote it.
        """
        self.url = url
        try:
            self._engine = _connect(url)
            with self.write() as connection:
                create_tables(connection)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise StartupError(f"the database URL cannot be used: {error}") from error
        except DatabaseError as error:
            raise StartupError(
                f"the database {self.place} cannot be opened: {error.orig}"
            ) from error

    @property
    def place(self) -> str:
        """Where it is, for people: without a password."""
        url = make_url(self.url)
        return url.database or url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that excludes every other writer and is on disk when the block is left.

        Raises:
            LeylineError: DISK_FULL. Nothing was stored, and the same can be tried again.
        """
        try:
            with (
                self._engine.connect().execution_options(simic_writes=True) as connection,
                connection.begin(),
            ):
                yield connection
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) in _DISK_FULL:
                raise LeylineError(ErrorCode.DISK_FULL, path=self.place) from error
            raise

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()


def _connect(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        # The driver would begin transactions by itself, late and shared: we begin them.
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
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


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later may find that somebody wrote in between, and
    # no waiting helps it then. Writers therefore take the lock at once.
    writes = connection.get_execution_options().get("simic_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def create_tables(connection: Connection) -> None:
    """Make the tables where there are none.

    Raises:
        StartupError: another release made them.
    """
    if not inspect(connection).has_table(schema.schema_version.name):
        schema.metadata.create_all(connection)
        connection.execute(insert(schema.schema_version).values(version=schema.VERSION))
        return
    found = connection.execute(select(schema.schema_version.c.version)).scalar_one()
    if found != schema.VERSION:
        raise StartupError(
            f"the database has schema version {found}, and this release knows {schema.VERSION}: "
            "use the release that wrote it, or another state directory"
        )


class StateDirectory:
    """A directory that belongs to one running service.

    The kernel drops the lock when the process ends, however it ends.
    """

    def __init__(self, path: Path) -> None:
        """Create ``path`` where it is not, and take it.

        Raises:
            StartupError: another process has it, or it cannot be written to.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupError(f"the state directory {path} cannot be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise StartupError(
                f"the state directory {path} is in use by another Simic (process {owner}): "
                "stop it, or set LEYLINE_SIMIC_STATE_DIR to another directory"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another service have the directory."""
        os.close(self._lock)

    def __enter__(self) -> StateDirectory:
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()
