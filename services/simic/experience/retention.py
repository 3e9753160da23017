"""How long experience is kept: the oldest goes first, and nothing that is still needed.

What goes are the transitions of an episode that is over and whole, all of them. The episode itself
stays, as one that was abandoned before its first step: its name can never mean something else, and
trainings go on referring to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    RowMapping,
    and_,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from chassis.errors import LeylineError
from chassis.logging import get_logger
from simic.database import moment, space
from simic.database.database import Database
from simic.database.schema import episode_versions, episodes, transitions
from simic.experience import ends
from simic.experience.ledger import ROW_BYTES
from simic.experience.sparing import sparing
from simic.experience.tally import Action, Tally

FIRST_LOOK_S = 60.0
LOOK_S = 600.0
EPISODES_A_LOOK = 256
TRANSITIONS_A_COMMIT = 1000
"""Few, so that what is recorded meanwhile hardly waits."""

Condition: TypeAlias = Callable[[FromClause], ColumnElement[bool]]
"""Whether an episode is needed, given the table ``episodes`` or an alias of it."""

Need: TypeAlias = Callable[[Connection], Condition]
"""What somebody needs, as the database stands."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Due:
    """An episode that is to be forgotten, by its row number, and why, for people."""

    episode: int
    reason: str


class Retention:
    """Forgets what is older, or more, than is to be kept. Run ``run`` as a task."""

    def __init__(
        self, database: Database, keep_days: float, keep_bytes: int, needs: Sequence[Need] = ()
    ) -> None:
        """Keep what something was heard of within so many days, and so many bytes of that.

        Args:
            database: where it is.
            keep_days: 0: for ever.
            keep_bytes: what all transitions may take, about as SQLite stores them; 0: any number.
            needs: what is not forgotten whatever its age, and neither are the twins of that.
        """
        self._database = database
        self._keep_days = keep_days
        self._keep_bytes = keep_bytes
        self._needs = needs

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            try:
                while due := await asyncio.to_thread(self.due):
                    await self._forget_all(due)
                while await sparing(self._give_back):
                    pass
            except (LeylineError, SQLAlchemyError) as error:
                # A full disk (it takes room to make room), or a database that is away.
                _log.warning("nothing is forgotten now", reason=str(error))
            await asyncio.sleep(LOOK_S)

    async def _forget_all(self, due: Sequence[Due]) -> None:
        count = 0
        for one in due:
            while forgotten := await sparing(partial(self.forget, one)):
                count += forgotten
        reasons = sorted({one.reason for one in due})
        _log.info("experience forgotten", episodes=len(due), transitions=count, reasons=reasons)

    def due(self) -> list[Due]:
        """Some of what is to be forgotten now, oldest first; empty where nothing is. Blocks."""
        cutoff = moment.now() - round(self._keep_days * 86_400e6)
        found = []
        with self._database.read() as connection:
            excess = self._excess(connection)
            oldest = connection.execute(
                select(*episodes.c["id", "heard_at", "stored_bytes", "forgotten_at"])
                .where(_is_stored(), self._may_go(connection))
                .order_by(episodes.c.heard_at, episodes.c.id)
                .limit(EPISODES_A_LOOK)
            )
            for row in oldest:
                if row.forgotten_at is not None:
                    reason = "its steps were being deleted when the service stopped"
                elif self._keep_days and row.heard_at < cutoff:
                    reason = f"its steps were older than the {self._keep_days:g} days kept"
                elif excess > 0:
                    reason = f"its steps were beyond the newest {self._keep_bytes} bytes kept"
                else:
                    break
                found.append(Due(row.id, reason))
                excess -= row.stored_bytes
        return found

    def forget(self, due: Due) -> int:
        """Delete transitions of an episode in one commit; how many. 0 where none is left. Blocks.

        Nothing is deleted either where somebody needs the episode by now.
        """
        with self._database.write() as connection:
            query = select(episodes).where(
                episodes.c.id == due.episode, _is_stored(), self._may_go(connection)
            )
            row = connection.execute(query).mappings().one_or_none()
            return 0 if row is None else _delete_some(connection, row, due.reason)

    def _give_back(self) -> bool:
        with self._database.write() as connection:
            return space.give_back(connection)

    def _excess(self, connection: Connection) -> int:
        if not self._keep_bytes:
            return 0
        total = select(func.coalesce(func.sum(episodes.c.stored_bytes), 0)).where(_is_stored())
        return int(connection.execute(total).scalar_one()) - self._keep_bytes

    def _may_go(self, connection: Connection) -> ColumnElement[bool]:
        """Whether the episode is over and whole, and nobody needs it or has it for a twin."""
        conditions = [need(connection) for need in self._needs]

        def needed(episode: FromClause) -> ColumnElement[bool]:
            goes_on = episode.c.whole_sequence.is_(None)
            return or_(goes_on, *(condition(episode) for condition in conditions))

        other = episodes.alias()
        has_it_for_a_twin = exists().where(
            other.c.twin_run_id == episodes.c.run_id,
            other.c.twin_episode_index == episodes.c.episode_index,
            needed(other),
        )
        return or_(
            episodes.c.forgotten_at.is_not(None), and_(~needed(episodes), ~has_it_for_a_twin)
        )


def _is_stored() -> ColumnElement[bool]:
    # As the index says it; a parameter would hide that it is the same.
    return episodes.c.stored > literal(0, literal_execute=True)


def _delete_some(connection: Connection, row: RowMapping, reason: str) -> int:
    of_episode = transitions.c.episode_id == row["id"]
    last = connection.execute(
        select(transitions.c.step)
        .where(of_episode)
        .order_by(transitions.c.step)
        .limit(1)
        .offset(TRANSITIONS_A_COMMIT - 1)
    ).scalar_one_or_none()
    chosen = of_episode if last is None else and_(of_episode, transitions.c.step <= last)
    steps, size = _take_off(connection, row, chosen)
    connection.execute(delete(transitions).where(chosen))
    values = {
        "stored": row["stored"] - steps,
        "stored_bytes": row["stored_bytes"] - size,
    }
    if row["forgotten_at"] is None:
        values |= ends.forgotten(row, reason, moment.now())
    connection.execute(update(episodes).where(episodes.c.id == row["id"]).values(values))
    return steps


def _take_off(
    connection: Connection, row: RowMapping, chosen: ColumnElement[bool]
) -> tuple[int, int]:
    """Take the chosen steps off the counts; how many they are, and what they take."""
    kind = transitions.c["decider", "action_type", "slot_id", "policy_version"]
    counts = connection.execute(
        select(
            *kind,
            func.count().label("steps"),
            func.count().filter(transitions.c.no_op_reason != 0).label("no_ops"),
            func.sum(func.length(transitions.c.payload)).label("bytes"),
        )
        .where(chosen)
        .group_by(*kind)
    ).all()
    tally = Tally()
    for count in counts:
        action = Action(row["run_id"], count.decider, count.action_type, count.slot_id or "")
        tally.count(row["id"], action, count.policy_version, -count.steps, -count.no_ops)
    tally.add_to(connection)
    decided = episode_versions
    connection.execute(
        delete(decided).where(decided.c.episode_id == row["id"], decided.c.steps <= 0)
    )
    steps = sum(count.steps for count in counts)
    return steps, ROW_BYTES * steps + sum(int(count.bytes) for count in counts)
