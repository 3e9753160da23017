"""A reference loop in a process of its own, which computes an interval when it is told to.

The process reads a line and writes one for each interval.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence


class Reference:
    """The process, from outside."""

    def __init__(self, process: asyncio.subprocess.Process, description: str) -> None:
        self._process = process
        self.description = description
        """What the loop says of itself."""

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str] = ()) -> Reference:
        """Starts the loop, and waits until it could compute."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        description = (await process.stdout.readline()).decode().strip()
        if not description:
            raise RuntimeError(f"{module} ended with status {await process.wait()}")
        return cls(process, description)

    def pids(self) -> Sequence[int]:
        """The process."""
        return [self._process.pid]

    async def interval(self) -> None:
        """Lets it compute one interval."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        if not await self._process.stdout.readline():
            raise RuntimeError(f"the reference ended with status {await self._process.wait()}")

    async def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


def answer(description: str, interval: Callable[[], object]) -> None:
    """The process, from inside: computes an interval for every line, to the end of the input."""
    print(description, flush=True)
    for _ in sys.stdin:
        interval()
        print(flush=True)
