"""Episodes of which nothing more is heard: they are over, until their trainer says otherwise.

Whoever reads episodes in order would wait for ever for one whose trainer has died. The judgement
is provisional and loses nothing: what is stored beyond a gap stays stored, and the trainer's next
word, be it BeginEpisode or an item under the current fence, takes the judgement back.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection, RowMapping, select, update
from sqlalchemy.exc import SQLAlchemyError

from chassis.errors import LeylineError
from chassis.logging import get_logger
from leyline.v1.transition_pb2 import EpisodeEnd, Termination
from simic.database import moment
from simic.database.database import Database
from simic.database.schema import episodes
from simic.experience import ends

LOOK_S = 60.0
"""Longest time between two looks."""
GRACE_S = 900.0
"""Longest time after a start in which nobody is given up: who could not reach this service while it
was away comes back first."""
EPISODES_A_COMMIT = 100
"""Few, so that what is recorded meanwhile hardly waits."""
_SHOWN = 10

_log = get_logger(__name__)


class Abandonment:
    """Gives up the episodes that have been silent for too long. Run ``run`` as a task."""

    def __init__(self, database: Database, after_s: float) -> None:
        """Give episodes up after so many seconds of silence, in ``database``."""
        self._database = database
        self._after_s = after_s

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        await asyncio.sleep(min(self._after_s, GRACE_S))
        while True:
            try:
                while await asyncio.to_thread(self.look) == EPISODES_A_COMMIT:
                    pass
            except (LeylineError, SQLAlchemyError) as error:
                # A full disk, or a database that is away: nothing is lost by looking later.
                _log.warning("silent episodes wait", reason=str(error))
            await asyncio.sleep(min(self._after_s / 4, LOOK_S))

    def look(self) -> int:
        """Give up those that are due, at most so many as go into a commit; how many. Blocks."""
        now = moment.now()
        due = (
            select(episodes)
            .where(
                episodes.c.whole_sequence.is_(None),
                episodes.c.heard_at < now - round(self._after_s * 1e6),
            )
            .order_by(episodes.c.heard_at)
            .limit(EPISODES_A_COMMIT)
        )
        with self._database.read() as connection:
            if connection.execute(due.limit(1)).first() is None:
                return 0
        with self._database.write() as connection:
            rows = connection.execute(due).mappings().all()
            for row in rows:
                self._give_up(connection, row, now)
        named = [f"{row['run_id']}/{row['episode_index']}" for row in rows]
        _log.info("episodes abandoned", count=len(rows), episodes=named[:_SHOWN])
        return len(rows)

    def _give_up(self, connection: Connection, row: RowMapping, now: int) -> None:
        silence = f"nothing was heard of it for {self._after_s:g} s"
        said = ends.end_of(row)
        if said is not None:
            name = Termination.Name(said.termination).removeprefix("TERMINATION_")
            silence = (
                f"its trainer ended it ({name}, {said.steps} steps), but step {row['next_step']} "
                f"never came; {silence}"
            )
        end = EpisodeEnd(
            termination=Termination.TERMINATION_ABANDONED,
            steps=row["next_step"],
            ended_at=moment.to_proto(now),
            message=silence,
        )
        connection.execute(
            update(episodes)
            .where(episodes.c.id == row["id"])
            .values(
                whole_sequence=ends.next_whole_sequence(connection), **ends.concluded(end, said)
            )
        )
