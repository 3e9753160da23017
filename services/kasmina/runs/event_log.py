"""The events of a run, numbered from 1 without gaps: a watcher can go on where it stopped."""

from __future__ import annotations

import sqlite3
import time

from kasmina.runs.database import Database
from leyline.v1.trainer_pb2 import RunState, RunStateChanged, WatchRunResponse


def append_event(connection: sqlite3.Connection, run_id: str, event: WatchRunResponse) -> int:
    """Gives `event` its sequence and time within the caller's transaction, and returns the
    sequence.
    """
    row = connection.execute(
        "UPDATE runs SET last_sequence = last_sequence + 1 WHERE run_id = ?"
        " RETURNING last_sequence",
        (run_id,),
    ).fetchone()
    event.sequence = row["last_sequence"]
    event.time.FromNanoseconds(time.time_ns())
    connection.execute(
        "INSERT INTO events (run_id, sequence, event) VALUES (?, ?, ?)",
        (run_id, event.sequence, event.SerializeToString()),
    )
    return event.sequence


def append_state(
    connection: sqlite3.Connection, run_id: str, state: RunState.ValueType, message: str
) -> None:
    """Tells watchers of the run's state within the caller's transaction."""
    changed = RunStateChanged(state=state, message=message)
    append_event(connection, run_id, WatchRunResponse(state_changed=changed))


class EventLog:
    """What watchers read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(self, run_id: str, sequence: int, limit: int = 256) -> list[WatchRunResponse]:
        """At most `limit` events with a higher sequence, in order."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT event FROM events WHERE run_id = ? AND sequence > ?"
                " ORDER BY sequence LIMIT ?",
                (run_id, sequence, limit),
            ).fetchall()
        return [WatchRunResponse.FromString(row["event"]) for row in rows]
