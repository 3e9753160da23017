"""What a database takes of its disk."""

from __future__ import annotations

from sqlalchemy import Connection

FREE_SHARE = 0.1
"""Share of a file that may be free: what comes next fills it again."""
PAGES_AT_ONCE = 1000


def stored_bytes(connection: Connection) -> int:
    """Bytes of the whole database, indexes and room for more included."""
    if connection.dialect.name == "sqlite":
        query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    else:
        query = "SELECT pg_database_size(current_database())"
    return int(connection.exec_driver_sql(query).scalar_one())


def give_back(connection: Connection) -> bool:
    """Let SQLite's file be some megabytes smaller, where much of it is free; whether it is.

    Within a transaction that writes. PostgreSQL sees to its files by itself.
    """
    if connection.dialect.name != "sqlite":
        return False
    free, pages = connection.exec_driver_sql(
        "SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count"
    ).one()
    if free < max(FREE_SHARE * pages, PAGES_AT_ONCE):
        return False
    for _ in range(PAGES_AT_ONCE):
        # One by one: the driver takes only the first step of a statement that returns no rows.
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return True
