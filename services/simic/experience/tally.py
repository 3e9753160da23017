"""Counting steps as they are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Insert, Table
from sqlalchemy.dialects import postgresql, sqlite

from simic.database.schema import episode_versions, run_actions


class Action(NamedTuple):
    """What the steps of a run are counted by. The slot is empty where none was named."""

    run_id: str
    decider: int
    action_type: int
    slot_id: str


class Tally:
    """Steps of different kinds, counted to be added to what is stored."""

    def __init__(self) -> None:
        self._steps: Counter[Action] = Counter()
        self._no_ops: Counter[Action] = Counter()
        self._versions: Counter[tuple[int, str]] = Counter()

    def count(
        self, episode: int, action: Action, policy_version: str | None, steps: int, no_ops: int
    ) -> None:
        """Count steps of the episode with this row number; fewer than none are taken off."""
        self._steps[action] += steps
        self._no_ops[action] += no_ops
        if policy_version is not None:
            self._versions[episode, policy_version] += steps

    def add_to(self, connection: Connection) -> None:
        """Add the counts to those that are stored."""
        actions = [
            {**action._asdict(), "steps": steps, "no_ops": self._no_ops[action]}
            for action, steps in self._steps.items()
        ]
        versions = [
            {"episode_id": episode, "policy_version": version, "steps": steps}
            for (episode, version), steps in self._versions.items()
        ]
        _add(connection, run_actions, actions)
        _add(connection, episode_versions, versions)


def _add(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(_addition(connection.dialect.name, table), rows)


@cache
def _addition(dialect: str, table: Table) -> Insert:
    """A statement that adds counts to what there is. Each dialect has its own class for it."""
    if dialect == "postgresql":
        insert: postgresql.Insert | sqlite.Insert = postgresql.insert(table)
    else:
        insert = sqlite.insert(table)
    counts = [column for column in table.c if not column.primary_key]
    grown = {column: column + insert.excluded[column.name] for column in counts}
    return insert.on_conflict_do_update(index_elements=table.primary_key.columns, set_=grown)
