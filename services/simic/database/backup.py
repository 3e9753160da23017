"""A copy of everything, as it was at one moment, in a file to be carried away."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import uuid
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import OperationalError

from chassis.errors import ErrorCode, LeylineError
from simic.database import copying, migrating, space
from simic.database.copying import Stopped
from simic.database.database import Database

DIRECTORY = "backups"
RESERVE_BYTES = 64 * 1024 * 1024
"""What a copy leaves free on its disk: the service itself goes on writing meanwhile."""

INSTRUCTIONS_A_LOOK = 1_000_000
"""Of SQLite's machine, between two looks at whether to go on: some hundredths of a second."""


class Backups:
    """Copies under way, in a directory of their own, which is emptied when the service starts."""

    def __init__(self, database: Database, state_dir: Path) -> None:
        """Copy ``database`` into files below ``state_dir``; what a killed service left there goes.

        Raises:
            OSError: the directory cannot be written to.
        """
        self._database = database
        self._directory = state_dir / DIRECTORY
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()

    def begin(self) -> Backup:
        """A copy to be made."""
        return Backup(self._database, self._directory)


class Backup:
    """One copy: a SQLite file, whatever the database is. It is gone when the block is left.

    ``make`` and ``read`` block on the disk: call them from a thread. Leaving the block from another
    one stops them soon.

    Attributes:
        path: where the file is, once it was made.
    """

    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self._stopped = threading.Event()
        # A directory of its own: SQLite leaves a journal beside a copy that it cannot finish.
        self._directory = directory / uuid.uuid4().hex
        self.path = self._directory / "copy.sqlite3"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        shutil.rmtree(self._directory, ignore_errors=True)

    def make(self) -> int:
        """Copy everything, as it is when this begins; the size of the file in bytes.

        Raises:
            LeylineError: DISK_FULL.
            Stopped: the block was left.
        """
        url = make_url(self._database.url)
        try:
            self._refuse_where_it_does_not_fit()
            self._directory.mkdir()
            if url.get_backend_name() == "sqlite":
                self._copy_file(str(url.database))
            else:
                self._copy_rows()
        except (sqlite3.OperationalError, OperationalError) as error:
            self._go_on()
            cause = error.orig if isinstance(error, OperationalError) else error
            if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise LeylineError(ErrorCode.DISK_FULL, path=self._directory.parent) from error
            raise
        finally:
            if self._stopped.is_set():
                # The block may have been left before the directory was there.
                shutil.rmtree(self._directory, ignore_errors=True)
        return self.path.stat().st_size

    def _copy_file(self, source: str) -> None:
        """The same rows in a new file; SQLite does it much quicker than we could row by row."""
        with closing(
            sqlite3.connect(f"{Path(source).absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            connection.set_progress_handler(self._interrupts, INSTRUCTIONS_A_LOOK)
            connection.execute("VACUUM INTO ?", (str(self.path),))

    def _copy_rows(self) -> None:
        engine = create_engine(f"sqlite:///{self.path}")
        event.listen(engine, "connect", _write_fast)
        try:
            with (
                self._database.read() as source,
                engine.connect() as target,
                target.begin(),
            ):
                migrating.upgrade(target)
                copying.copy(source, target, lambda _table, _rows: self._go_on())
        finally:
            engine.dispose()

    def _interrupts(self) -> bool:
        try:
            self._go_on()
        except (Stopped, LeylineError):
            return True
        return False

    def read(self, offset: int, size: int) -> bytes:
        """At most so many bytes of the file that was made."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise Stopped
        if shutil.disk_usage(self._directory.parent).free < RESERVE_BYTES:
            raise LeylineError(ErrorCode.DISK_FULL, path=self._directory.parent)

    def _refuse_where_it_does_not_fit(self) -> None:
        with self._database.read() as connection:
            size = space.stored_bytes(connection)
        if shutil.disk_usage(self._directory.parent).free < size + RESERVE_BYTES:
            raise LeylineError(ErrorCode.DISK_FULL, path=self._directory.parent)


def _write_fast(connection: sqlite3.Connection, _record: object) -> None:
    # A copy that is not finished is of no use: it needs neither a journal nor the disk's word.
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "auto_vacuum = INCREMENTAL"):
        connection.execute(f"PRAGMA {pragma}").close()
