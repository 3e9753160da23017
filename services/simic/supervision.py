"""The learner's process: started for a training that runs, and again after a crash."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from chassis.errors import LeylineError
from chassis.logging import get_logger
from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from simic.bell import Bell, heard
from simic.learning.training import TrainingStore
from simic.settings import SimicSettings

IDLE_POLL_S = 5.0
TERMINATION_S = 5.0
LONGEST_PAUSE_S = 60.0

Result = TypeVar("Result")

_log = get_logger(__name__)


class LearnerSupervisor:
    """Keeps a learner alive for as long as a training runs. Run ``run`` as a task."""

    def __init__(self, settings: SimicSettings, store: TrainingStore, bell: Bell) -> None:
        """Supervise the trainings of ``store``; ``bell`` rings when one was started."""
        self._settings = settings
        self._store = store
        self._bell = bell

    async def run(self) -> None:
        """Serve one training after the other, until cancelled; then the learner ends too."""
        await self._insist(self._start_training)
        while True:
            ring = self._bell.listen()
            training_id = await self._insist(self._store.unfinished)
            if training_id is None:
                await heard(ring, IDLE_POLL_S)
            else:
                await self._supervise(training_id)

    def _start_training(self) -> None:
        """Start the training that the settings ask for, where none is running."""
        preset = self._settings.train
        if preset is not None and self._store.unfinished() is None:
            self._store.start("", TrainingPlan(preset=preset))

    async def _supervise(self, training_id: str) -> None:
        """Restart the learner until its training has ended, or it crashes without end."""
        crashes, updates = 0, -1
        while True:
            code = await self._learn(training_id)
            training = await self._insist(partial(self._store.get, training_id))
            if training.state != TrainingState.TRAINING_STATE_RUNNING:
                _log.info("training ended", training_id=training_id, updates=training.updates)
                return
            crashes = crashes + 1 if training.updates == updates else 1
            updates = training.updates
            _log.error("learner crashed", training_id=training_id, exit_code=code, crashes=crashes)
            message = f"the learner ended with exit code {code} {crashes} times in a row"
            failed = TrainingState.TRAINING_STATE_FAILED
            if crashes > self._settings.learner_restarts:
                await self._insist(partial(self._store.end, training_id, failed, message))
                return
            await self._insist(partial(self._store.note, training_id, message))
            await asyncio.sleep(self._pause_s(crashes))

    def _pause_s(self, crashes: int) -> float:
        return min(self._settings.learner_restart_s * 2.0 ** (crashes - 1), LONGEST_PAUSE_S)

    async def _insist(self, call: Callable[[], Result]) -> Result:
        """Ask the store, or tell it, until it has answered: neither a full disk nor a database that
        is away must end the service.
        """
        while True:
            try:
                return await asyncio.to_thread(call)
            except LeylineError as error:
                _log.warning("waiting", reason=str(error))
                await asyncio.sleep(error.retry_after_s or IDLE_POLL_S)

    async def _learn(self, training_id: str) -> int:
        """Run one learner process to its end; its exit code, negative for a signal."""
        # The learner ends when its standard input does: it cannot outlive this process, however
        # that one ends. A session of its own keeps the terminal's Ctrl-C from it.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "simic.learning.learner"),
            *("--training-id", training_id),
            *("--curves", str(self._settings.curves)),
            *("--log-level", self._settings.log_level),
            *("--log-format", self._settings.log_format),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
            # By the environment, because a URL may hold a password and anybody can list arguments.
            env=os.environ | {"LEYLINE_SIMIC_LEARNER_DATABASE_URL": self._settings.url},
        )
        _log.info("learner started", training_id=training_id, pid=process.pid)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), TERMINATION_S)
        return
    process.kill()
    await process.wait()
