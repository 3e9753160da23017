"""Following a table that grows: what is there, then what comes, until the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, TypeVar

from chassis.drain import Drain
from simic.bell import Bell, heard


class Sequenced(Protocol):
    """An event of a growing table."""

    sequence: int


Event = TypeVar("Event", bound=Sequenced)


async def follow(
    read: Callable[[int], Sequence[Event]],
    after: int,
    bell: Bell,
    poll_s: float,
    drain: Drain,
    ended: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Event]:
    """Events after number ``after``, in order, for as long as there may be more.

    Args:
        read: the events after a number; blocks on the disk.
        after: the last number that the reader has seen.
        bell: rings when this process has written an event.
        poll_s: seconds until the next look where it does not ring.
        drain: ends the stream with SHUTTING_DOWN.
        ended: whether no further event will come; blocks on the disk.
    """
    while True:
        ring = bell.listen()
        # Asked before the events are read, so that none comes between the two.
        last = await asyncio.to_thread(ended)
        events = await asyncio.to_thread(read, after)
        for event in events:
            yield event
            after = event.sequence
        if last and not events:
            return
        if not events:
            with drain.interrupting():
                await heard(ring, poll_s)
        elif drain.begun:
            # Let the next wait say so: a reader far behind must not hold the drain up.
            with drain.interrupting():
                pass
