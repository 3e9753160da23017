"""A bell: wakes whoever waits for something to happen in this process."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Bell:
    """Rung after every commit that somebody may be waiting for.

    What another process commits rings no bell here, so nobody waits for it longer than for the
    time between two looks at the database.
    """

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake everybody who waits now."""
        self._rung.set()
        self._rung = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """An event that is set by the next ring: take it before looking, wait for it after."""
        return self._rung


async def heard(event: asyncio.Event, at_most_s: float) -> None:
    """Wait for a ring, but no longer than ``at_most_s``."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), at_most_s)
