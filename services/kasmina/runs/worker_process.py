"""A worker as its service sees it: a process that gets one order and answers line by line."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

from kasmina.settings import KasminaSettings

_LONGEST_REPORT = 1 << 20


class WorkerProcess:
    """One process, which plays one run."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def spawn(cls) -> Self:
        """A worker without an order yet: the seconds of its imports are over when one comes."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "kasmina.runs.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_REPORT,
        )
        return cls(process)

    @property
    def has_died(self) -> bool:
        """Whether the process is gone."""
        return self._process.returncode is not None

    def order(self, run_id: str, number: int, settings: KasminaSettings) -> None:
        """Has it play a run, as one of several workers."""
        # All of them: what is left out the worker would take from the environment, flags or not.
        self.tell(
            {"run_id": run_id, "number": number, "settings": settings.model_dump(mode="json")}
        )

    def tell(self, message: Mapping[str, Any]) -> None:
        """Writes it a line; one that is dying does not read it any more."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def reports(self) -> AsyncIterator[dict[str, Any]]:
        """What it says, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield _report(line)

    async def cause_of_end(self) -> str | None:
        """Waits for its end; None where it has done its work."""
        exit_code = await self._process.wait()
        if exit_code < 0:
            return f"signal {signal.Signals(-exit_code).name}"
        return f"exit code {exit_code}" if exit_code else None

    async def kill(self) -> None:
        """Ends it, unless it has ended."""
        if not self.has_died:
            self._process.kill()
            await self._process.wait()


def _report(line: bytes) -> dict[str, Any]:
    """What a worker says; nothing where its death has cut the line."""
    try:
        report: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return report
