"""Group commit: whatever all senders have sent while one commit was under way goes into the next.

A commit waits for the disk. With one for each message, senders would wait for each other's disks
in turn; with one for all that has come in, they share it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leyline.v1.experience_pb2 import ExperienceItem
from simic.experience.checking import CheckedItem, check
from simic.experience.metrics import IngestMetrics
from simic.experience.store import ExperienceStore, Rejection

if TYPE_CHECKING:
    from chassis.spans import Tracing

ITEMS_A_COMMIT = 1024
MESSAGES_WAITING = 64


@dataclass(frozen=True)
class _Submission:
    items: Sequence[CheckedItem]
    came: float
    result: asyncio.Future[list[Rejection]]


class Ingest:
    """The one writer of experience. Run ``run`` as a task for as long as anything is recorded."""

    def __init__(
        self, store: ExperienceStore, metrics: IngestMetrics, tracing: Tracing | None = None
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._tracing = tracing
        self._waiting: asyncio.Queue[_Submission] = asyncio.Queue(MESSAGES_WAITING)
        self._checking = ThreadPoolExecutor(1, "simic-check")

    async def record(self, items: Sequence[ExperienceItem]) -> list[Rejection]:
        """Return once ``items`` are on disk, with those that were refused.

        While many are waiting already, this waits too: the sender feels it as back-pressure.

        Raises:
            LeylineError: DISK_FULL. Nothing of ``items`` was stored.
        """
        loop, came = asyncio.get_running_loop(), time.perf_counter()
        # In a thread of its own: it is done while the messages before wait for the disk.
        checked = await loop.run_in_executor(self._checking, check, items)
        submission = _Submission(checked, came, loop.create_future())
        await self._waiting.put(submission)
        return await submission.result

    async def run(self) -> None:
        """Commit what comes in, until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "simic-ingest") as thread:
            while True:
                group = await self._gather()
                items = [item for submission in group for item in submission.items]
                try:
                    outcomes = await loop.run_in_executor(thread, self._store.store, items)
                except Exception as error:
                    _fail(group, error)
                else:
                    self._metrics.committed(len(items))
                    self._deliver(group, outcomes)

    async def _gather(self) -> list[_Submission]:
        group = [await self._waiting.get()]
        items = len(group[0].items)
        while items < ITEMS_A_COMMIT and not self._waiting.empty():
            group.append(self._waiting.get_nowait())
            items += len(group[-1].items)
        return group

    def _deliver(self, group: Sequence[_Submission], outcomes: Sequence[Rejection | None]) -> None:
        start = 0
        for submission in group:
            end = start + len(submission.items)
            rejected = [outcome for outcome in outcomes[start:end] if outcome is not None]
            accepted = [
                checked.item
                for checked, outcome in zip(submission.items, outcomes[start:end], strict=True)
                if outcome is None
            ]
            seconds = time.perf_counter() - submission.came
            self._metrics.recorded(accepted, len(rejected), seconds)
            if self._tracing is not None:
                _trace(self._tracing, submission.items, outcomes[start:end], seconds)
            if not submission.result.done():
                submission.result.set_result(rejected)
            start = end


def _trace(
    tracing: Tracing,
    items: Sequence[CheckedItem],
    outcomes: Sequence[Rejection | None],
    seconds: float,
) -> None:
    """Tell of the steps that are traced among those that were stored, or refused, just now.

    What breaks a rule may say anything, at any length, and is not told.
    """
    began_ns = time.time_ns() - int(seconds * 1e9)
    for checked, outcome in zip(items, outcomes, strict=True):
        item = checked.item
        if item.HasField("traceparent") and item.HasField("transition") and not checked.broken:
            reason = None if outcome is None else outcome.error.code.name
            step_id = item.transition.step_id
            tracing.tell_step("store", step_id, "consumer", item.traceparent, began_ns, reason)


def _fail(group: Sequence[_Submission], error: Exception) -> None:
    for submission in group:
        # A sender that has gone away meanwhile wants no answer.
        if not submission.result.done():
            submission.result.set_exception(error)
