"""Faults injected on purpose, so that tests can show what a crash leaves behind. Off unless a
variable is set.

`LEYLINE_KASMINA_CRASH_AT="POINT:EPISODE:STEP"`, several separated by commas, has the worker kill
itself with SIGKILL at that point of that step, once in the life of a state folder.
"""

from __future__ import annotations

import enum
import os
import signal
from pathlib import Path

VARIABLE = "LEYLINE_KASMINA_CRASH_AT"


class Point(enum.StrEnum):
    """Moments in the life of a step, in their order."""

    SNAPSHOT_TAKEN = "snapshot-taken"
    DECISION_JOURNALLED = "decision-journalled"
    DECISION_APPLIED = "decision-applied"
    INTERVAL_TRAINED = "interval-trained"
    CHECKPOINT_WRITTEN = "checkpoint-written"
    TRANSITION_COMMITTED = "transition-committed"


def reached(point: Point, episode_index: int, step: int, marks: Path) -> None:
    """Tells that the step came to `point`: where a crash is asked for here and was not had yet,
    this is the end.
    """
    wanted = os.environ.get(VARIABLE)
    here = f"{point}:{episode_index}:{step}"
    if not wanted or here not in wanted.split(","):
        return
    marks.mkdir(exist_ok=True)
    mark = marks / here
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
