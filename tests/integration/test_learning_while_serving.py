"""A real network grows under a policy that is learning while it serves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.stack import Stack, eventually

from leyline.client import Learner, PolicyServer, Trainer
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED, DecisionQuery
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.policy_pb2 import StreamDecisionsRequest
from leyline.v1.snapshot_pb2 import STAGE_DORMANT, MultiSlotSnapshot, SlotReading, StepId
from leyline.v1.trainer_pb2 import (
    PRECISION_FP32,
    RUN_STATE_COMPLETED,
    DatasetSpec,
    RunSpec,
    TrainingSpec,
)

EPISODES = (4, 4, 4)
HORIZON = 4
KNOWN_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def dataset() -> DatasetSpec:
    """CIFAR-100 where this machine has it, else digits."""
    data = Path(os.environ.get("LEYLINE_DATA", KNOWN_DATA))
    if (data / "cifar100").is_dir():
        return DatasetSpec(name="cifar100", training_images=1000, validation_images=500)
    return DatasetSpec(name="digits")


def run_spec(episodes: int, seed: int) -> RunSpec:
    training = TrainingSpec(
        batch_size=100, interval_batches=5, horizon=HORIZON, precision=PRECISION_FP32
    )
    return RunSpec(dataset=dataset(), training=training, episodes=episodes, seed=seed)


class OpenStream:
    """One stream of unpinned queries that stays open while versions change under it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._done = asyncio.Event()
        self.asked = 0
        self.answers: list[str] = []

    async def run(self) -> None:
        """Asks until told to stop; any break of the stream is an error."""
        async with PolicyServer(self._address) as policy:
            async for answer in policy._stub.StreamDecisions(self._queries()):
                self.answers.append(answer.decision.policy_version)

    def stop(self) -> None:
        self._done.set()

    async def _queries(self) -> AsyncIterator[StreamDecisionsRequest]:
        slots = [
            SlotReading(slot_id=f"slot-{depth}", depth=depth, stage=STAGE_DORMANT)
            for depth in range(3)
        ]
        while not self._done.is_set():
            step = StepId(run_id="bystander", episode_index=0, step=self.asked)
            yield StreamDecisionsRequest(
                query=DecisionQuery(
                    snapshot=MultiSlotSnapshot(step_id=step, slots=slots),
                    spec_fingerprint=SEED_SPEC.fingerprint,
                    sampling_seed=self.asked,
                    mode=SELECTION_MODE_SAMPLED,
                )
            )
            self.asked += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), 0.02)


@pytest.mark.timeout(300)
async def test_versions_change_between_episodes_while_tamiyo_serves(stack: Stack) -> None:
    await stack.up()
    served_by = stack.processes["tamiyo"].pid
    async with (
        Learner(stack.addresses["simic"]) as learner,
        Trainer(stack.addresses["kasmina"]) as trainer,
    ):
        print(f"data set: {dataset().name}")
        await learner.start(TrainingPlan(preset="demo", seed=5), "lesson")
        await serving(stack)
        bystander = OpenStream(stack.addresses["tamiyo"])
        stream = asyncio.create_task(bystander.run())
        for number, episodes in enumerate(EPISODES):
            run = await trainer.start(run_spec(episodes, seed=number), f"run-{number}")
            async for _ in trainer.watch(run.run_id):
                pass
            assert (await trainer.get(run.run_id)).state == RUN_STATE_COMPLETED
            await outbox_empty(stack)
            await learned(learner, at_least=number + 1)
        bystander.stop()
        await stream

    assert stack.processes["tamiyo"].poll() is None
    assert stack.processes["tamiyo"].pid == served_by
    assert len(bystander.answers) == bystander.asked, "a query on the open stream was not answered"
    assert len(set(bystander.answers)) >= 3, "the open stream saw the versions change"
    check_versions(stack)
    check_transitions(stack)


async def serving(stack: Stack) -> None:
    """Waits until Tamiyo has an initial version to decide with."""
    for _ in range(600):
        if await stack.health("tamiyo") == "SERVING":
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"Tamiyo never came to serve: {stack.tail('tamiyo')}")


async def outbox_empty(stack: Stack) -> None:
    """Waits until Simic has acknowledged everything."""

    def drained() -> bool:
        return stack.count(stack.journal, "SELECT count(*) FROM outbox") == 0

    await eventually(drained, "the outbox drains")


async def learned(learner: Learner, at_least: int) -> None:
    """Waits until the learner has made so many updates."""
    for _ in range(1200):
        if (await learner.get("lesson")).updates >= at_least:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"no {at_least} updates")


def check_versions(stack: Stack) -> None:
    updates = stack.ask(
        stack.store,
        """SELECT sequence, policy_version, episodes, gradient_steps FROM training_updates
           ORDER BY sequence""",
        say=True,
    )
    learned_versions = {row[1] for row in updates if row[0] != 0}
    assert len(learned_versions) >= 2
    assert all(isinstance(row[3], int) and row[3] > 0 for row in updates if row[0] != 0)
    by_episode = stack.ask(
        stack.store,
        """SELECT e.run_id, e.episode_index,
                  count(DISTINCT t.policy_version), min(t.policy_version), count(*)
           FROM episodes e JOIN transitions t ON t.episode_id = e.id
           GROUP BY e.id ORDER BY e.id""",
        say=True,
    )
    assert len(by_episode) == sum(EPISODES) >= 8
    assert all(row[2] == 1 for row in by_episode), "one version within each episode"
    assert len({row[3] for row in by_episode}) >= 3, "versions change between episodes"


def check_transitions(stack: Stack) -> None:
    stored = stack.ask(
        stack.store,
        """SELECT e.run_id, e.episode_index, t.step FROM episodes e JOIN transitions t
           ON t.episode_id = e.id ORDER BY 1, 2, 3""",
        say=True,
    )
    taken = stack.ask(
        stack.journal,
        """SELECT run_id, episode_index, step FROM steps WHERE completed_at IS NOT NULL
           ORDER BY 1, 2, 3""",
        say=True,
    )
    print(f"\nsteps taken {len(taken)}, transitions stored {len(stored)}")
    assert stored == taken
    assert len(stored) == sum(EPISODES) * HORIZON
    query = "SELECT count(*) FROM transitions WHERE decider = 2"
    fallbacks = stack.ask(stack.store, query, say=True)
    assert fallbacks == [(0,)], "no stream was dropped: no step fell back"
