"""Versions that nothing needs any more: their artifacts go, their manifests stay.

A version whose artifact is gone is still there for lineage and for the experience that it decided.
It can be neither downloaded nor activated until somebody registers it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, or_, select

from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.registry_pb2 import CollectGarbageResponse
from leyline.v1.transition_pb2 import Termination
from simic.database.schema import artifacts, episodes, policies, training_updates, trainings
from simic.policies import candidates
from simic.policies.activation import active_version, below_active
from simic.policies.fitting import serving_versions

DEFAULT_KEEP = 20


def collect(connection: Connection, keep_newest: int, *, dry_run: bool) -> CollectGarbageResponse:
    """Delete artifacts within the caller's transaction; in a dry run, only say which."""
    rows = connection.execute(
        select(policies.c.policy_version, artifacts.c.sha256, artifacts.c.size)
        .join(artifacts, artifacts.c.sha256 == policies.c.artifact_sha256)
        .order_by(policies.c.ordinal)
    ).all()
    versions = set(_needed(connection, keep_newest or DEFAULT_KEEP))
    # Two versions may have one artifact, under two names.
    needed = {row.sha256 for row in rows if row.policy_version in versions}
    garbage = [row for row in rows if row.sha256 not in needed]
    sizes = {row.sha256: row.size for row in garbage}
    if not dry_run:
        for sha256 in sizes:
            connection.execute(delete(artifacts).where(artifacts.c.sha256 == sha256))
    return CollectGarbageResponse(
        policy_versions=[row.policy_version for row in garbage], freed_bytes=sum(sizes.values())
    )


def _needed(connection: Connection, keep_newest: int) -> Iterable[str | None]:
    newest = (
        select(policies.c.policy_version).order_by(policies.c.ordinal.desc()).limit(keep_newest)
    )
    pinned = (
        select(episodes.c.policy_version)
        .where(
            or_(
                episodes.c.termination == Termination.TERMINATION_UNSPECIFIED,
                # Its trainer may still come back to it.
                episodes.c.provisional,
            )
        )
        .distinct()
    )
    for query in (newest, pinned):
        yield from connection.execute(query).scalars()
    yield active_version(connection)
    below = below_active(connection)
    if below is not None:
        yield below["policy_version"]
    yield from serving_versions(connection)
    yield from candidates.versions(connection)
    yield from _of_trainings(connection)


def _of_trainings(connection: Connection) -> Iterable[str]:
    """The versions that running trainings begin with or go on from, and those behind that their
    next episodes are pinned to; also of deterministic ones that have ended, whose runs may go on.
    """
    going_on = connection.execute(
        select(trainings.c.id, trainings.c.plan, trainings.c.updates).where(
            or_(
                trainings.c.state == TrainingState.TRAINING_STATE_RUNNING,
                trainings.c.deterministic,
            )
        )
    ).all()
    for training in going_on:
        plan = TrainingPlan.FromString(training.plan)
        yield plan.initial_version
        yield from connection.execute(
            select(training_updates.c.policy_version).where(
                training_updates.c.training == training.id,
                training_updates.c.sequence >= training.updates - plan.lag,
            )
        ).scalars()
