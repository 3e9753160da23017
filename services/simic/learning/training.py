"""Trainings as the service shows them: their plans, how far they are, and how they end."""

from __future__ import annotations

import json
import uuid

from sqlalchemy import Connection, RowMapping, Select, insert, select, update

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.v1.learner_pb2 import (
    Training,
    TrainingPlan,
    TrainingState,
    WatchTrainingResponse,
)
from simic.database import moment
from simic.database.database import Database
from simic.database.schema import episodes, training_updates, trainings
from simic.learning import order
from simic.learning.plan import STORED, fill
from simic.policies import candidates

RUNNING = TrainingState.TRAINING_STATE_RUNNING

WAITS_FOR_EPISODES = "waits for episodes that its own versions decide"
"""What a training is at between two updates."""


class TrainingStore:
    """Every method blocks on the disk: call it from a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, training_id: str, plan: TrainingPlan) -> Training:
        """Begin a training, or find the one of that name and plan.

        Raises:
            LeylineError: INVALID_ARGUMENT, also where the run's stored episodes are none to learn
                from; TRAINING_EXISTS (with another plan); or TRAINING_ALREADY_RUNNING.
        """
        filled = fill(plan)
        with self._database.write() as connection:
            known = find(connection, training_id) if training_id else None
            if known is not None:
                if TrainingPlan.FromString(known["plan"]) != filled:
                    raise LeylineError(ErrorCode.TRAINING_EXISTS, training_id=training_id)
                return _training(connection, known)
            running = connection.execute(_unfinished()).scalar_one_or_none()
            if running is not None:
                raise LeylineError(ErrorCode.TRAINING_ALREADY_RUNNING, training_id=running)
            _refuse_unfit_episodes(connection, filled)
            name = training_id or f"training-{uuid.uuid4().hex[:12]}"
            connection.execute(
                insert(trainings).values(
                    training_id=name,
                    plan=filled.SerializeToString(deterministic=True),
                    deterministic=filled.deterministic,
                    run_id=filled.run_id,
                    episodes_per_update=filled.episodes_per_update,
                    lag=filled.lag,
                    state=RUNNING,
                    status_message="waits for its learner",
                    stop_requested=False,
                    updates=0,
                    episodes=0,
                    transitions=0,
                    started_at=moment.now(),
                )
            )
            return _training(connection, require(connection, name))

    def get(self, training_id: str) -> Training:
        """A training, or the newest where ``training_id`` is empty.

        Raises:
            LeylineError: TRAINING_NOT_FOUND.
        """
        with self._database.read() as connection:
            return _training(connection, require(connection, training_id))

    def unfinished(self) -> str | None:
        """The name of the training that runs, if any."""
        with self._database.read() as connection:
            return connection.execute(_unfinished()).scalar_one_or_none()

    def request_stop(self, training_id: str) -> Training:
        """Ask a training to end after the update that it is in.

        Raises:
            LeylineError: TRAINING_NOT_FOUND.
        """
        with self._database.write() as connection:
            row = require(connection, training_id)
            if row["state"] == RUNNING:
                change(connection, row["id"], stop_requested=True)
            return _training(connection, require(connection, training_id))

    def end(self, training_id: str, state: TrainingState.ValueType, message: str) -> None:
        """End a training that runs; one that has ended stays as it is."""
        with self._database.write() as connection:
            row = require(connection, training_id)
            if row["state"] == RUNNING:
                finish(connection, row["id"], state, message)

    def note(self, training_id: str, message: str) -> None:
        """Say, for people, what a training that runs is doing."""
        with self._database.write() as connection:
            row = require(connection, training_id)
            if row["state"] == RUNNING:
                change(connection, row["id"], status_message=message)

    def updates(
        self, training_id: str, after: int, limit: int = 256
    ) -> list[WatchTrainingResponse]:
        """The updates after number ``after``, in order.

        Raises:
            LeylineError: TRAINING_NOT_FOUND.
        """
        with self._database.read() as connection:
            training = require(connection, training_id)["id"]
            rows = connection.execute(
                select(training_updates)
                .where(
                    training_updates.c.training == training,
                    training_updates.c.sequence > after,
                )
                .order_by(training_updates.c.sequence)
                .limit(limit)
            ).all()
        return [
            WatchTrainingResponse(
                sequence=row.sequence,
                time=moment.to_proto(row.time),
                policy_version=row.policy_version,
                episodes=row.episodes,
                transitions=row.transitions,
                gradient_steps=row.gradient_steps,
                mean_return=row.mean_return,
                diagnostics=json.loads(row.diagnostics),
                alarms=json.loads(row.alarms),
            )
            for row in rows
        ]


# All but the checkpoint, which is large, and the learner's own.
_SHOWN = [column for column in trainings.c if column is not trainings.c.checkpoint]


def find(connection: Connection, training_id: str) -> RowMapping | None:
    """The row of a training, without its checkpoint."""
    query = select(*_SHOWN).where(trainings.c.training_id == training_id)
    return connection.execute(query).mappings().one_or_none()


def require(connection: Connection, training_id: str) -> RowMapping:
    """The row of a training, or of the newest where ``training_id`` is empty; no checkpoint.

    Raises:
        LeylineError: TRAINING_NOT_FOUND.
    """
    if training_id:
        row = find(connection, training_id)
    else:
        newest = select(*_SHOWN).order_by(trainings.c.id.desc()).limit(1)
        row = connection.execute(newest).mappings().one_or_none()
    if row is None:
        raise LeylineError(ErrorCode.TRAINING_NOT_FOUND, training_id=training_id)
    return row


def change(connection: Connection, training: int, **values: object) -> None:
    """Change columns of the training with this row number."""
    connection.execute(update(trainings).where(trainings.c.id == training).values(values))


def finish(
    connection: Connection, training: int, state: TrainingState.ValueType, message: str
) -> None:
    """End the training with this row number; nothing of it is evaluated any more."""
    candidates.dismiss_all(connection, training)
    change(connection, training, state=state, status_message=message, ended_at=moment.now())


def _unfinished() -> Select[tuple[str]]:
    return select(trainings.c.training_id).where(trainings.c.state == RUNNING)


def _refuse_unfit_episodes(connection: Connection, plan: TrainingPlan) -> None:
    """Refuse a plan for a run of which something is stored that it could not learn from.

    Raises:
        LeylineError: INVALID_ARGUMENT.
    """
    if not plan.run_id:
        return
    stored = select(episodes.c.episode_index).where(episodes.c.run_id == plan.run_id).limit(1)
    held_out = connection.execute(stored.where(episodes.c.held_out)).scalar_one_or_none()
    if held_out is not None:
        described = (
            f"run {plan.run_id!r} plays situations that are held out for evaluation: learn from "
            "another run"
        )
    elif plan.deterministic and connection.execute(stored).scalar_one_or_none() is not None:
        described = (
            f"run {plan.run_id!r} has begun, and its episodes have no version of this training: "
            "start the training first, and then a run under another name"
        )
    else:
        return
    violation = Violation("plan.run_id", described)
    raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation])


def _training(connection: Connection, row: RowMapping) -> Training:
    message, plan = row["status_message"], TrainingPlan.FromString(row["plan"])
    if message == WAITS_FOR_EPISODES and row["deterministic"]:
        message = order.progress(connection, row)
    elif message == WAITS_FOR_EPISODES and plan.experience == STORED:
        message = "takes its episodes from what is stored"
    return Training(
        training_id=row["training_id"],
        plan=plan,
        state=TrainingState.ValueType(row["state"]),
        status_message=message,
        updates=row["updates"],
        episodes=row["episodes"],
        policy_version=row["policy_version"] or "",
        started_at=moment.to_proto(row["started_at"]),
        ended_at=None if row["ended_at"] is None else moment.to_proto(row["ended_at"]),
    )
