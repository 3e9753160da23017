"""Versions that are to be evaluated before they may become the active one.

A training has one whose evaluation has begun, and one that waits, at most: a newer one takes the
place of what only waits. A candidate goes when it is judged, or when its training ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from leyline.v1.learner_pb2 import TrainingState
from simic.database.schema import candidates, trainings


def propose(connection: Connection, training: int, policy_version: str, pairs: int) -> None:
    """Have a registered version of a training evaluated on so many pairs of episodes."""
    connection.execute(
        delete(candidates).where(candidates.c.training == training, candidates.c.begun.is_(False))
    )
    connection.execute(
        insert(candidates).values(
            training=training, policy_version=policy_version, pairs=pairs, begun=False
        )
    )


def next_candidate(connection: Connection, training: int | None = None) -> RowMapping | None:
    """The candidate that is evaluated, or else waits, with the plan of its training, which runs;
    of one training, or of whichever runs.
    """
    query = (
        select(candidates, trainings.c.plan)
        .join(trainings, trainings.c.id == candidates.c.training)
        .where(trainings.c.state == TrainingState.TRAINING_STATE_RUNNING)
        .order_by(candidates.c.begun.desc(), candidates.c.id)
        .limit(1)
    )
    if training is not None:
        query = query.where(candidates.c.training == training)
    return connection.execute(query).mappings().one_or_none()


def begin(connection: Connection, candidate: int) -> None:
    """Say that an episode was handed out for the candidate with this row number."""
    connection.execute(update(candidates).where(candidates.c.id == candidate).values(begun=True))


def dismiss(connection: Connection, candidate: int) -> None:
    """Let go of the candidate with this row number."""
    connection.execute(delete(candidates).where(candidates.c.id == candidate))


def dismiss_all(connection: Connection, training: int) -> None:
    """Let go of the candidates of the training with this row number."""
    connection.execute(delete(candidates).where(candidates.c.training == training))


def versions(connection: Connection) -> Sequence[str]:
    """All candidates."""
    return connection.execute(select(candidates.c.policy_version)).scalars().all()
