"""A reference loop in a process of its own, which computes an interval when it is told to.

The process reads a line and writes one for each interval: its seconds of wall and CPU time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What an interval cost, in seconds."""

    wall: float
    cpu: float


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

    async def interval(self) -> Cost:
        """Lets it compute one interval."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        line = await self._process.stdout.readline()
        return Cost(**json.loads(line))

    async def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


def answer(description: str, interval: Callable[[], object]) -> None:
    """The process, from inside: computes an interval for every line, to the end of the input."""
    print(description, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        interval()
        cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(cost), flush=True)
