"""A policy version is activated that is of no use to the run that is being played."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.stack import Stack
from tests.simic.versions import version

from leyline.client import PolicyServer, Registry, Trainer
from leyline.error import ServiceError
from leyline.v1.trainer_pb2 import (
    RUN_STATE_COMPLETED,
    HostSpec,
    PolicySpec,
    RunSpec,
    TrainingSpec,
)
from simic.learning.lesson import LearnedVersion

EPISODES = 40


async def registered(registry: Registry, learned: LearnedVersion) -> str:
    await registry.register(learned.manifest, learned.artifact)
    return learned.manifest.policy_version


async def served(stack: Stack, version: str) -> None:
    """Waits until a version is what Tamiyo decides with where a query names none."""
    async with PolicyServer(stack.addresses["tamiyo"]) as policy:
        for _ in range(600):
            if (await policy.info()).policy_version == version:
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"{version} was never served: {stack.tail('tamiyo')}")


@pytest.mark.timeout(200)
async def test_a_run_goes_on_to_its_end_when_a_version_for_other_slots_is_activated(
    stack: Stack,
) -> None:
    await stack.up()
    spec = RunSpec(
        host=HostSpec(name="simulator"),
        training=TrainingSpec(horizon=12),
        episodes=EPISODES,
        # However slow this machine is, no step falls back.
        policy=PolicySpec(deterministic=True),
    )
    begun: list[str] = []
    async with (
        Registry(stack.addresses["simic"]) as registry,
        Trainer(stack.addresses["kasmina"]) as trainer,
    ):
        for_three = await registered(registry, version(1))
        for_six = await registered(registry, version(2, slots=6))
        await registry.activate(for_three)
        await served(stack, for_three)

        async def force() -> int:
            """Activates the other version; how many episodes have begun when that is served."""
            with pytest.raises(ServiceError, match="has 3 slots") as refused:
                await registry.activate(for_six)
            assert refused.value.reason == "VERSION_DOES_NOT_FIT"
            await registry.activate(for_six, force=True)
            await served(stack, for_six)
            return len(begun)

        forcing: asyncio.Task[int] | None = None
        await trainer.start(spec, "run")
        async for event in trainer.watch("run"):
            if event.HasField("episode_began"):
                begun.append(event.episode_began.policy_version)
                forcing = forcing or asyncio.create_task(force())
        run = await trainer.get("run")
        assert (run.state, run.status_message) == (RUN_STATE_COMPLETED, "")
        assert forcing is not None
        assert await forcing < EPISODES, "no episode began after the other version was served"
    assert begun == [for_three] * EPISODES
    deciders = stack.ask(
        stack.journal, "SELECT decider, count(*) FROM steps GROUP BY decider", say=True
    )
    assert deciders == [(1, EPISODES * 12)], "each step was decided by the policy"
