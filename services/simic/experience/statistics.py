"""Counts of what is stored."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, distinct, func, select

from leyline.v1.decision_pb2 import ActionType
from leyline.v1.experience_pb2 import ActionCount, GetStatisticsResponse, VersionCount
from leyline.v1.transition_pb2 import Decider
from simic.database import space
from simic.database.schema import episode_versions, episodes, run_actions


def count(connection: Connection, run_id: str) -> GetStatisticsResponse:
    """Counts over one run, or over all where ``run_id`` is empty; no step is looked at."""
    heads = connection.execute(
        select(
            func.count(distinct(episodes.c.run_id)).label("runs"),
            func.count().label("episodes"),
            func.count().filter(episodes.c.termination != 0).label("ended"),
        ).where(*_of(run_id, episodes.c.run_id))
    ).one()
    steps, fallback = func.sum(run_actions.c.steps), Decider.DECIDER_FALLBACK
    totals = connection.execute(
        select(
            func.coalesce(steps, 0).label("transitions"),
            func.coalesce(steps.filter(run_actions.c.decider == fallback), 0).label("fallback"),
        ).where(*_of(run_id, run_actions.c.run_id))
    ).one()
    return GetStatisticsResponse(
        runs=heads.runs,
        episodes=heads.episodes,
        episodes_ended=heads.ended,
        transitions=int(totals.transitions),
        fallback_steps=int(totals.fallback),
        actions=_actions(connection, run_id),
        versions=_versions(connection, run_id),
        stored_bytes=space.stored_bytes(connection),
    )


def _of(run_id: str, column: ColumnElement[str]) -> list[ColumnElement[bool]]:
    return [column == run_id] if run_id else []


def _actions(connection: Connection, run_id: str) -> list[ActionCount]:
    kind = (run_actions.c.action_type, run_actions.c.slot_id)
    steps = func.sum(run_actions.c.steps)
    rows = connection.execute(
        select(*kind, steps.label("steps"), func.sum(run_actions.c.no_ops).label("no_ops"))
        .where(*_of(run_id, run_actions.c.run_id))
        .group_by(*kind)
        .having(steps > 0)
        .order_by(*kind)
    )
    return [
        ActionCount(
            action_type=ActionType.ValueType(row.action_type),
            slot_id=row.slot_id or None,
            steps=int(row.steps),
            no_ops=int(row.no_ops),
        )
        for row in rows
    ]


def _versions(connection: Connection, run_id: str) -> list[VersionCount]:
    """In the order of the first episodes that they decided in."""
    table = episode_versions
    query = (
        select(
            table.c.policy_version,
            func.sum(table.c.steps).label("steps"),
            func.count().label("episodes"),
        )
        .group_by(table.c.policy_version)
        .order_by(func.min(table.c.episode_id), table.c.policy_version)
    )
    if run_id:
        of_run = episodes.c.run_id == run_id
        query = query.join(episodes, episodes.c.id == table.c.episode_id).where(of_run)
    return [
        VersionCount(policy_version=row.policy_version, steps=int(row.steps), episodes=row.episodes)
        for row in connection.execute(query)
    ]
