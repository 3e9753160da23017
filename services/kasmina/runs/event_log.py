"""The events of a run, numbered from 1 without gaps: a watcher can go on where it stopped."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kasmina.runs.database import Database
from leyline.v1.snapshot_pb2 import StepId
from leyline.v1.trainer_pb2 import (
    RunState,
    RunStateChanged,
    StepCompleted,
    StepDecided,
    WatchRunResponse,
)
from leyline.v1.transition_pb2 import EpisodeEnd


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

    def latest(self) -> list[tuple[int, str, int]]:
        """Each run's number, which none had before it, its name, and its newest sequence."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT number, run_id, last_sequence FROM runs").fetchall()
        return [(row["number"], row["run_id"], row["last_sequence"]) for row in rows]

    def of_step(self, step_id: StepId) -> tuple[StepDecided, StepCompleted]:
        """What watchers were told of a completed step. KeyError where it is not completed."""
        completed = StepCompleted()
        with self._latest_first(step_id.run_id) as events:
            for event in events:
                if event.step_completed.step_id == step_id:
                    completed = event.step_completed
                if event.step_decided.step_id == step_id and completed.HasField("step_id"):
                    return event.step_decided, completed
        raise KeyError(step_id)

    def end_of(self, run_id: str, episode_index: int) -> EpisodeEnd:
        """How the episode ended. KeyError where it has not."""
        with self._latest_first(run_id) as events:
            for event in events:
                end = event.episode_ended
                if event.HasField("episode_ended") and end.episode_index == episode_index:
                    return end
        raise KeyError((run_id, episode_index))

    @contextmanager
    def _latest_first(self, run_id: str) -> Iterator[Iterator[WatchRunResponse]]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT event FROM events WHERE run_id = ? ORDER BY sequence DESC", (run_id,)
            )
            yield (WatchRunResponse.FromString(row["event"]) for row in rows)
