"""Runs in the journal: queued, taken by a worker, ended."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from dataclasses import dataclass

from kasmina.runs.database import Database
from kasmina.runs.event_log import append_event, append_state
from kasmina.runs.outbox import append_item
from leyline.v1.experience_pb2 import ExperienceItem
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    RUN_STATE_FAILED,
    RUN_STATE_PAUSED,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    Compute,
    RunSpec,
    RunState,
    WatchRunResponse,
)
from leyline.v1.transition_pb2 import (
    TERMINATION_CANCELLED,
    TERMINATION_FAILED,
    EpisodeEnd,
    Termination,
)

ENDED = frozenset((RUN_STATE_COMPLETED, RUN_STATE_CANCELLED, RUN_STATE_FAILED))
"""States that a run never leaves."""

_TERMINATIONS: dict[RunState.ValueType, Termination.ValueType] = {
    RUN_STATE_CANCELLED: TERMINATION_CANCELLED,
    RUN_STATE_FAILED: TERMINATION_FAILED,
}

_LONGEST_MESSAGE = 4096

_COLUMNS = """
    runs.*,
    (SELECT count(*) FROM episodes WHERE run_id = runs.run_id AND termination != 0)
        AS episodes_ended,
    (SELECT coalesce(sum(steps), 0) FROM episodes WHERE run_id = runs.run_id) AS steps_completed,
    (SELECT count(*) FROM outbox WHERE run_id = runs.run_id) AS outbox_depth,
    (SELECT count(*) FROM refused WHERE run_id = runs.run_id) AS refused_items
"""


class RunExists(Exception):
    """A run of that name was asked for with another specification."""


class QueueFull(Exception):
    """As many runs wait as may."""


@dataclass(frozen=True)
class RunRecord:
    """A run and how far it is. Times in nanoseconds since 1970.

    Attributes:
        number: grows with each run.
        spec: with its defaults.
        compute: how it computes; None before a worker has settled it.
        driven: whether a caller of DriveEpisode decides.
        cancel_reason: set when somebody has asked for the end.
        refused_items: items that the experience service would not take.
    """

    run_id: str
    number: int
    spec: RunSpec
    compute: Compute | None
    driven: bool
    state: RunState.ValueType
    status_message: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    cancel_reason: str | None
    last_sequence: int
    episodes_ended: int
    steps_completed: int
    outbox_depth: int
    refused_items: int

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens in it."""
        return self.state in ENDED


class RunLog:
    """Every run that there was."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        run_id: str,
        requested: RunSpec,
        spec: RunSpec,
        queue_limit: int,
        *,
        driven: bool = False,
    ) -> RunRecord:
        """Queues a run, or returns the one that was asked for with the same words, in the same way,
        before.

        Raises `RunExists` or `QueueFull`.
        """
        words = requested.SerializeToString(deterministic=True)
        with self._database.transaction() as connection:
            known = connection.execute(
                "SELECT requested, driven FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
            if known is None:
                self._insert(connection, run_id, words, spec, queue_limit, driven)
            elif (known["requested"], bool(known["driven"])) != (words, driven):
                raise RunExists(run_id)
            return _select(connection, run_id)

    def get(self, run_id: str) -> RunRecord | None:
        """The run, or None where there is none."""
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
        return None if row is None else _record(row)

    def by_state(self) -> dict[RunState.ValueType, int]:
        """How many runs are in each state."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT state, count(*) AS runs FROM runs GROUP BY state")
            return {RunState.ValueType(row["state"]): row["runs"] for row in rows}

    def page(self, before: int | None, limit: int) -> list[RunRecord]:
        """At most `limit` runs, newest first, of those with a number lower than `before`."""
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE number < ? ORDER BY number DESC LIMIT ?",
                (before if before is not None else (1 << 62), limit),
            ).fetchall()
        return [_record(row) for row in rows]

    def next_to_work_on(self, leave_out: Collection[str] = ()) -> str | None:
        """The run that a worker had when it stopped, or else the one that has waited longest; of
        those that are not to be left out.
        """
        marks = ", ".join("?" * len(leave_out))
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT run_id FROM runs WHERE state IN (?, ?, ?)"
                f" AND run_id NOT IN ({marks}) ORDER BY state = ?, number LIMIT 1",
                (
                    *(RUN_STATE_RUNNING, RUN_STATE_PAUSED, RUN_STATE_QUEUED),
                    *leave_out,
                    RUN_STATE_QUEUED,
                ),
            ).fetchone()
        return None if row is None else str(row["run_id"])

    def take(self, run_id: str) -> RunRecord:
        """The run, RUNNING from now on unless it has ended."""
        with self._database.transaction() as connection:
            record = _select(connection, run_id)
            if record.has_ended:
                return record
            connection.execute(
                "UPDATE runs SET started_at = coalesce(started_at, ?) WHERE run_id = ?",
                (time.time_ns(), run_id),
            )
            _change(connection, record, RUN_STATE_RUNNING, "")
            return _select(connection, run_id)

    def change(self, run_id: str, state: RunState.ValueType, message: str) -> None:
        """Puts a run that goes on into another state, and tells watchers; a run that is in it
        already stays.
        """
        with self._database.transaction() as connection:
            _change(connection, _select(connection, run_id), state, message)

    def requested(self, run_id: str) -> RunSpec:
        """The specification as it was asked for. Raises KeyError."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT requested FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
        if row is None:
            raise KeyError(run_id)
        return RunSpec.FromString(row["requested"])

    def settle_compute(self, run_id: str, compute: Compute) -> None:
        """Writes down how the run computes."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE runs SET compute = ? WHERE run_id = ?",
                (compute.SerializeToString(), run_id),
            )

    def settle_spec(self, run_id: str, spec: RunSpec) -> None:
        """Writes down the defaults that were known only once the data was there."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE runs SET spec = ? WHERE run_id = ?", (spec.SerializeToString(), run_id)
            )

    def request_cancel(self, run_id: str, reason: str) -> RunRecord:
        """Asks for the end: at once where no worker has the run, after the interval otherwise."""
        with self._database.transaction() as connection:
            record = _select(connection, run_id)
            if not record.has_ended and record.cancel_reason is None:
                connection.execute(
                    "UPDATE runs SET cancel_reason = ? WHERE run_id = ?", (reason, run_id)
                )
                if record.state == RUN_STATE_QUEUED:
                    _end(connection, record, RUN_STATE_CANCELLED, reason)
            return _select(connection, run_id)

    def cancel_reason(self, run_id: str) -> str | None:
        """Why the run is to end, None while nobody has asked."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT cancel_reason FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
        return None if row is None else row["cancel_reason"]

    def end(
        self,
        run_id: str,
        state: RunState.ValueType,
        message: str,
        termination: Termination.ValueType | None = None,
        *,
        played_again: bool = False,
    ) -> None:
        """Ends the run, and the episode that it is in; a run that has ended stays as it is.

        Args:
            run_id: the run.
            state: that it ends in.
            message: why, for people.
            termination: the episode's. None: what goes with the state.
            played_again: whether another attempt may follow one that has FAILED: then the
                experience service is not told of an end, after which it would take no step.
        """
        with self._database.transaction() as connection:
            record = _select(connection, run_id)
            if not record.has_ended:
                tells = not (played_again and state == RUN_STATE_FAILED)
                _end(connection, record, state, message[:_LONGEST_MESSAGE], termination, tells)

    def count_crash(self, run_id: str) -> int:
        """Crashes of the run's workers, this one included, since a step was last completed."""
        with self._database.transaction() as connection:
            steps = _select(connection, run_id).steps_completed
            row = connection.execute(
                "UPDATE runs SET"
                " crashes = CASE WHEN crashed_after = :steps THEN crashes ELSE 0 END + 1,"
                " crashed_after = :steps WHERE run_id = :run_id RETURNING crashes",
                {"steps": steps, "run_id": run_id},
            ).fetchone()
        return int(row["crashes"])

    def _insert(
        self,
        connection: sqlite3.Connection,
        run_id: str,
        requested: bytes,
        spec: RunSpec,
        queue_limit: int,
        driven: bool,
    ) -> None:
        waiting = connection.execute(
            "SELECT count(*) FROM runs WHERE state = ?", (RUN_STATE_QUEUED,)
        ).fetchone()[0]
        if waiting >= queue_limit:
            raise QueueFull(run_id)
        connection.execute(
            "INSERT INTO runs (run_id, requested, spec, driven, state, status_message, created_at,"
            " last_sequence, crashes, crashed_after) VALUES (?, ?, ?, ?, ?, '', ?, 0, 0, 0)",
            (run_id, requested, spec.SerializeToString(), driven, RUN_STATE_QUEUED, time.time_ns()),
        )
        append_state(connection, run_id, RUN_STATE_QUEUED, "")


def _select(connection: sqlite3.Connection, run_id: str) -> RunRecord:
    row = connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise KeyError(run_id)
    return _record(row)


def _record(row: sqlite3.Row) -> RunRecord:
    values = {name: row[name] for name in RunRecord.__dataclass_fields__}
    values["spec"] = RunSpec.FromString(row["spec"])
    values["compute"] = None if row["compute"] is None else Compute.FromString(row["compute"])
    values["driven"] = bool(row["driven"])
    return RunRecord(**values)


def _change(
    connection: sqlite3.Connection, record: RunRecord, state: RunState.ValueType, message: str
) -> None:
    if record.has_ended or (record.state, record.status_message) == (state, message):
        return
    connection.execute(
        "UPDATE runs SET state = ?, status_message = ? WHERE run_id = ?",
        (state, message, record.run_id),
    )
    append_state(connection, record.run_id, state, message)


def _end(
    connection: sqlite3.Connection,
    record: RunRecord,
    state: RunState.ValueType,
    message: str,
    termination: Termination.ValueType | None = None,
    tells: bool = True,
) -> None:
    open_episodes = connection.execute(
        "SELECT episode_index, steps FROM episodes WHERE run_id = ? AND termination = 0",
        (record.run_id,),
    ).fetchall()
    for row in open_episodes:
        end = EpisodeEnd(
            run_id=record.run_id,
            episode_index=row["episode_index"],
            termination=termination or _TERMINATIONS[state],
            steps=row["steps"],
            message=message,
        )
        end.ended_at.FromNanoseconds(time.time_ns())
        end_episode(connection, end, tells)
    connection.execute(
        "UPDATE runs SET ended_at = ? WHERE run_id = ?", (time.time_ns(), record.run_id)
    )
    _change(connection, record, state, message)


def end_episode(connection: sqlite3.Connection, end: EpisodeEnd, tells: bool = True) -> None:
    """Writes the end of an episode down, for watchers and, unless it is not to be told, for the
    experience service; in the caller's transaction.
    """
    key = (end.run_id, end.episode_index)
    connection.execute(
        "UPDATE episodes SET termination = ? WHERE run_id = ? AND episode_index = ?",
        (end.termination, *key),
    )
    connection.execute("DELETE FROM checkpoints WHERE run_id = ? AND episode_index = ?", key)
    if tells:
        append_item(connection, *key, ExperienceItem(episode_end=end))
    append_event(connection, end.run_id, WatchRunResponse(episode_ended=end))
