"""One run for which a service is started, and with which it ends: `leyline serve kasmina --run`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from chassis.errors import LeylineError
from chassis.logging import get_logger
from chassis.process import ConfigurationError, StartupError
from chassis.validation import violations
from kasmina.runs.journal import Journal
from kasmina.runs.run_log import RunRecord
from leyline.document import Document, InvalidDocument
from leyline.v1.trainer_pb2 import RUN_STATE_COMPLETED, RunSpec, RunState, StartRunRequest

_POLL_S = 0.1

_log = get_logger(__name__)


class RunNotCompleted(StartupError):
    """The run is over and is not what was wanted; the message says why, in one line."""


@dataclass(frozen=True)
class SingleRun:
    """A run as it is asked for."""

    request: StartRunRequest

    @classmethod
    def read(cls, file: Path, changes: Sequence[str], run_id: str) -> Self:
        """A run as its file says, with fields set anew as `FIELD=VALUE`.

        Raises:
            ConfigurationError: it is no run, or cannot be read.
        """
        try:
            document = Document.read(file)
            for change in changes:
                document.change(change)
            request = StartRunRequest(run_id=run_id, spec=document.message(RunSpec))
        except (InvalidDocument, OSError) as error:
            raise ConfigurationError(str(error)) from error
        broken = violations(request)
        if broken:
            raise ConfigurationError(f"--id={run_id}: {broken[0].description}")
        return cls(request)

    async def play(
        self, start: Callable[[StartRunRequest], Awaitable[RunRecord]], journal: Journal
    ) -> None:
        """Starts the run, or goes on with it, and returns once it is completed and the experience
        service has all of it.

        Raises:
            ConfigurationError: nobody can play it, here or elsewhere.
            RunNotCompleted: it has ended otherwise, or something of it was refused for good.
            LeylineError: it cannot be started now.
        """
        try:
            run = await start(self.request)
        except LeylineError as error:
            if error.code.spec.status is grpc.StatusCode.INVALID_ARGUMENT:
                raise ConfigurationError(_in_one_line(error)) from error
            raise
        while not run.has_ended or run.outbox_depth:
            await asyncio.sleep(_POLL_S)
            known = await asyncio.to_thread(journal.runs.get, run.run_id)
            if known is None:
                raise RunNotCompleted(
                    f"run {run.run_id!r} ended and was forgotten at once: keep one run at least"
                    " (LEYLINE_KASMINA_KEEP_RUNS)"
                )
            run = known
        state = RunState.Name(run.state).removeprefix("RUN_STATE_")
        _log.info("run is over", run_id=run.run_id, state=state, refused=run.refused_items)
        if run.state != RUN_STATE_COMPLETED:
            raise RunNotCompleted(f"run {run.run_id!r} is {state}: {run.status_message}")
        if run.refused_items:
            raise RunNotCompleted(
                f"the experience service has refused {run.refused_items} items of run"
                f" {run.run_id!r} for good; the log says why"
            )


def _in_one_line(error: LeylineError) -> str:
    broken = "; ".join(f"{each.field}: {each.description}" for each in error.violations)
    return f"{error}: {broken}" if broken else str(error)
