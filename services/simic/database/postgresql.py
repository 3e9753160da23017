"""PostgreSQL: a server of its own, which may be away for a while and come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from chassis.errors import ErrorCode, LeylineError
from chassis.process import StartupError

_WRITERS = 0x4C65796C696E65  # "Leyline": advisory locks are numbers, for each database its own

# A server that is gone without a word is missed after half a minute, not after hours.
_CONNECTION: dict[str, Any] = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}

# SQLSTATE of a full disk, and the classes of a lost connection and of a server that goes or comes.
_DISK_FULL = "53100"
_AWAY = ("08", "57P", "53300")

# One writer at a time, as with SQLite: what is written depends on what was read before (fences, the
# order in which episodes became whole, ordinals), and whoever follows a table by its sequence must
# not see 8 committed before 7. The lock is let go after the commit is seen by all; a snapshot is
# taken by each statement, so the first one after the lock sees everything before it. Commits wait
# for the disk, whatever the server's default is; a writer whose machine has gone holds nobody up.
_BEGIN_WRITING = f"""
SELECT pg_advisory_xact_lock({_WRITERS}),
       set_config('idle_in_transaction_session_timeout', '60s', true),
       CASE current_setting('synchronous_commit')
           WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END
"""


class PostgreSql:
    """A database on a server."""

    def __init__(self, url: URL) -> None:
        """Use the database at ``url``; nothing is connected yet.

        Beside what libpq knows, its query may have ``password_file``: a file that holds the
        password and is read for each connection, so that both can be replaced together.
        """
        password = url.query.get("password_file")
        url = url.difference_update_query(["password_file"])
        defaults = {name: value for name, value in _CONNECTION.items() if name not in url.query}
        host = url.host or url.query.get("host", "localhost")
        self.place = f"{host}:{url.port or 5432}/{url.database or ''}"
        # Asks whether a connection lives before it is used again: the server may have restarted.
        self.engine = create_engine(
            url.set(drivername="postgresql+psycopg"), connect_args=defaults, pool_pre_ping=True
        )
        event.listen(self.engine, "begin", _begin)
        if isinstance(password, str):
            event.listen(self.engine, "do_connect", partial(_show_password, Path(password)))
        self.reader: Engine = self.engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self.writer: Engine = self.engine.execution_options(
            isolation_level="READ COMMITTED", simic_writes=True
        )

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """A writing transaction that may make tables anew.

        Raises:
            StartupError: the database does not take every text.
        """
        with self.writer.begin() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
            if encoding != "UTF8":
                raise StartupError(
                    f"the database {self.place} has the encoding {encoding}: "
                    "make one with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
                )
            yield connection

    def fault(self, error: DBAPIError) -> LeylineError | None:
        """What an error means to whoever asked, where it is not a mistake of ours."""
        state = getattr(error.orig, "sqlstate", None)
        if state == _DISK_FULL:
            return LeylineError(ErrorCode.DISK_FULL, path=self.place)
        if error.connection_invalidated or _is_away(error, state):
            return LeylineError(ErrorCode.DATABASE_UNAVAILABLE)
        return None


def _is_away(error: DBAPIError, state: str | None) -> bool:
    # A connection that cannot be made, or breaks, has no state: nobody was there to give it one.
    return isinstance(error, OperationalError) if state is None else state.startswith(_AWAY)


def _show_password(
    file: Path, dialect: Dialect, record: Any, arguments: Any, parameters: dict[str, Any]
) -> None:
    """Read the password for a connection that is about to be made.

    Raises:
        LeylineError: DATABASE_UNAVAILABLE: the file cannot be read.
    """
    try:
        parameters["password"] = file.read_text().strip()
    except OSError as error:
        raise LeylineError(ErrorCode.DATABASE_UNAVAILABLE) from error


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("simic_writes", False):
        connection.exec_driver_sql(_BEGIN_WRITING)
