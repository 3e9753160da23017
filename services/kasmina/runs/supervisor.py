"""Gives workers their runs, and starts another worker when one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from chassis.logging import get_logger
from kasmina.runs.disk import DiskFull
from kasmina.runs.driven_run import DrivenRuns
from kasmina.runs.journal import Journal
from kasmina.runs.state_directory import StateDirectory
from kasmina.runs.worker_process import WorkerProcess
from kasmina.settings import KasminaSettings
from leyline.v1.trainer_pb2 import RUN_STATE_FAILED

_log = get_logger(__name__)

T = TypeVar("T")

_RESTART_S = 0.2
_DISK_POLL_S = 1.0


class Supervisor:
    """Works through the queue, with as many workers at once as the settings say.

    Attributes:
        driven: where callers who decide meet the workers of their runs.
    """

    def __init__(self, settings: KasminaSettings, state: StateDirectory, journal: Journal) -> None:
        self._settings = settings
        self._state = state
        self._journal = journal
        self._spare: WorkerProcess | None = None
        self._choosing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._unavailable: set[str] = set()
        """Runs that a worker has, or that wait after a crash."""
        self._disk_full: dict[int, str] = {}
        self.driven = DrivenRuns()

    @property
    def disk_full(self) -> str | None:
        """Why a worker cannot write; None while all can."""
        return next(iter(self._disk_full.values()), None)

    def wake(self) -> None:
        """Says that a run was queued."""
        self._changed.set()

    async def run(self) -> None:
        """Works for ever; ends by being cancelled, and its workers with it. Runs that a worker had
        go first.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(self._settings.parallelism):
                    tasks.create_task(self._work(number))
        finally:
            if self._spare is not None:
                await self._spare.kill()

    async def _work(self, number: int) -> None:
        while True:
            run_id = await self._next()
            crash = await self._play(run_id, number)
            self._disk_full.pop(number, None)
            if crash is None:
                _log.info("worker done", run_id=run_id, worker=number)
                self._unavailable.discard(run_id)
            else:
                await self._count_crash(run_id, number, crash)
            self.driven.announce(run_id)

    async def _next(self) -> str:
        """The next run, as soon as there is one. One worker chooses at a time, the others after
        it.
        """
        async with self._choosing:
            while True:
                self._changed.clear()
                if self._spare is None or self._spare.has_died:
                    self._spare = await WorkerProcess.spawn()
                unavailable = tuple(self._unavailable)
                run_id = await asyncio.to_thread(self._journal.runs.next_to_work_on, unavailable)
                if run_id is not None:
                    self._unavailable.add(run_id)
                    return run_id
                await self._changed.wait()

    async def _play(self, run_id: str, number: int) -> str | None:
        """Has a worker play the run; what it died of, None where it did not."""
        _log.info("worker starts", run_id=run_id, worker=number)
        worker, self._spare = self._spare, None
        if worker is None or worker.has_died:
            worker = await WorkerProcess.spawn()
        crash: str | None = None
        try:
            worker.order(run_id, number, self._settings)
            with self.driven.worked_on(run_id, worker.tell) as driven:
                async for report in worker.reports():
                    self._note_disk(number, report.get("disk_full", self._disk_full.get(number)))
                    crash = report.get("crash", crash)
                    driven.hear(report)
            cause = await worker.cause_of_end()
        finally:
            await worker.kill()
        return None if cause is None else crash or cause

    async def _count_crash(self, run_id: str, number: int, crash: str) -> None:
        """Ends a run that crashes again and again; another one is left alone for a while, in which
        the worker's place is free.
        """
        run = await asyncio.to_thread(self._journal.runs.get, run_id)
        if run is None or run.has_ended:
            self._unavailable.discard(run_id)
            return
        crashes = await self._until_written(number, lambda: self._journal.runs.count_crash(run_id))
        _log.error("worker died", run_id=run_id, worker=number, reason=crash, crashes=crashes)
        if crashes < self._settings.crash_limit:
            pause_s = _RESTART_S * 2**crashes
            asyncio.get_running_loop().call_later(pause_s, self._make_available, run_id)
            return
        message = f"the worker died {crashes} times at the same step, at last of: {crash}"
        again = self._settings.wait_for_experience
        await self._until_written(
            number,
            lambda: self._journal.runs.end(run_id, RUN_STATE_FAILED, message, played_again=again),
        )
        keep = run.spec.keep_checkpoints
        await asyncio.to_thread(self._state.forget_work, run_id, keep_checkpoints=keep)
        self._disk_full.pop(number, None)
        self._unavailable.discard(run_id)

    def _make_available(self, run_id: str) -> None:
        self._unavailable.discard(run_id)
        self._changed.set()

    def _note_disk(self, number: int, reason: str | None) -> None:
        if reason is None:
            self._disk_full.pop(number, None)
        else:
            self._disk_full[number] = reason

    async def _until_written(self, number: int, write: Callable[[], T]) -> T:
        while True:
            try:
                return await asyncio.to_thread(write)
            except DiskFull as full:
                self._disk_full[number] = str(full)
                await asyncio.sleep(_DISK_POLL_S)
