"""A trainer that is killed together with its disk, over a real Simic and a real Tamiyo."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.stack import LEYLINE, Stack, eventually
from tests.integration.test_kill import digits, story

from leyline.document import write
from leyline.v1.transition_pb2 import TERMINATION_HORIZON

STEPS = 12
STORED = (
    "SELECT count(*) FROM transitions t JOIN episodes e ON t.episode_id = e.id"
    " WHERE e.run_id = 'lost'"
)


class Attempts:
    """Trainers that each play one run in a folder of their own, and end with it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._started: list[subprocess.Popen[bytes]] = []
        self._file = stack.folder / "run.yaml"
        self._file.write_text(write(digits(horizon=STEPS)))

    def start(self, run_id: str) -> subprocess.Popen[bytes]:
        """Starts one that has nothing."""
        folder = self._stack.folder / f"attempt-{len(self._started)}"
        addresses = self._stack.addresses
        command = [
            *(str(LEYLINE), "serve", "kasmina", "--listen", "127.0.0.1:0"),
            *("--state-dir", str(folder), "--threads", "1"),
            *("--policy", f"default={addresses['tamiyo']}", "--experience", addresses["simic"]),
            *("--run", str(self._file), "--id", run_id, "--set", "first_episode=3"),
        ]
        with Path(f"{folder}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, "LEYLINE_KASMINA_WAIT_FOR_EXPERIENCE": "true"},
            )
        self._started.append(process)
        return process

    def close(self) -> None:
        """Ends those that still play."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def attempts(stack: Stack) -> Iterator[Attempts]:
    """Attempts at the same run."""
    attempts = Attempts(stack)
    yield attempts
    attempts.close()


@pytest.mark.timeout(900)  # four trainers, one after the other, each of which imports torch
async def test_killed_with_its_disk_again_and_again_an_episode_is_the_undisturbed_one(
    stack: Stack, attempts: Attempts
) -> None:
    stack.policy = "random"
    await stack.up("simic", "tamiyo")
    for steps in (2, 7):
        attempt = attempts.start("lost")

        def has_come_so_far(steps: int = steps) -> bool:
            return stack.count(stack.store, STORED) >= steps

        await eventually(has_come_so_far, f"{steps} steps are stored", within_s=300)
        attempt.send_signal(signal.SIGKILL)
        assert attempt.wait() != 0
    assert attempts.start("lost").wait() == 0
    assert attempts.start("undisturbed").wait() == 0

    assert await story(stack, "lost") == await story(stack, "undisturbed")
    stored = stack.ask(
        stack.store,
        """SELECT t.step FROM transitions t JOIN episodes e ON t.episode_id = e.id
           WHERE e.run_id = 'lost' ORDER BY 1""",
    )
    assert stored == [(step,) for step in range(STEPS)]
    ends = stack.ask(
        stack.store, "SELECT episode_index, termination, steps, fence FROM episodes ORDER BY run_id"
    )
    assert ends == [(3, TERMINATION_HORIZON, STEPS, 3), (3, TERMINATION_HORIZON, STEPS, 1)]
