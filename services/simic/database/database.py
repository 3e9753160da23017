"""The database: connections that keep what they acknowledge, and the lock on its directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError

from chassis.errors import LeylineError
from chassis.logging import get_logger
from chassis.process import StartupError
from simic.database import revision
from simic.database.postgresql import PostgreSql
from simic.database.sqlite import Sqlite

_log = get_logger(__name__)


def sqlite_url(directory: Path) -> str:
    """The URL of the database that a state directory holds by default."""
    return f"sqlite:///{(directory / 'simic.sqlite3').absolute()}"


class Backend(Protocol):
    """A kind of database: what the two that there are do each in its own way.

    Attributes:
        place: where the database is, for people: without names and passwords.
        engine: all connections.
        reader: the same, whose transactions see one state and change nothing.
        writer: the same, whose transactions exclude every other writer and wait for the disk.
    """

    place: str
    engine: Engine
    reader: Engine
    writer: Engine

    def migration(self) -> AbstractContextManager[Connection]:
        """A writing transaction that may make tables anew."""

    def fault(self, error: DBAPIError) -> LeylineError | None:
        """What an error means to whoever asked, where it is not a mistake of ours."""


class Database:
    """A database whose commits are on disk when they return.

    Safe to use from many threads and, each with an instance of its own, from many processes.
    """

    def __init__(self, url: str) -> None:
        """Connect to ``url``, and bring the database to the schema of this release.

        Raises:
            StartupError: the URL is not one, what is there is no database of ours and not empty, or
                a newer release wrote it.
            LeylineError: DATABASE_UNAVAILABLE or DISK_FULL; it may be tried again.
        """
        self.url = url
        self._backend = _backend(url)
        try:
            self._bring_up_to_date()
        except DatabaseError as error:
            raise StartupError(
                f"the database {self.place} cannot be opened: {error.orig}; name another one, or"
                " one that is not there yet"
            ) from error

    @property
    def place(self) -> str:
        """Where it is, for people: without names and passwords."""
        return self._backend.place

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing.

        Raises:
            LeylineError: DATABASE_UNAVAILABLE.
        """
        with self._faults(), self._backend.reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that excludes every other writer and is on disk when the block is left.

        Raises:
            LeylineError: DISK_FULL: nothing was stored. DATABASE_UNAVAILABLE: nothing was stored,
                or all of it, where the connection broke during the commit.
        """
        with self._faults(), self._backend.writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._backend.engine.dispose()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            fault = self._backend.fault(error)
            if fault is None:
                raise
            raise fault from error

    def _bring_up_to_date(self) -> None:
        with self.read() as connection:
            found = revision.found(connection)
            if not revision.is_ours(found) and inspect(connection).get_table_names():
                raise StartupError(
                    f"the database {self.place} holds other tables than Simic's: name an empty one"
                )
        newest = revision.newest()
        if found == newest:
            return
        # Here, because it takes a quarter of a second to import and is seldom needed.
        from simic.database import migrating

        # Others may be opening it, too: whoever comes second finds nothing left to do.
        try:
            with self._faults(), self._backend.migration() as connection:
                migrating.upgrade(connection)
        except migrating.UnknownRevision as error:
            raise StartupError(
                f"the database {self.place} was written by a newer release (it has revision "
                f"{found}, this release knows {newest}): use that release, or another database"
            ) from error
        _log.info("database migrated", database=self.place, found=found or "empty", now=newest)


def _backend(address: str) -> Backend:
    try:
        url = make_url(address)
        if url.drivername in ("sqlite", "sqlite+pysqlite"):
            return Sqlite(url)
        if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
            return PostgreSql(url)
    except (ArgumentError, ImportError) as error:
        raise StartupError(f"the database URL cannot be used: {error}") from error
    raise StartupError(
        f"the database URL cannot be used: {url.drivername!r} is neither sqlite nor postgresql"
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
