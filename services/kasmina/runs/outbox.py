"""The outbox: what the experience service has not acknowledged yet, in the order in which it came
to be.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.rpc.status_pb2 import Status

from kasmina.runs.database import Database
from leyline.v1.experience_pb2 import ExperienceItem


@dataclass(frozen=True)
class OutboxItem:
    """Something to be recorded.

    Attributes:
        sequence: its number in the outbox; grows for ever.
        item: without sequence and fence, which are the sender's matter.
        size: of the item, in bytes.
    """

    sequence: int
    run_id: str
    episode_index: int
    item: ExperienceItem
    size: int


@dataclass(frozen=True)
class Refusal:
    """The experience service will not take an item, whatever is done.

    Attributes:
        sequence: of the item.
        reason: machine-readable.
        error: all that the service said.
    """

    sequence: int
    reason: str
    error: Status


def append_item(
    connection: sqlite3.Connection, run_id: str, episode_index: int, item: ExperienceItem
) -> None:
    """Puts an item into the outbox within the caller's transaction."""
    connection.execute(
        "INSERT INTO outbox (run_id, episode_index, item) VALUES (?, ?, ?)",
        (run_id, episode_index, item.SerializeToString()),
    )


class Outbox:
    """What the drainer reads and empties."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self, max_items: int, max_bytes: int) -> list[OutboxItem]:
        """The oldest items: at most so many, and at most so many bytes unless the first alone has
        more.
        """
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT sequence, run_id, episode_index, item FROM outbox"
                " ORDER BY sequence LIMIT ?",
                (max_items,),
            ).fetchall()
        return list(_within(max_bytes, map(_item, rows)))

    def settle(self, acknowledged: Sequence[int], refusals: Sequence[Refusal] = ()) -> None:
        """Takes acknowledged items out, and moves refused ones aside: nothing is dropped."""
        with self._database.transaction() as connection:
            for refusal in refusals:
                connection.execute(
                    "INSERT OR IGNORE INTO refused"
                    " (sequence, run_id, episode_index, item, reason, error, refused_at)"
                    " SELECT sequence, run_id, episode_index, item, ?, ?, ? FROM outbox"
                    " WHERE sequence = ?",
                    (
                        refusal.reason,
                        refusal.error.SerializeToString(),
                        time.time_ns(),
                        refusal.sequence,
                    ),
                )
            gone = [*acknowledged, *(refusal.sequence for refusal in refusals)]
            connection.executemany("DELETE FROM outbox WHERE sequence = ?", ((n,) for n in gone))

    def depth(self) -> int:
        """Items of all runs."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def depth_of(self, run_id: str) -> int:
        """Items of one run."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT count(*) FROM outbox WHERE run_id = ?", (run_id,))
            return int(row.fetchone()[0])

    def refusals(self) -> int:
        """Refused items of all runs."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM refused").fetchone()[0])

    def refused(self, run_id: str) -> list[tuple[ExperienceItem, str]]:
        """A run's refused items and the reasons, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT item, reason FROM refused WHERE run_id = ? ORDER BY sequence", (run_id,)
            ).fetchall()
        return [(ExperienceItem.FromString(row["item"]), row["reason"]) for row in rows]


def _item(row: sqlite3.Row) -> OutboxItem:
    return OutboxItem(
        sequence=row["sequence"],
        run_id=row["run_id"],
        episode_index=row["episode_index"],
        item=ExperienceItem.FromString(row["item"]),
        size=len(row["item"]),
    )


def _within(max_bytes: int, items: Iterable[OutboxItem]) -> Iterable[OutboxItem]:
    total = 0
    for item in items:
        total += item.size
        if total > max_bytes and total > item.size:
            return
        yield item
