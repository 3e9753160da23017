"""What trainings that run, and evaluations of theirs, still need of the stored experience."""

from __future__ import annotations

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    RowMapping,
    and_,
    exists,
    false,
    or_,
    select,
)

from leyline.observation import spec_by_name
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.transition_pb2 import Termination
from simic.database.schema import episodes, training_episodes, training_updates, trainings
from simic.experience.retention import Condition
from simic.learning.plan import STORED
from simic.learning.recipes import recipe_of
from simic.learning.training import RUNNING
from simic.policies import activation, candidates


def of_trainings(connection: Connection) -> Condition:
    """Whether a training that runs may learn from an episode, for the first time or again."""
    query = select(trainings.c.id, trainings.c.plan, trainings.c.updates)
    rows = connection.execute(query.where(trainings.c.state == RUNNING)).mappings().all()

    def needed(episode: FromClause) -> ColumnElement[bool]:
        return or_(false(), *(_needs(row, episode) for row in rows))

    return needed


def of_evaluations(connection: Connection) -> Condition:
    """Whether an episode was played for an evaluation that is under way, or waits.

    What were forgotten of these would be played again, and not be missed; it would be a pity.
    """
    compared = [*candidates.versions(connection), activation.active_version(connection)]

    def needed(episode: FromClause) -> ColumnElement[bool]:
        if len(compared) == 1:
            return false()
        return episode.c.evaluation_pair.is_not(None) & episode.c.policy_version.in_(compared)

    return needed


def _needs(training: RowMapping, episode: FromClause) -> ColumnElement[bool]:
    plan = TrainingPlan.FromString(training["plan"])
    learned_from = training_episodes.c.episode_id == episode.c.id
    replayed = exists().where(
        learned_from,
        training_episodes.c.training == training["id"],
        training_episodes.c.sequence > training["updates"] - recipe_of(plan).batches,
    )
    fits = [
        episode.c.termination == Termination.TERMINATION_HORIZON,
        episode.c.held_out.is_(False),
        episode.c.evaluation_pair.is_(None),
        episode.c.spec_fingerprint == spec_by_name(plan.observation_spec).fingerprint,
    ]
    if plan.slots:
        fits.append(episode.c.slots == plan.slots)
    twin_to_be = false() if not plan.minus_twin else and_(*fits, _may_become_a_twin(episode))
    if plan.run_id:
        fits.append(episode.c.run_id == plan.run_id)
    if plan.experience != STORED:
        fits += [
            episode.c.mode == SelectionMode.SELECTION_MODE_SAMPLED,
            episode.c.follows_registry,
            ~exists().where(learned_from),
        ]
    if plan.experience != STORED and not plan.deterministic:
        own = exists().where(
            training_updates.c.training == training["id"],
            training_updates.c.policy_version == episode.c.decided_by,
        )
        fits.append(own)
    return or_(replayed, twin_to_be, and_(*fits))


def _may_become_a_twin(episode: FromClause) -> ColumnElement[bool]:
    """Whether an episode is one of a control, such as twins are, and nobody's yet.

    A twin is played first. Were it forgotten before the episode that names it begins, that episode
    would never be learned from.
    """
    naming = episodes.alias("naming")
    named = exists().where(
        naming.c.twin_run_id == episode.c.run_id,
        naming.c.twin_episode_index == episode.c.episode_index,
    )
    return episode.c.follows_registry.is_(False) & ~named
