"""Runs that have ended: which of them may be forgotten, and what goes with them."""

from __future__ import annotations

import sqlite3

from kasmina.runs.database import Database
from leyline.v1.trainer_pb2 import RunSpec

_OF_A_RUN = ("steps", "checkpoints", "episodes", "events", "refused", "runs")
"""Tables that know of it, what refers to another table first."""


class Archive:
    """What is kept of runs that have ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def forget_next(self, keep: int, ended_before: int | None) -> str | None:
        """Forgets the oldest run that is not among the `keep` that ended last, or ended before the
        time (nanoseconds since 1970), and names it; None where there is none that may be forgotten.

        A run is kept while the experience service has not taken all of it, and while a run that has
        not ended refers to it.
        """
        with self._database.transaction() as connection:
            needed = _referred_to(connection)
            for run_id in _surplus(connection, keep, ended_before):
                if run_id not in needed:
                    _delete(connection, run_id)
                    return run_id
        return None


def _surplus(connection: sqlite3.Connection, keep: int, ended_before: int | None) -> list[str]:
    rows = connection.execute(
        "SELECT run_id FROM"
        " (SELECT run_id, ended_at, number,"
        "  row_number() OVER (ORDER BY ended_at DESC, number DESC) AS place"
        "  FROM runs WHERE ended_at IS NOT NULL)"
        " WHERE (place > :keep OR ended_at < :before)"
        " AND run_id NOT IN (SELECT run_id FROM outbox)"
        " ORDER BY place DESC",
        {"keep": keep, "before": ended_before or 0},
    )
    return [row["run_id"] for row in rows]


def _referred_to(connection: sqlite3.Connection) -> set[str]:
    """Runs that others still go on from or are compared with."""
    rows = connection.execute("SELECT spec FROM runs WHERE ended_at IS NULL")
    specs = (RunSpec.FromString(row["spec"]) for row in rows)
    return {
        run_id
        for spec in specs
        for run_id in (spec.twin_run, spec.fork.parent.run_id, spec.growth.topology.run_id)
    }


def _delete(connection: sqlite3.Connection, run_id: str) -> None:
    for table in _OF_A_RUN:
        connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
