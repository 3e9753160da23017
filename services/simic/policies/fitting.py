"""Which versions decide for which episodes."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, or_, select

from leyline.v1.registry_pb2 import PolicyManifest
from leyline.v1.transition_pb2 import Termination
from simic.database.schema import artifacts, episodes, policies, policy_events
from simic.policies.events import ACTIVATED, newest_report


@dataclass(frozen=True)
class Shape:
    """What a version has to decide for.

    Attributes:
        slots: of each snapshot.
        spec_fingerprint: of the observation spec that snapshots are filled for.
    """

    slots: int
    spec_fingerprint: str


def version_for(connection: Connection, shape: Shape) -> str | None:
    """The version for episodes of that shape: the newest activated one that decides for them and
    that no policy server has refused. None where no version decides for them.

    A server that refuses a version serves the one before, and so do the episodes that begin then:
    pinned to the refused one, they would be decided by nobody. Where all have been refused it is
    the newest. One that was rolled back serves where no other decides for the shape: it must not
    end the runs that are being played.
    """
    return _serving(connection, *_conditions(shape))


def serving_versions(connection: Connection) -> set[str]:
    """The versions that ``version_for`` gives for some shape."""
    kinds = connection.execute(
        select(policies.c.slots, policies.c.spec_fingerprint).distinct()
    ).all()
    found = (
        _serving(
            connection,
            policies.c.slots.is_not_distinct_from(kind.slots),
            policies.c.spec_fingerprint == kind.spec_fingerprint,
        )
        for kind in kinds
    )
    return {version for version in found if version is not None}


def _serving(connection: Connection, *conditions: ColumnElement[bool]) -> str | None:
    activated = (
        select(policy_events.c.policy_version)
        .join(policies, policies.c.policy_version == policy_events.c.policy_version)
        .join(artifacts, artifacts.c.sha256 == policies.c.artifact_sha256)
        .where(policy_events.c.kind == ACTIVATED, *conditions)
        .order_by(policy_events.c.sequence.desc())
    )
    versions: dict[str, None] = {}
    version: str
    for rolled_back in (False, True):
        found = activated.where(policy_events.c.rolled_back.is_(rolled_back))
        for version in connection.execute(found).scalars():
            if version not in versions and not is_refused(connection, version):
                return version
            versions[version] = None
    return next(iter(versions), None)


def is_refused(connection: Connection, policy_version: str) -> bool:
    """Whether the newest report about a version says so."""
    report = newest_report(connection, policy_version)
    return report is not None and not report.accepted


def decides(connection: Connection, policy_version: str, shape: Shape) -> bool:
    """Whether a version decides for episodes of that shape."""
    fits = select(policies.c.ordinal).where(
        policies.c.policy_version == policy_version, *_conditions(shape)
    )
    return connection.execute(fits).one_or_none() is not None


def what_does_not_fit(connection: Connection, manifest: PolicyManifest) -> str:
    """The episodes being played under the registry for which a version does not decide, for people;
    empty where it decides for all.
    """
    unfit = episodes.c.spec_fingerprint != manifest.observation_spec.fingerprint
    if not manifest.slots.any:
        unfit = or_(unfit, episodes.c.slots != manifest.slots.exactly)
    of_run = (episodes.c.run_id, episodes.c.slots, episodes.c.spec_fingerprint)
    rows = connection.execute(
        select(*of_run)
        .where(
            episodes.c.termination == Termination.TERMINATION_UNSPECIFIED,
            episodes.c.follows_registry,
            unfit,
        )
        .group_by(*of_run)
        .order_by(func.max(episodes.c.id).desc())
    ).all()
    if not rows:
        return ""
    run, more = rows[0], len(rows) - 1
    played = _described(run.slots, run.spec_fingerprint)
    others = f", as {more} more" if more else ""
    decides_for = _described(
        manifest.slots.exactly or "any number of", manifest.observation_spec.fingerprint
    )
    return f"run {run.run_id!r} has {played}{others}; it decides for {decides_for}"


def _described(slots: int | str, fingerprint: str) -> str:
    return f"{slots} slot{'' if slots == 1 else 's'} under the spec {fingerprint[:12]}"


def _conditions(shape: Shape) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (
        or_(policies.c.slots.is_(None), policies.c.slots == shape.slots),
        policies.c.spec_fingerprint == shape.spec_fingerprint,
    )
