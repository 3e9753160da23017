"""Has Kasmina play runs, whatever it has played of them already."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.studies.growing.preset import WORKERS
from tests.studies.growing.problem import StudyError
from tests.studies.growing.state import Clock

from leyline.client import Trainer
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    RUN_STATE_FAILED,
    RUN_STATE_PAUSED,
    Run,
    RunSpec,
    RunState,
)

POLL_S = 0.5
_SAY_EVERY_S = 20.0
_ENDED = (RUN_STATE_COMPLETED, RUN_STATE_CANCELLED, RUN_STATE_FAILED)


@dataclass(frozen=True)
class Job:
    """A run that is wanted."""

    run_id: str
    spec: RunSpec


def check(run: Run) -> None:
    """Refuses a run that cannot be used. Raises `StudyError`."""
    if run.state in (RUN_STATE_FAILED, RUN_STATE_CANCELLED):
        ended = RunState.Name(run.state).removeprefix("RUN_STATE_")
        raise StudyError(f"run {run.run_id} ended {ended}: {run.status_message}")


def has_ended(run: Run) -> bool:
    """Whether it will not be played any further."""
    return run.state in _ENDED


async def play(
    trainer: Trainer, jobs: Sequence[Job], clock: Clock, what: str, episode_s: float
) -> None:
    """Returns once all runs are over and all of their steps are with Simic.

    Args:
        episode_s: what an episode takes on one core, until that has been seen.

    Raises:
        StudyError: a run failed.
    """
    runs = {job.run_id: await trainer.start(job.spec, job.run_id) for job in jobs}
    progress = Progress(what, sum(job.spec.episodes for job in jobs), episode_s)
    while True:
        for run_id, run in runs.items():
            if not has_ended(run) or run.outbox_depth:
                runs[run_id] = await trainer.get(run_id)
                check(runs[run_id])
        clock.tick()
        progress.show(runs.values())
        if all(has_ended(run) and not run.outbox_depth for run in runs.values()):
            return
        await asyncio.sleep(POLL_S)


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Says now and then how far it is, and how long it will yet take."""

    def __init__(self, what: str, episodes: int, episode_s: float) -> None:
        self._what = what
        self._episodes = episodes
        self._episode_s = episode_s
        self._began = self._said = time.monotonic()
        self._at_first: float | None = None

    def show(self, runs: Iterable[Run]) -> None:
        """Says it, if it is time to."""
        runs = list(runs)
        done = episodes_played(runs)
        now = time.monotonic()
        if self._at_first is None:
            self._at_first = done
        elif now - self._said < _SAY_EVERY_S:
            return
        self._said = now
        each_s = self._seconds_each(done, now)
        left_s = (self._episodes - done) * each_s
        say(
            f"{self._what}: {done:.1f} of {self._episodes} episodes, {each_s * WORKERS:.1f} s each"
            f" on one of {WORKERS} workers, about {left_s / 60:.1f} min left{waiting(runs)}"
        )

    def _seconds_each(self, done: float, now: float) -> float:
        new = done - (self._at_first or 0.0)
        return (now - self._began) / new if new >= WORKERS else self._episode_s / WORKERS


def episodes_played(runs: Iterable[Run]) -> float:
    """Episodes, those that go on by the share of their steps."""
    return sum(run.steps_completed / run.spec.training.horizon for run in runs)


def waiting(runs: Iterable[Run]) -> str:
    """What a run waits for, with a semicolon before it; empty where none does."""
    for run in runs:
        if run.state == RUN_STATE_PAUSED:
            return f"; {run.run_id} {run.status_message}"
    return ""
