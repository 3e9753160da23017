"""Gives the worker its runs, one at a time, and starts another worker when one dies."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import Any, TypeVar

from chassis.logging import get_logger
from kasmina.runs.disk import DiskFull
from kasmina.runs.journal import Journal
from kasmina.settings import KasminaSettings
from leyline.v1.trainer_pb2 import RUN_STATE_FAILED

_log = get_logger(__name__)

T = TypeVar("T")

_RESTART_S = 0.2
_DISK_POLL_S = 1.0
_LONGEST_REPORT = 1 << 20


class Supervisor:
    """Works through the queue.

    Attributes:
        disk_full: why the worker cannot write; None while it can.
    """

    def __init__(self, settings: KasminaSettings, journal: Journal) -> None:
        self._settings = settings
        self._spare: Process | None = None
        self._journal = journal
        self._queued = asyncio.Event()
        self.disk_full: str | None = None

    def wake(self) -> None:
        """Says that a run was queued."""
        self._queued.set()

    async def run(self) -> None:
        """Works for ever; ends by being cancelled, and its worker with it. Runs that a worker had
        go first.
        """
        try:
            while True:
                self._queued.clear()
                await self._keep_spare()
                run_id = await asyncio.to_thread(self._journal.runs.next_to_work_on)
                if run_id is None:
                    await self._queued.wait()
                else:
                    await self._work_on(run_id)
        finally:
            if self._spare is not None:
                await _kill(self._spare)

    async def _work_on(self, run_id: str) -> None:
        _log.info("worker starts", run_id=run_id)
        exit_code, crash = await self._play(run_id)
        self.disk_full = None
        if exit_code == 0:
            _log.info("worker done", run_id=run_id)
            return
        crashes = await self._until_written(lambda: self._journal.runs.count_crash(run_id))
        _log.error("worker died", run_id=run_id, reason=crash, crashes=crashes)
        if crashes >= self._settings.crash_limit:
            message = f"the worker died {crashes} times at the same step, at last of: {crash}"
            await self._until_written(
                lambda: self._journal.runs.end(run_id, RUN_STATE_FAILED, message)
            )
        else:
            await asyncio.sleep(_RESTART_S * 2**crashes)

    async def _play(self, run_id: str) -> tuple[int, str]:
        """Has a worker play the run; its exit code, and what it died of where it did."""
        process, self._spare = await self._keep_spare(), None
        try:
            crash = await self._follow(process, run_id)
            exit_code = await process.wait()
        finally:
            await _kill(process)
        return exit_code, crash or _cause(exit_code)

    async def _keep_spare(self) -> Process:
        """A worker without an order yet: the seconds of its imports are over when one comes."""
        if self._spare is None or self._spare.returncode is not None:
            self._spare = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "kasmina.runs.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LONGEST_REPORT,
            )
        return self._spare

    async def _follow(self, process: Process, run_id: str) -> str | None:
        assert process.stdin is not None
        assert process.stdout is not None
        # All of them: what is left out the worker would take from the environment, flags or not.
        settings = self._settings.model_dump(mode="json")
        order = {"run_id": run_id, "settings": settings}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        crash = None
        async for line in process.stdout:
            report = _report(line)
            if "disk_full" in report:
                self.disk_full = report["disk_full"]
            crash = report.get("crash", crash)
        return crash

    async def _until_written(self, write: Callable[[], T]) -> T:
        while True:
            try:
                return await asyncio.to_thread(write)
            except DiskFull as full:
                self.disk_full = str(full)
                await asyncio.sleep(_DISK_POLL_S)


def _report(line: bytes) -> dict[str, Any]:
    """What a worker says; nothing where its death has cut the line."""
    try:
        report: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return report


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _cause(exit_code: int) -> str:
    if exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
