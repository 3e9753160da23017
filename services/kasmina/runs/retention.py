"""How long what a run leaves is kept, and the sweeping up after a crash."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from chassis.logging import get_logger
from kasmina.runs.disk import DiskFull
from kasmina.runs.journal import Journal
from kasmina.runs.state_directory import StateDirectory

_log = get_logger(__name__)

_LOOK_S = 5.0
_NANOSECONDS_OF_A_DAY = 24 * 3600 * 1_000_000_000


class Retention:
    """Forgets runs that ended long ago."""

    def __init__(
        self, state: StateDirectory, journal: Journal, keep_runs: int, keep_days: float | None
    ) -> None:
        self._state = state
        self._journal = journal
        self._keep_runs = keep_runs
        self._keep_days = keep_days

    async def run(self) -> None:
        """Forgets for ever; ends by being cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.forget)
            except DiskFull as full:
                _log.warning("old runs are not forgotten", reason=str(full))
            await asyncio.sleep(_LOOK_S)

    def forget(self) -> None:
        """Forgets the runs that need not be kept any longer, with all their files."""
        ended_before = None
        if self._keep_days is not None:
            ended_before = time.time_ns() - int(self._keep_days * _NANOSECONDS_OF_A_DAY)
        while (
            run_id := self._journal.archive.forget_next(self._keep_runs, ended_before)
        ) is not None:
            # In this order: files without a run are swept up, a run without its files would lie.
            self._state.forget_run(run_id)
            _log.info("run forgotten", run_id=run_id)

    def sweep(self) -> None:
        """Removes what a crash has left: files of runs that are forgotten, checkpoints and locks of
        runs that have ended, and what is half-written. Nobody may be at work.
        """
        state = self._state
        for folder in (state.all_checkpoints, state.networks, state.locks):
            for path in _content(folder):
                run = self._journal.runs.get(path.name)
                if run is None:
                    state.forget_run(path.name)
                elif run.has_ended:
                    state.forget_work(run.run_id, keep_checkpoints=run.spec.keep_checkpoints)
        for folder in (state.all_checkpoints, state.networks):
            for partial in folder.glob("*/.*.partial"):
                partial.unlink(missing_ok=True)


def _content(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
