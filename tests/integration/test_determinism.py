"""Versions are a function of the plan and of the decisions: not of who plays, how fast, or of what
is killed meanwhile.

Simic with its learner and Tamiyo are the real processes, asked over gRPC; the trainers are those of
`tests.integration.fleet`, and in the last test whole Kasmina services. `make determinism` plays
more and longer episodes, and kills more often.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.fleet import RUN, Fleet, Orders, Share, run_spec, shares
from tests.integration.stack import Stack, eventually

from leyline.client import Learner, Trainer
from leyline.v1.learner_pb2 import Training, TrainingPlan, TrainingState
from leyline.v1.trainer_pb2 import RUN_STATE_CANCELLED, RUN_STATE_COMPLETED, RUN_STATE_PAUSED
from leyline.v1.transition_pb2 import Termination

FULL = os.environ.get("LEYLINE_DETERMINISM") == "full"

TRAINERS = 8
BATCH = 8
UPDATES = 8 if FULL else 3
HORIZON = 20 if FULL else 5
CANCELLED = (5, 10)

PLAN = {"episodes_per_update": BATCH, "max_updates": UPDATES}
KILLED_AFTER = range(UPDATES) if FULL else (0, 1)
SOON = {"LEYLINE_SIMIC_LEARNER_RESTART_S": "0.1"}
ALONE = [list(shares(range(UPDATES * BATCH), CANCELLED))]
TOGETHER = [
    list(shares(range(number, UPDATES * BATCH, TRAINERS), CANCELLED)) for number in range(TRAINERS)
]


@dataclass(frozen=True)
class Lesson:
    """What came of a training.

    Attributes:
        versions: for each update from 0 on, its version and the SHA-256 of its artifact.
        endings: how each episode ended, and the version that it was pinned to, by index.
        arrival: indices of the episodes that came to their horizon, as they became whole.
    """

    versions: list[tuple[object, ...]]
    endings: list[tuple[object, ...]]
    arrival: list[object]


class School:
    """Simic and Tamiyo over one folder, with a deterministic training."""

    def __init__(self, stack: Stack, learner: Learner) -> None:
        self.stack = stack
        self.learner = learner

    async def until(self, holds: Callable[[Training], bool]) -> Training:
        """Wait until something is true of the training; how it stands then."""
        while not holds(training := await self.learner.get()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return training

    def kill_learner(self) -> None:
        """SIGKILL."""
        lines = (self.stack.folder / "simic.log").read_text().splitlines()
        started = [line for line in lines if '"learner started"' in line]
        pid: int = json.loads(started[-1])["pid"]
        os.kill(pid, signal.SIGKILL)

    async def kill_simic(self) -> None:
        """SIGKILL, and start it again."""
        self.stack.kill("simic")
        await self.stack.up("simic", **SOON)

    def lesson(self) -> Lesson:
        def ask(query: str) -> list[tuple[object, ...]]:
            return self.stack.ask(self.stack.store, query)

        horizon = Termination.TERMINATION_HORIZON
        arrival = ask(
            f"""SELECT episode_index FROM episodes WHERE termination = {horizon}
                ORDER BY whole_sequence"""
        )
        return Lesson(
            versions=ask(
                """SELECT u.sequence, u.policy_version, p.artifact_sha256 FROM training_updates u
                   JOIN policies p ON p.policy_version = u.policy_version ORDER BY u.sequence"""
            ),
            endings=ask(
                """SELECT episode_index, termination, policy_version FROM episodes
                   ORDER BY episode_index"""
            ),
            arrival=[index for (index,) in arrival],
        )


Disturb = Callable[[School], Awaitable[None]]


@asynccontextmanager
async def school(folder: Path, *kasminas: str, **plan: Any) -> AsyncIterator[School]:
    folder.mkdir()  # noqa: ASYNC240
    stack = Stack(folder, more=kasminas)
    try:
        await stack.up("simic", "tamiyo", *kasminas, **SOON)
        async with Learner(stack.addresses["simic"]) as learner:
            asked = TrainingPlan(
                observation_spec="seed", deterministic=True, run_id=RUN, seed=5, **plan
            )
            await learner.start(asked, "t")
            yield School(stack, learner)
    finally:
        stack.close()


async def undisturbed(_school: School) -> None:
    pass


async def taught(
    folder: Path, trainers: list[list[Share]], disturb: Disturb = undisturbed, **plan: Any
) -> Lesson:
    """What a training learns from episodes that these trainers play."""
    async with school(folder, **{**PLAN, **plan}) as there:
        at = there.stack.addresses
        fleet = Fleet(Orders(str(folder), at["tamiyo"], at["simic"], HORIZON, trainers))
        try:
            await disturb(there)
            await eventually(lambda: not fleet.is_at_work, "all have played", within_s=600)
            fleet.check()
            ended = await there.until(has_ended)
            assert ended.state == TrainingState.TRAINING_STATE_COMPLETED, ended.status_message
            return there.lesson()
        finally:
            fleet.close()


def has_ended(training: Training) -> bool:
    return training.state != TrainingState.TRAINING_STATE_RUNNING


class Reference:
    """What is learned from one trainer, by lag; learned once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[int, Lesson] = {}

    async def lesson(self, lag: int) -> Lesson:
        if lag not in self._known:
            self._known[lag] = await taught(self._folder / f"lag-{lag}", ALONE, lag=lag)
        return self._known[lag]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("alone"))


def check_same(lesson: Lesson, alone: Lesson) -> None:
    assert lesson.versions == alone.versions
    assert len({version for _, version, _ in alone.versions}) == UPDATES + 1
    assert lesson.endings == alone.endings
    cancelled = Termination.TERMINATION_CANCELLED
    assert [index for index, ending, _ in alone.endings if ending == cancelled] == list(CANCELLED)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lag", [0, 1, 3] if FULL else [0, 1])
async def test_eight_trainers_at_shuffled_speeds_make_the_versions_of_one(
    tmp_path: Path, alone: Reference, lag: int
) -> None:
    together, by_one = await asyncio.gather(
        taught(tmp_path / "school", TOGETHER, lag=lag), alone.lesson(lag)
    )
    check_same(together, by_one)
    whole = [index for index in range(UPDATES * BATCH) if index not in CANCELLED]
    assert by_one.arrival == whole
    assert set(together.arrival) == set(whole)
    assert together.arrival != whole, "they played in another order"


@pytest.mark.timeout(1800)
async def test_whatever_is_killed_while_it_learns_the_versions_are_the_same(
    tmp_path: Path, alone: Reference
) -> None:
    async def killed(there: School) -> None:
        for number in KILLED_AFTER:

            def learns(training: Training, updates: int = number) -> bool:
                learns = training.status_message.startswith("learns from")
                return training.updates >= updates and learns

            await there.until(learns)
            # The learner looks every 0.2 s, and an update takes as long: before it, in it, after.
            await asyncio.sleep(random.uniform(0.0, 0.5))
            if number % 2:
                await there.kill_simic()
            else:
                there.kill_learner()

    disturbed, by_one = await asyncio.gather(
        taught(tmp_path / "school", TOGETHER, killed), alone.lesson(0)
    )
    check_same(disturbed, by_one)


@pytest.mark.timeout(600)
async def test_a_share_that_was_cancelled_is_waited_for_until_another_trainer_plays_it(
    tmp_path: Path,
) -> None:
    """With whole Kasmina services: 0 and 2 belong to the first, 1 and 3 to the second."""
    plan: dict[str, Any] = {"preset": "demo", "episodes_per_update": 2, "max_updates": 2}
    one = await taught(tmp_path / "one", [[Share(0, 1, 4, False)]], **plan)

    async def start(there: School, name: str, share: Share) -> None:
        async with Trainer(there.stack.addresses[name]) as trainer:
            await trainer.start(run_spec(HORIZON, share), RUN)

    async def ended(there: School, name: str) -> int:
        async with Trainer(there.stack.addresses[name]) as trainer:
            async for _ in trainer.watch(RUN):
                pass
            return (await trainer.get(RUN)).state

    kasminas = ("kasmina-1", "kasmina-2", "kasmina-3")
    async with school(tmp_path / "three", *kasminas, **plan) as there:
        at = there.stack.addresses
        await start(there, "kasmina-1", Share(0, 2, 2, False))
        async with Trainer(at["kasmina-1"]) as trainer:
            waiting = "VERSION_NOT_READY: episode 2 of run 'study'"
            while waiting not in (run := await trainer.get(RUN)).status_message:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert run.state == RUN_STATE_PAUSED
            await trainer.cancel(RUN, "no patience")
        assert await ended(there, "kasmina-1") == RUN_STATE_CANCELLED

        await start(there, "kasmina-2", Share(1, 2, 2, False))
        assert await ended(there, "kasmina-2") == RUN_STATE_COMPLETED
        awaited = "waits for episode 2 of run study, which has not begun"
        await there.until(lambda training: training.status_message == awaited)

        await start(there, "kasmina-3", Share(2, 2, 1, False))
        assert await ended(there, "kasmina-3") == RUN_STATE_COMPLETED
        await there.until(has_ended)
        three = there.lesson()
    assert three.versions == one.versions
    assert three.endings == one.endings
    assert len({version for _, version, _ in one.versions}) == 3
