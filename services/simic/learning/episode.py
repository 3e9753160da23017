"""A stored episode as a learner takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from leyline.v1.transition_pb2 import Transition
from simic.database.schema import episodes, training_updates, transitions
from simic.learning.eligible import OF_TWIN, TWINS


@dataclass(frozen=True)
class Episode:
    """A whole episode.

    Attributes:
        row: its number among the episodes.
        steps: in order.
        made_by: the update that made the version which decided it; None where none of this
            training did.
        twin: the steps of the twin that only waits; None where the plan does not want them.
    """

    row: int
    steps: Sequence[Transition]
    made_by: int | None = None
    twin: Sequence[Transition] | None = None


def load(connection: Connection, training: int, row: int, *, minus_twin: bool) -> Episode:
    """Read an episode.

    Args:
        connection: to the database.
        training: row number of the training that learns from it.
        row: its own.
        minus_twin: whether its twin is read, too; it must have one.
    """
    made_by = (
        select(func.max(training_updates.c.sequence))
        .join(episodes, episodes.c.decided_by == training_updates.c.policy_version)
        .where(training_updates.c.training == training, episodes.c.id == row)
    )
    return Episode(
        row=row,
        steps=_steps(connection, row),
        made_by=connection.execute(made_by).scalar_one(),
        twin=_steps(connection, _twin_of(connection, row)) if minus_twin else None,
    )


def _steps(connection: Connection, row: int) -> list[Transition]:
    query = (
        select(transitions.c.payload)
        .where(transitions.c.episode_id == row)
        .order_by(transitions.c.step)
    )
    return [Transition.FromString(payload) for payload in connection.execute(query).scalars()]


def _twin_of(connection: Connection, row: int) -> int:
    query = select(TWINS.c.id).join(episodes, OF_TWIN).where(episodes.c.id == row)
    found: int = connection.execute(query).scalar_one()
    return found
