"""Work in the background that leaves the disk and the processor to others, half of the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def sparing(work: Callable[[], Result]) -> Result:
    """Do a small piece of work in a thread, and then nothing for as long as it took."""
    started = time.monotonic()
    result = await asyncio.to_thread(work)
    await asyncio.sleep(time.monotonic() - started)
    return result
