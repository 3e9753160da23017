"""Ends of episodes, between their rows and the contract."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from leyline.v1.transition_pb2 import EpisodeEnd, Termination
from simic.database import moment
from simic.database.schema import episodes

COLUMNS = ("termination", "ended_at", "steps", "end_message", "provisional", "overruled_end")
"""What ``trainers`` and ``concluded`` give the columns of."""


def end_of(row: RowMapping) -> EpisodeEnd | None:
    """How the episode of this row ended; None where it goes on."""
    if not row["termination"]:
        return None
    return EpisodeEnd(
        run_id=row["run_id"],
        episode_index=row["episode_index"],
        termination=Termination.ValueType(row["termination"]),
        steps=row["steps"],
        ended_at=moment.to_proto(row["ended_at"]),
        message=row["end_message"],
    )


def trainers_end_of(row: RowMapping) -> EpisodeEnd | None:
    """How its trainer ended it, whatever Simic made of it; None where it did not."""
    if not row["provisional"] and row["forgotten_at"] is None:
        return end_of(row)
    overruled = row["overruled_end"]
    return None if overruled is None else EpisodeEnd.FromString(overruled)


def trainers(end: EpisodeEnd | None) -> dict[str, Any]:
    """The columns of an episode that its trainer has ended so, or not at all."""
    if end is None:
        values: dict[str, Any] = dict.fromkeys(("ended_at", "steps", "end_message"))
        values["termination"] = Termination.TERMINATION_UNSPECIFIED
    else:
        values = _columns(end)
    return values | {"provisional": False, "overruled_end": None}


def concluded(end: EpisodeEnd, overruled: EpisodeEnd | None) -> dict[str, Any]:
    """The columns of an episode that was concluded to have ended so, whatever its trainer said."""
    return _columns(end) | {"provisional": True, "overruled_end": _serialized(overruled)}


def forgotten(row: RowMapping, reason: str, now: int) -> dict[str, Any]:
    """The columns of an ended episode whose transitions are deleted.

    For whoever reads, it is one that was abandoned before its first step: nothing is missing of it,
    and nobody waits.
    """
    end, said = end_of(row), trainers_end_of(row)
    assert end is not None, "an episode that goes on is not forgotten"
    name = Termination.Name(end.termination).removeprefix("TERMINATION_")
    end.message = f"{reason}; it had ended ({name}) after {end.steps} steps"
    end.termination, end.steps = Termination.TERMINATION_ABANDONED, 0
    own = {"provisional": False, "forgotten_at": now, "overruled_end": _serialized(said)}
    return _columns(end) | own


def _serialized(end: EpisodeEnd | None) -> bytes | None:
    return None if end is None else end.SerializeToString(deterministic=True)


def _columns(end: EpisodeEnd) -> dict[str, Any]:
    return {
        "termination": end.termination,
        "ended_at": moment.from_proto(end.ended_at),
        "steps": end.steps,
        "end_message": end.message,
    }


def next_whole_sequence(connection: Connection) -> int:
    """The place behind all episodes that are whole."""
    newest = connection.execute(select(func.max(episodes.c.whole_sequence))).scalar_one()
    return (newest or 0) + 1
