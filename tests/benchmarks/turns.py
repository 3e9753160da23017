"""What computing costs: alone, or beside something else that takes turns with it.

How fast a machine is changes from second to second with what its neighbours do. So two arms of a
comparison compute at the same time, on one core, a quarter of a second each in turn: what hits one
of them hits the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

TURN_S = 0.25
"""Long beside what it takes to stop every thread and to fill a core's caches again."""
SETTLE_S = 0.5
"""Until what an interval leaves to be sent is sent, too."""
_CORE = 0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """What an interval cost, in seconds; without the turns of others."""

    wall: float
    cpu: float


class Arm(Protocol):
    """Something that computes in processes of its own."""

    def pids(self) -> Sequence[int]:
        """Its processes: their CPU time is its cost, and they stand still in the other's turn."""
        ...


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads together (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def children(pid: int) -> list[int]:
    """Its processes, one generation down."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


async def in_turns(
    first: tuple[Arm, Coroutine[Any, Any, object]], second: tuple[Arm, Coroutine[Any, Any, object]]
) -> tuple[Cost, Cost]:
    """Lets two arms compute in turns.

    Args:
        first: an arm, and what begins its interval and returns when it has ended.
        second: the other.
    """
    arms = (first[0], second[0])
    for arm in arms:
        _pin(arm)
        _send(arm, signal.SIGSTOP)
    before = [_cpu_of(arm) for arm in arms]
    tasks = [asyncio.ensure_future(begun) for _, begun in (first, second)]
    wall = [0.0, 0.0]
    try:
        while pending := [index for index in (0, 1) if not tasks[index].done()]:
            for index in pending:
                _send(arms[index], signal.SIGCONT)
                started = time.perf_counter()
                await asyncio.wait([tasks[index]], timeout=TURN_S)
                wall[index] += time.perf_counter() - started
                _send(arms[index], signal.SIGSTOP)
    finally:
        for arm in arms:
            _send(arm, signal.SIGCONT)
    await asyncio.gather(*tasks)
    await asyncio.sleep(SETTLE_S)
    ours, theirs = (
        Cost(wall[index], _cpu_of(arm) - before[index]) for index, arm in enumerate(arms)
    )
    return ours, theirs


def _cpu_of(arm: Arm) -> float:
    return sum(cpu_seconds(pid) for pid in arm.pids())


def _pin(arm: Arm) -> None:
    for pid in arm.pids():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {_CORE})


def _send(arm: Arm, what: signal.Signals) -> None:
    for pid in arm.pids():
        with contextlib.suppress(ProcessLookupError):  # it ended in its turn
            os.kill(pid, what)
