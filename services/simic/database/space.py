"""What a database takes of its disk."""

from __future__ import annotations

from sqlalchemy import Connection


def stored_bytes(connection: Connection) -> int:
    """Bytes of the whole database, indexes and room for more included."""
    if connection.dialect.name == "sqlite":
        query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    else:
        query = "SELECT pg_database_size(current_database())"
    return int(connection.exec_driver_sql(query).scalar_one())
