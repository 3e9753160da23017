"""The learner's side of a training: which episodes come next, and one commit for each update.

An update is stored whole or not at all: the version and its activation, the episodes that it
learned from, the state to go on from. A learner that is killed therefore goes on from its last
update, and one that was presumed dead cannot spoil what its successor does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, insert, select

from leyline.observation import spec_by_name
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.registry_pb2 import PolicyManifest
from leyline.v1.transition_pb2 import Termination, Transition
from simic.database import moment
from simic.database.database import Database
from simic.database.schema import (
    episodes,
    training_episodes,
    training_updates,
    trainings,
    transitions,
)
from simic.learning.promotion import promote
from simic.learning.training import RUNNING, change, finish, require
from simic.learning.update import Update
from simic.policies import activation, candidates, registry


class TrainingSuperseded(Exception):
    """The training has ended, or another learner has gone on with it: this one must not."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands between two updates.

    Attributes:
        policy_version: the newest version; None before the training has one.
    """

    plan: TrainingPlan
    running: bool
    stop_requested: bool
    updates: int
    episodes: int
    transitions: int
    policy_version: str | None


@dataclass(frozen=True)
class LearnedVersion:
    """A version as the learner hands it in, with the state to go on from."""

    manifest: PolicyManifest
    artifact: bytes
    checkpoint: bytes


@dataclass(frozen=True)
class Episode:
    """A whole episode: its row number, and its steps in order."""

    row: int
    steps: Sequence[Transition]


class Lessons:
    """The database as the learner of one training sees it."""

    def __init__(self, database: Database, training_id: str) -> None:
        self._database = database
        self._training_id = training_id

    def progress(self) -> Progress:
        """Where the training stands.

        Raises:
            LeylineError: TRAINING_NOT_FOUND.
        """
        with self._database.read() as connection:
            row = require(connection, self._training_id)
        return Progress(
            plan=TrainingPlan.FromString(row["plan"]),
            running=row["state"] == RUNNING,
            stop_requested=row["stop_requested"],
            updates=row["updates"],
            episodes=row["episodes"],
            transitions=row["transitions"],
            policy_version=row["policy_version"],
        )

    def checkpoint(self) -> bytes:
        """The state after the last update, of a training that has begun."""
        query = select(trainings.c.checkpoint).where(trainings.c.training_id == self._training_id)
        with self._database.read() as connection:
            state: bytes = connection.execute(query).scalar_one()
        return state

    def active(self) -> tuple[PolicyManifest, bytes] | None:
        """The active version and its artifact, if there is one."""
        with self._database.read() as connection:
            version = activation.active_version(connection)
            return None if version is None else registry.load(connection, version)

    def fresh(self) -> list[Episode]:
        """The next batch, in the order in which its episodes became whole; empty until it is full.

        An episode counts if it came to its horizon, was sampled, was decided by a version of this
        training (the one that it began with included), was not played for an evaluation, and its
        situation is not held out; each counts once. A training that has made all of its updates
        has no next batch.
        """
        with self._database.read() as connection:
            row = require(connection, self._training_id)
            plan = TrainingPlan.FromString(row["plan"])
            rows = _eligible(connection, row, plan)
        if _has_made_all(row, plan) or len(rows) < plan.episodes_per_update:
            return []
        return [self._load(episode) for episode in rows]

    def replayed(self, batches: int) -> list[Episode]:
        """The episodes of the last ``batches`` updates, oldest first."""
        with self._database.read() as connection:
            row = require(connection, self._training_id)
            rows = connection.execute(
                select(training_episodes.c.episode_id)
                .join(episodes, episodes.c.id == training_episodes.c.episode_id)
                .where(
                    training_episodes.c.training == row["id"],
                    training_episodes.c.sequence > row["updates"] - batches,
                )
                .order_by(episodes.c.whole_sequence)
            ).scalars()
            found = list(rows)
        return [self._load(episode) for episode in found]

    def begin(self, version: LearnedVersion) -> None:
        """Store the version that the training begins with, and make it the active one.

        Raises:
            TrainingSuperseded: the training has begun already, or ended.
        """
        with self._database.write() as connection:
            row = require(connection, self._training_id)
            if row["state"] != RUNNING or row["policy_version"] is not None:
                raise TrainingSuperseded(self._training_id)
            reason = self._publish(connection, row, version, "the first version of")
            activation.activate(connection, version.manifest.policy_version, reason)
            _insert_update(connection, row["id"], 0, version, Update(0, 0.0, {}), 0, 0)
            change(connection, row["id"], status_message="waits for episodes")

    def commit(
        self, number: int, update: Update, batch: Sequence[Episode], version: LearnedVersion
    ) -> None:
        """Store update ``number``, made from the fresh ``batch``; the last one ends the training.

        Raises:
            TrainingSuperseded: the update exists already, or the training has ended.
        """
        steps = sum(len(episode.steps) for episode in batch)
        with self._database.write() as connection:
            row = require(connection, self._training_id)
            if row["state"] != RUNNING or row["updates"] != number - 1:
                raise TrainingSuperseded(self._training_id)
            reason = self._publish(connection, row, version, f"update {number} of")
            training, plan = row["id"], TrainingPlan.FromString(row["plan"])
            promote(connection, training, plan, version.manifest.policy_version, reason)
            _insert_update(connection, training, number, version, update, len(batch), steps)
            connection.execute(
                insert(training_episodes),
                [
                    {"episode_id": episode.row, "training": training, "sequence": number}
                    for episode in batch
                ],
            )
            change(
                connection,
                training,
                updates=number,
                episodes=row["episodes"] + len(batch),
                transitions=row["transitions"] + steps,
                status_message="waits for episodes",
            )
            if number != plan.max_updates:
                return
            if candidates.next_candidate(connection, training) is not None:
                message = f"made all of its {number} updates; waits for the last evaluation"
                change(connection, training, status_message=message)
            else:
                completed = TrainingState.TRAINING_STATE_COMPLETED
                finish(connection, training, completed, f"made all of its {number} updates")

    def _publish(
        self, connection: Connection, row: RowMapping, version: LearnedVersion, what: str
    ) -> str:
        """Register a version, from which the training goes on; what it is, for people."""
        policy_version = version.manifest.policy_version
        registry.register(connection, version.manifest, version.artifact)
        change(connection, row["id"], policy_version=policy_version, checkpoint=version.checkpoint)
        return f"{what} training {self._training_id}"

    def _load(self, episode: int) -> Episode:
        query = (
            select(transitions.c.payload)
            .where(transitions.c.episode_id == episode)
            .order_by(transitions.c.step)
        )
        with self._database.read() as connection:
            payloads = connection.execute(query).scalars().all()
        return Episode(episode, [Transition.FromString(payload) for payload in payloads])


def _has_made_all(row: RowMapping, plan: TrainingPlan) -> bool:
    return bool(plan.max_updates) and row["updates"] >= plan.max_updates


def _eligible(connection: Connection, row: RowMapping, plan: TrainingPlan) -> Sequence[int]:
    own_versions = select(training_updates.c.policy_version).where(
        training_updates.c.training == row["id"]
    )
    query = (
        select(episodes.c.id)
        .where(
            episodes.c.whole_sequence.is_not(None),
            episodes.c.termination == Termination.TERMINATION_HORIZON,
            episodes.c.mode == SelectionMode.SELECTION_MODE_SAMPLED,
            episodes.c.follows_registry,
            episodes.c.evaluation_pair.is_(None),
            episodes.c.held_out.is_(False),
            episodes.c.slots == plan.slots,
            episodes.c.spec_fingerprint == spec_by_name(plan.observation_spec).fingerprint,
            episodes.c.decided_by.in_(own_versions),
            episodes.c.id.not_in(select(training_episodes.c.episode_id)),
        )
        .order_by(episodes.c.whole_sequence)
        .limit(plan.episodes_per_update)
    )
    if plan.run_id:
        query = query.where(episodes.c.run_id == plan.run_id)
    return connection.execute(query).scalars().all()


def _insert_update(
    connection: Connection,
    training: int,
    number: int,
    version: LearnedVersion,
    update: Update,
    batch_episodes: int,
    batch_transitions: int,
) -> None:
    connection.execute(
        insert(training_updates).values(
            training=training,
            sequence=number,
            time=moment.now(),
            policy_version=version.manifest.policy_version,
            episodes=batch_episodes,
            transitions=batch_transitions,
            gradient_steps=update.gradient_steps,
            mean_return=update.mean_return,
            diagnostics=json.dumps(dict(update.diagnostics), sort_keys=True),
        )
    )
