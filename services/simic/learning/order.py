"""The order of a deterministic training: whose turn it is, whoever plays and however fast.

Update k + 1 takes the episodes k * B to (k + 1) * B - 1 of the training's run, B a plan's
episodes_per_update, and is made once each of them has come to its end: all that is stored of
those that came to their horizon is here then, and the others will never come to it.
"""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, select

from leyline.v1.transition_pb2 import Termination
from simic.database.schema import episodes


def next_batch(training: RowMapping) -> range:
    """Indices of the episodes that the next update takes."""
    size: int = training["episodes_per_update"]
    first = training["updates"] * size
    return range(first, first + size)


def awaited(connection: Connection, training: RowMapping) -> str | None:
    """The episode that the next update waits for, and why, for people; None where it is for none.

    Where there are several, it is the one with the lowest index.
    """
    batch = next_batch(training)
    rows = connection.execute(
        select(episodes.c.episode_index, episodes.c.termination, episodes.c.whole_sequence)
        .where(
            episodes.c.run_id == training["run_id"],
            episodes.c.episode_index >= batch[0],
            episodes.c.episode_index <= batch[-1],
        )
        .order_by(episodes.c.episode_index)
    ).all()
    begun = {row.episode_index: row for row in rows}
    for index in batch:
        row = begun.get(index)
        if row is None:
            why = "which has not begun"
        elif row.termination == Termination.TERMINATION_UNSPECIFIED:
            why = "which has not ended"
        elif row.termination == Termination.TERMINATION_HORIZON and row.whole_sequence is None:
            why = "of which not all steps have come in"
        else:
            continue
        return f"episode {index} of run {training['run_id']}, {why}"
    return None


def progress(connection: Connection, training: RowMapping) -> str:
    """What a training between two updates is at, for people."""
    episode = awaited(connection, training)
    if episode is not None:
        return f"waits for {episode}"
    batch = next_batch(training)
    return f"learns from episodes {batch[0]} to {batch[-1]} of run {training['run_id']}"
