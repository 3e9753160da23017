"""Which stored episodes a training may learn from, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, exists, select

from leyline.observation import spec_by_name
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.transition_pb2 import Termination
from simic.database.schema import episodes, training_episodes, training_updates
from simic.learning import order

TWINS = episodes.alias("twins")
OF_TWIN = and_(
    TWINS.c.run_id == episodes.c.twin_run_id,
    TWINS.c.episode_index == episodes.c.twin_episode_index,
)


def fitting(plan: TrainingPlan) -> list[ColumnElement[bool]]:
    """What every episode that a plan can learn from has in common, whoever decided it."""
    fits = [
        episodes.c.whole_sequence.is_not(None),
        episodes.c.termination == Termination.TERMINATION_HORIZON,
        episodes.c.held_out.is_(False),
        episodes.c.evaluation_pair.is_(None),
        episodes.c.forgotten_at.is_(None),
        episodes.c.spec_fingerprint == spec_by_name(plan.observation_spec).fingerprint,
    ]
    if plan.slots:
        fits.append(episodes.c.slots == plan.slots)
    if plan.run_id:
        fits.append(episodes.c.run_id == plan.run_id)
    if plan.minus_twin:
        whole = TWINS.c.whole_sequence.is_not(None) & TWINS.c.forgotten_at.is_(None)
        to_the_end = TWINS.c.termination == Termination.TERMINATION_HORIZON
        fits.append(exists().where(OF_TWIN, whole, to_the_end))
    return fits


_SAMPLED = (
    episodes.c.mode == SelectionMode.SELECTION_MODE_SAMPLED,
    episodes.c.follows_registry,
)


def eligible(connection: Connection, row: RowMapping, plan: TrainingPlan) -> Sequence[int]:
    """The next batch's row numbers, in the order in which its episodes became whole.

    They are fewer than an update takes where there are no more.
    """
    own_versions = select(training_updates.c.policy_version).where(
        training_updates.c.training == row["id"]
    )
    query = (
        select(episodes.c.id)
        .where(
            *fitting(plan),
            *_SAMPLED,
            episodes.c.decided_by.in_(own_versions),
            episodes.c.id.not_in(select(training_episodes.c.episode_id)),
        )
        .order_by(episodes.c.whole_sequence)
        .limit(plan.episodes_per_update)
    )
    return connection.execute(query).scalars().all()


def in_order(connection: Connection, row: RowMapping, plan: TrainingPlan) -> Sequence[int]:
    """Likewise in a deterministic training, of the episodes whose turn it is."""
    batch = order.next_batch(row)
    query = (
        select(episodes.c.id)
        .where(
            *fitting(plan),
            *_SAMPLED,
            episodes.c.episode_index >= batch[0],
            episodes.c.episode_index <= batch[-1],
            # Another version decides where a trainer did not wait for this service.
            episodes.c.decided_by == episodes.c.policy_version,
        )
        .order_by(episodes.c.episode_index)
    )
    return connection.execute(query).scalars().all()
