"""The learner's side of a training: which episodes come next, and one commit for each update.

An update is stored whole or not at all: the version and its activation, the episodes that it
learned from, the state to go on from. A learner that is killed therefore goes on from its last
update, and one that was presumed dead cannot spoil what its successor does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, RowMapping, insert, select

from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.registry_pb2 import PolicyManifest
from simic.database import moment
from simic.database.database import Database
from simic.database.schema import episodes, training_episodes, training_updates, trainings
from simic.learning import order
from simic.learning.eligible import eligible, fitting, in_order
from simic.learning.episode import Episode, load
from simic.learning.plan import STORED
from simic.learning.promotion import promote
from simic.learning.training import RUNNING, WAITS_FOR_EPISODES, change, finish, require
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

    def version(self, name: str) -> tuple[PolicyManifest, bytes] | None:
        """A version and its artifact; the active one, if there is one, where ``name`` is empty.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND.
        """
        with self._database.read() as connection:
            found = name or activation.active_version(connection)
            return None if found is None else registry.load(connection, found)

    def fresh(self) -> list[Episode] | None:
        """The next batch; None until it is there.

        An episode counts if it came to its horizon, was sampled, was decided by a version of this
        training (the one that it began with included), was not played for an evaluation, and its
        situation is not held out; each counts once. A batch is full with so many of them, in the
        order in which they became whole. In a deterministic training the batch is what counts of
        the episodes whose turn it is, in the order of their index: that may be fewer, or none. A
        training that has made all of its updates has no next batch.
        """
        with self._database.read() as connection:
            row = require(connection, self._training_id)
            plan = TrainingPlan.FromString(row["plan"])
            if _has_made_all(row, plan):
                return None
            if plan.deterministic:
                if order.awaited(connection, row) is not None:
                    return None
                rows = in_order(connection, row, plan)
            else:
                rows = eligible(connection, row, plan)
                if len(rows) < plan.episodes_per_update:
                    return None
        return self._load(rows, plan)

    def stored(self, number: int) -> list[Episode] | None:
        """A batch for update ``number`` of what is stored, whoever decided it.

        Drawn without replacement, by the plan's seed and the number, from the whole episodes that
        fit the plan and came to their horizon; None where there are none.
        """
        with self._database.read() as connection:
            row = require(connection, self._training_id)
            plan = TrainingPlan.FromString(row["plan"])
            if _has_made_all(row, plan):
                return None
            query = select(episodes.c.id).where(*fitting(plan)).order_by(episodes.c.id)
            rows = np.array(connection.execute(query).scalars().all(), np.int64)
        if len(rows) == 0:
            return None
        random = np.random.default_rng([plan.seed, number])
        drawn = random.permutation(rows)[: plan.episodes_per_update]
        return self._load([int(episode) for episode in drawn], plan)

    def replayed(self, batches: int) -> list[list[Episode]]:
        """The episodes of the last ``batches`` updates, oldest first, each batch by itself."""
        with self._database.read() as connection:
            row = require(connection, self._training_id)
            plan = TrainingPlan.FromString(row["plan"])
            in_turn = episodes.c.episode_index if plan.deterministic else episodes.c.whole_sequence
            rows = connection.execute(
                select(training_episodes.c.sequence, training_episodes.c.episode_id)
                .join(episodes, episodes.c.id == training_episodes.c.episode_id)
                .where(
                    training_episodes.c.training == row["id"],
                    training_episodes.c.sequence > row["updates"] - batches,
                )
                .order_by(training_episodes.c.sequence, in_turn)
            ).all()
        by_update: dict[int, list[int]] = {}
        for row_of in rows:
            by_update.setdefault(row_of.sequence, []).append(row_of.episode_id)
        return [self._load(batch, plan) for batch in by_update.values()]

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
            policy_version, nothing = version.manifest.policy_version, Update(0, 0.0, {})
            activation.activate(connection, policy_version, reason)
            _insert_update(connection, row["id"], 0, policy_version, nothing, 0, 0)
            change(connection, row["id"], status_message=WAITS_FOR_EPISODES)

    def commit(
        self, number: int, update: Update, batch: Sequence[Episode], version: LearnedVersion
    ) -> None:
        """Store update ``number``, made from the fresh ``batch``; the last one ends the training.

        Raises:
            TrainingSuperseded: the update exists already, or the training has ended.
        """
        steps = sum(len(episode.steps) for episode in batch)
        with self._database.write() as connection:
            row = self._before(connection, number)
            reason = self._publish(connection, row, version, f"update {number} of")
            training, plan = row["id"], TrainingPlan.FromString(row["plan"])
            policy_version = version.manifest.policy_version
            promote(connection, training, plan, policy_version, reason)
            _insert_update(connection, training, number, policy_version, update, len(batch), steps)
            if plan.experience != STORED:
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
                episodes=row["episodes"] + len(batch),
                transitions=row["transitions"] + steps,
            )
            _turn(connection, row, number)

    def pass_over(self, number: int) -> None:
        """Store update ``number`` as one that changed nothing: its batch had no episode.

        The version stays, so that there is one after each update.

        Raises:
            TrainingSuperseded: the update exists already, or the training has ended.
        """
        with self._database.write() as connection:
            row = self._before(connection, number)
            version, nothing = row["policy_version"], Update(0, 0.0, {})
            _insert_update(connection, row["id"], number, version, nothing, 0, 0)
            _turn(connection, row, number)

    def _before(self, connection: Connection, number: int) -> RowMapping:
        """The training, if it stands before update ``number``."""
        row = require(connection, self._training_id)
        if row["state"] != RUNNING or row["updates"] != number - 1:
            raise TrainingSuperseded(self._training_id)
        return row

    def _publish(
        self, connection: Connection, row: RowMapping, version: LearnedVersion, what: str
    ) -> str:
        """Register a version, from which the training goes on; what it is, for people."""
        policy_version = version.manifest.policy_version
        registry.register(connection, version.manifest, version.artifact)
        change(connection, row["id"], policy_version=policy_version, checkpoint=version.checkpoint)
        return f"{what} training {self._training_id}"

    def _load(self, rows: Sequence[int], plan: TrainingPlan) -> list[Episode]:
        """The episodes of these row numbers, in this order."""
        with self._database.read() as connection:
            training = require(connection, self._training_id)["id"]
            return [load(connection, training, row, minus_twin=plan.minus_twin) for row in rows]


def _has_made_all(row: RowMapping, plan: TrainingPlan) -> bool:
    return bool(plan.max_updates) and row["updates"] >= plan.max_updates


def _turn(connection: Connection, row: RowMapping, number: int) -> None:
    """Put the training behind update ``number``; the last one ends it."""
    change(connection, row["id"], updates=number, status_message=WAITS_FOR_EPISODES)
    if number != TrainingPlan.FromString(row["plan"]).max_updates:
        return
    if candidates.next_candidate(connection, row["id"]) is not None:
        message = f"made all of its {number} updates; waits for the last evaluation"
        change(connection, row["id"], status_message=message)
    else:
        completed = TrainingState.TRAINING_STATE_COMPLETED
        finish(connection, row["id"], completed, f"made all of its {number} updates")


def _insert_update(
    connection: Connection,
    training: int,
    number: int,
    policy_version: str,
    update: Update,
    batch_episodes: int,
    batch_transitions: int,
) -> None:
    connection.execute(
        insert(training_updates).values(
            training=training,
            sequence=number,
            time=moment.now(),
            policy_version=policy_version,
            episodes=batch_episodes,
            transitions=batch_transitions,
            gradient_steps=update.gradient_steps,
            mean_return=update.mean_return,
            diagnostics=json.dumps(dict(update.diagnostics), sort_keys=True),
            alarms=json.dumps(list(update.alarms)),
        )
    )
