"""Where the worker of a driven run and the streams of its callers meet, inside the service.

Nothing here outlives the service: what was decided and what came of it is in the journal. Used from
one event loop.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.decision_pb2 import Decision
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot

Tell = Callable[[Mapping[str, Any]], None]
"""Writes a message to the worker."""


class DrivenRun:
    """One run's worker, where it has one, and those who drive it.

    Attributes:
        news: set at the next change of anything that is known here, or of the run in the journal.
        waiting: the snapshot that the worker waits with for a decision.
    """

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.waiting: MultiSlotSnapshot | None = None
        self._callers: set[int] = set()
        self._tell: Tell | None = None

    @property
    def is_used(self) -> bool:
        """Whether anybody is here."""
        return self._tell is not None or bool(self._callers)

    def decide(self, decision: Decision) -> None:
        """Hands the decision for the snapshot that waits to the worker."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None and self._tell is not None:
            step_id = b64encode(waiting.step_id.SerializeToString()).decode()
            content = b64encode(decision.SerializeToString()).decode()
            self._tell({"decision": content, "step_id": step_id})

    def hear(self, report: Mapping[str, Any]) -> None:
        """Takes note of what the worker says."""
        if "waits" in report:
            self.waiting = MultiSlotSnapshot.FromString(b64decode(report["waits"]))
        self.announce()

    def announce(self) -> None:
        """Wakes whoever waits for news."""
        self.news.set()
        self.news = asyncio.Event()

    def set_worker(self, tell: Tell | None) -> None:
        """Says who works on the run; None: nobody any more."""
        self._tell, self.waiting = tell, None
        self._tell_attendance()
        self.announce()

    def add_caller(self, run_id: str, episode_index: int) -> None:
        """Lets a stream drive the episode. Raises LeylineError where another one does."""
        if episode_index in self._callers:
            raise LeylineError(ErrorCode.EPISODE_DRIVEN, run_id=run_id, episode_index=episode_index)
        self._callers.add(episode_index)
        self._tell_attendance()

    def remove_caller(self, episode_index: int) -> None:
        """Takes note that the episode's stream has ended."""
        self._callers.discard(episode_index)
        self._tell_attendance()

    def _tell_attendance(self) -> None:
        if self._tell is not None:
            self._tell({"attended": bool(self._callers)})


class DrivenRuns:
    """Those that somebody works on or drives now; the others are not known here."""

    def __init__(self) -> None:
        self._runs: dict[str, DrivenRun] = {}

    @contextmanager
    def worked_on(self, run_id: str, tell: Tell) -> Iterator[DrivenRun]:
        """While a worker plays the run."""
        run = self._runs.setdefault(run_id, DrivenRun())
        run.set_worker(tell)
        try:
            yield run
        finally:
            run.set_worker(None)
            self._leave(run_id, run)

    @contextmanager
    def driven(self, run_id: str, episode_index: int) -> Iterator[DrivenRun]:
        """While a stream drives an episode of the run. Raises LeylineError where another one does
        so already.
        """
        run = self._runs.setdefault(run_id, DrivenRun())
        run.add_caller(run_id, episode_index)
        try:
            yield run
        finally:
            run.remove_caller(episode_index)
            self._leave(run_id, run)

    def announce(self, run_id: str) -> None:
        """Wakes the run's callers: it has changed in the journal."""
        if run_id in self._runs:
            self._runs[run_id].announce()

    def _leave(self, run_id: str, run: DrivenRun) -> None:
        if not run.is_used:
            del self._runs[run_id]
