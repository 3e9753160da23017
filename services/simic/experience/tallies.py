"""Counts of stored steps, kept as they are stored: whoever asks need not wait for a look at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from leyline.v1.transition_pb2 import Transition
from simic.database.schema import episode_versions, tallies


class Kind(NamedTuple):
    """What steps have in common that are counted together; the empty string is "none"."""

    run_id: str
    policy_version: str
    decider: int
    action_type: int
    slot_id: str


def kind_of(step: Transition) -> Kind:
    """The kind of a step."""
    decision = step.decision
    return Kind(
        step.step_id.run_id,
        decision.policy_version,
        step.decider,
        decision.action_type,
        decision.slot_id,
    )


class Tally:
    """How many steps there are of each kind, and how many of them were no-ops."""

    def __init__(self) -> None:
        self._steps: Counter[Kind] = Counter()
        self._no_ops: Counter[Kind] = Counter()

    def count(self, kind: Kind, steps: int, no_ops: int) -> None:
        """Count steps of one kind."""
        self._steps[kind] += steps
        self._no_ops[kind] += no_ops

    def add_to(self, connection: Connection) -> None:
        """Add it to what is stored."""
        if not self._steps:
            return
        insert = _insert(connection, tallies)
        counts = ("steps", "no_ops")
        grown = {name: tallies.c[name] + insert.excluded[name] for name in counts}
        connection.execute(
            insert.on_conflict_do_update(index_elements=tallies.primary_key, set_=grown),
            [
                {**kind._asdict(), "steps": steps, "no_ops": self._no_ops[kind]}
                for kind, steps in self._steps.items()
            ],
        )


def add_versions(connection: Connection, decided: Iterable[tuple[int, str]]) -> None:
    """Note that versions decided steps of episodes, as (episode's row number, version)."""
    rows = [{"episode_id": episode, "policy_version": version} for episode, version in decided]
    if rows:
        connection.execute(_insert(connection, episode_versions).on_conflict_do_nothing(), rows)


def _insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
