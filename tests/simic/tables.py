"""All tables at once."""

from __future__ import annotations

from sqlalchemy import delete

from simic.database import schema
from simic.database.database import Database


def empty(database: Database) -> None:
    """Take everything out, as if nothing had ever been stored."""
    with database.write() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(delete(table))
