"""What happened in the registry, as it is written down: WatchPolicies tells it in this order."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from leyline.v1.registry_pb2 import PolicyReport, WatchPoliciesResponse
from simic.database import moment
from simic.database.schema import policy_events

REGISTERED = "registered"
ACTIVATED = "activated"
ROLLED_BACK = "rolled back"
REPORTED = "reported"
EVALUATED = "evaluated"


def append(
    connection: Connection, kind: str, policy_version: str, event: WatchPoliciesResponse
) -> None:
    """Write an event down."""
    connection.execute(
        insert(policy_events).values(
            time=moment.now(),
            kind=kind,
            policy_version=policy_version,
            rolled_back=False,
            payload=event.SerializeToString(deterministic=True),
        )
    )


def newest(
    connection: Connection, kind: str, policy_version: str, limit: int
) -> list[WatchPoliciesResponse]:
    """The newest events of a kind about a version, newest last."""
    payloads = connection.execute(
        select(policy_events.c.payload)
        .where(policy_events.c.kind == kind, policy_events.c.policy_version == policy_version)
        .order_by(policy_events.c.sequence.desc())
        .limit(limit)
    ).scalars()
    return [WatchPoliciesResponse.FromString(payload) for payload in payloads][::-1]


def newest_report(connection: Connection, policy_version: str) -> PolicyReport | None:
    """What a policy server last said of a version."""
    reports = newest(connection, REPORTED, policy_version, 1)
    return reports[0].reported if reports else None
