"""Whether SQLite's file is one, page by page. PostgreSQL sees to its own files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from simic.database.copying import Stopped

INSTRUCTIONS_A_LOOK = 1_000_000
"""Of SQLite's machine, between two looks at whether to stop: some hundredths of a second."""


def file_findings(url: str, limit: int, stopped: Callable[[], bool]) -> list[str]:
    """What is wrong with the file of a database, at most so many findings; for people.

    Reads the whole file on a connection of its own, while others read and write.

    Raises:
        Stopped: ``stopped`` said so.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return []
    address = f"{Path(str(parsed.database)).absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            connection.set_progress_handler(stopped, INSTRUCTIONS_A_LOOK)
            rows = connection.execute(f"PRAGMA integrity_check({limit})").fetchall()
    except sqlite3.DatabaseError as error:
        if stopped():
            raise Stopped from error
        return [f"the file cannot be read: {error}"]
    return [line for (line,) in rows if line != "ok"]
