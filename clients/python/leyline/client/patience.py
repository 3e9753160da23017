"""How long a stream that broke is called again, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from leyline.error import ServiceError

PATIENCE_S = 60.0
"""How long a service may be away."""
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0

OnBreak = Callable[[ServiceError, float], None]
"""Told of a broken stream: why, and in how many seconds it is called again."""


class Patience:
    """With one stream: waits longer after each break, until there is news again."""

    def __init__(self, on_break: OnBreak) -> None:
        self._on_break = on_break
        self._now = asyncio.get_running_loop().time
        self._reached = self._called = self._now()
        self._wait_s = FIRST_WAIT_S

    def calls(self) -> None:
        """Say that the service is called now."""
        self._called = self._now()

    def hears(self) -> None:
        """Say that the service has answered."""
        self._reached = self._now()
        self._wait_s = FIRST_WAIT_S

    async def after(self, error: ServiceError) -> None:
        """Wait until the service should be called again.

        Raises:
            ServiceError: it, where another call would not help, or the service is away too long.
        """
        now = self._now()
        if now - self._called > PATIENCE_S:
            self._reached = now  # a call that stood so long was with a service that is there
        if not error.is_transient or now - self._reached >= PATIENCE_S:
            raise error
        wait_s = max(self._wait_s, error.retry_after_s or 0.0)
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        self._on_break(error, wait_s)
        await asyncio.sleep(wait_s)
