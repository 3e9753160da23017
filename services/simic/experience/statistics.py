"""Counts of what is stored."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Row, distinct, func, select

from leyline.v1.decision_pb2 import ActionType
from leyline.v1.experience_pb2 import ActionCount, GetStatisticsResponse, VersionCount
from leyline.v1.transition_pb2 import Decider
from simic.database import space
from simic.database.schema import episode_versions, episodes, tallies


def count(connection: Connection, run_id: str) -> GetStatisticsResponse:
    """Counts over one run, or over all where ``run_id`` is empty; no step is looked at."""
    of_run = [episodes.c.run_id == run_id] if run_id else []
    heads = connection.execute(
        select(
            func.count(distinct(episodes.c.run_id)).label("runs"),
            func.count().label("episodes"),
            func.count().filter(episodes.c.termination != 0).label("ended"),
        ).where(*of_run)
    ).one()
    kinds = connection.execute(
        select(tallies)
        .where(tallies.c.steps > 0, *([tallies.c.run_id == run_id] if run_id else []))
        .order_by(tallies.c.action_type, tallies.c.slot_id)
    ).all()
    return GetStatisticsResponse(
        runs=heads.runs,
        episodes=heads.episodes,
        episodes_ended=heads.ended,
        transitions=sum(kind.steps for kind in kinds),
        fallback_steps=sum(
            kind.steps for kind in kinds if kind.decider == Decider.DECIDER_FALLBACK
        ),
        actions=_actions(kinds),
        versions=_versions(connection, kinds, of_run),
        stored_bytes=space.stored_bytes(connection),
    )


def _actions(kinds: Sequence[Row[tuple[object, ...]]]) -> list[ActionCount]:
    counts: dict[tuple[int, str], ActionCount] = {}
    for kind in kinds:
        action = counts.setdefault(
            (kind.action_type, kind.slot_id),
            ActionCount(
                action_type=ActionType.ValueType(kind.action_type), slot_id=kind.slot_id or None
            ),
        )
        action.steps += kind.steps
        action.no_ops += kind.no_ops
    return list(counts.values())


def _versions(
    connection: Connection,
    kinds: Sequence[Row[tuple[object, ...]]],
    of_run: Sequence[ColumnElement[bool]],
) -> list[VersionCount]:
    """Oldest first."""
    rows = connection.execute(
        select(episode_versions.c.policy_version, func.count().label("episodes"))
        .join(episodes, episodes.c.id == episode_versions.c.episode_id)
        .where(*of_run)
        .group_by(episode_versions.c.policy_version)
        .order_by(func.min(episodes.c.id), episode_versions.c.policy_version)
    )
    counts = {
        row.policy_version: VersionCount(policy_version=row.policy_version, episodes=row.episodes)
        for row in rows
    }
    for kind in kinds:
        if kind.policy_version:
            counts[kind.policy_version].steps += kind.steps
    return list(counts.values())
