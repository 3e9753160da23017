"""Which version is the active one, and which was before.

Activations lie on each other. An activation stands until it is rolled back; the newest that stands
is that of the active version. So rolling back twice goes back twice, and not forth again: what is
activated after a roll back lies on what was rolled back to.
"""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, Select, select, update

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.registry_pb2 import PolicyActivated, RollBackPolicyResponse, WatchPoliciesResponse
from simic.database.schema import artifacts, policies, policy_events
from simic.policies import events


def active_version(connection: Connection) -> str | None:
    """The active version, or None before the first activation."""
    return connection.execute(_standing().limit(1)).scalar_one_or_none()


def activate(connection: Connection, policy_version: str, reason: str) -> str | None:
    """Activate a registered version within the caller's transaction; the one active before.

    Activating the active one again changes nothing.
    """
    previous = active_version(connection)
    if previous != policy_version:
        event = _activated(policy_version, previous or "", reason)
        events.append(connection, events.ACTIVATED, policy_version, event)
    return previous


def roll_back(connection: Connection, reason: str) -> RollBackPolicyResponse:
    """Make the version active that was so before the active one, within the caller's transaction.

    Raises:
        LeylineError: NOTHING_TO_ROLL_BACK.
    """
    previous, below = active_version(connection), below_active(connection)
    if previous is None or below is None:
        raise LeylineError(ErrorCode.NOTHING_TO_ROLL_BACK)
    connection.execute(
        update(policy_events)
        .where(
            policy_events.c.kind == events.ACTIVATED,
            policy_events.c.sequence > below["sequence"],
        )
        .values(rolled_back=True)
    )
    version = below["policy_version"]
    event = _activated(version, previous, reason)
    events.append(connection, events.ROLLED_BACK, version, event)
    return RollBackPolicyResponse(policy_version=version, previous_version=previous)


def below_active(connection: Connection) -> RowMapping | None:
    """The activation that a roll back returns to. Versions of which the artifact is gone are passed
    over: nobody could serve them.
    """
    lower = (
        _standing(policy_events.c.sequence)
        .join(policies, policies.c.policy_version == policy_events.c.policy_version)
        .join(artifacts, artifacts.c.sha256 == policies.c.artifact_sha256)
        .where(policy_events.c.policy_version != active_version(connection))
        .limit(1)
    )
    return connection.execute(lower).mappings().one_or_none()


def _standing(*more: object) -> Select[tuple[str]]:
    """The versions of the activations that stand, the active one first."""
    return (
        select(policy_events.c.policy_version, *more)
        .where(policy_events.c.kind == events.ACTIVATED, policy_events.c.rolled_back.is_(False))
        .order_by(policy_events.c.sequence.desc())
    )


def _activated(policy_version: str, previous: str, reason: str) -> WatchPoliciesResponse:
    return WatchPoliciesResponse(
        activated=PolicyActivated(
            policy_version=policy_version, previous_version=previous, reason=reason
        )
    )
