"""Everything from one database into another, of whatever kind the two are."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Table, func, insert, select

from simic.database import schema

ROWS_A_PIECE = 500
# Whose rows may have 64 MiB: an artifact, and the state to go on from.
_LARGE = (schema.artifacts, schema.trainings)

OnRows = Callable[[str, int], None]
"""Told after each piece of which table it is, and how many of its rows are copied now."""


class Stopped(Exception):
    """Nobody waits for the copy any more."""


def kept_tables() -> list[Table]:
    """The tables with what is kept, each behind those that it refers to."""
    return [table for table in schema.metadata.sorted_tables if table is not schema.openings]


def copy(source: Connection, target: Connection, on_rows: OnRows) -> None:
    """Insert all rows of ``source`` into the empty tables of ``target``, piece by piece."""
    for table in kept_tables():
        copied = 0
        rows = source.execute(
            select(table)
            .order_by(*table.primary_key)
            .execution_options(yield_per=1 if table in _LARGE else ROWS_A_PIECE)
        )
        for piece in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in piece])
            copied += len(piece)
            on_rows(table.name, copied)
        _count_on(target, table)


def _count_on(connection: Connection, table: Table) -> None:
    """Let the next row that is given a number get one behind those that were copied."""
    column = table.autoincrement_column
    # SQLite gives the number behind the highest one in any case.
    if column is None or connection.dialect.name != "postgresql":
        return
    highest = connection.execute(select(func.max(column))).scalar_one()
    if highest is not None:
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(select(func.setval(sequence, highest)))
