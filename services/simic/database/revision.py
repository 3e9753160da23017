"""Which schema a database has: the number of the last migration that it went through."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

MIGRATIONS = Path(__file__).with_name("migrations")

# Alembic's own table, with one row.
_VERSION = table("alembic_version", column("version_num"))


def found(connection: Connection) -> str | None:
    """The revision that the database has; None for an empty one."""
    if not inspect(connection).has_table(_VERSION.name):
        return None
    revision: str | None = connection.execute(select(_VERSION.c.version_num)).scalar_one_or_none()
    return revision


def is_ours(found: str | None) -> bool:
    """Whether a revision is one of Simic's, of any release: they are counted."""
    return found is not None and found.isdecimal()


def newest() -> str:
    """The revision that this release wants: that of its last migration, by the files' names."""
    last = max(path.name for path in (MIGRATIONS / "versions").glob("r*_*.py"))
    return last[1:].partition("_")[0]
