"""Learning on the growth simulator through the real services, as processes, over gRPC."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.integration.stack import Stack

from leyline.client import Learner, Trainer
from leyline.v1.learner_pb2 import Training, TrainingPlan, TrainingState
from leyline.v1.trainer_pb2 import RUN_STATE_COMPLETED, HostSpec, PolicySpec, RunSpec
from simic.learning import algorithms, checkpoint, networks
from simic.learning.network import PolicyNetwork
from simic.learning.plan import fill

RUN = "study"


async def _learn(plan: TrainingPlan, spec: RunSpec) -> tuple[PolicyNetwork, dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="leyline-study-") as scratch:
        stack = Stack(Path(scratch))
        try:
            await stack.up()
            async with Learner(stack.addresses["simic"]) as learner:
                await learner.start(plan, RUN)
                await _play(stack, spec)
                last: dict[str, float] = {}
                async for update in learner.watch(RUN):
                    last = dict(update.diagnostics)
                training = await learner.get(RUN)
            _check(training)
            [(state,)] = stack.ask(stack.store, "SELECT checkpoint FROM trainings")
            assert isinstance(state, bytes)
        finally:
            stack.close()
    filled = fill(plan)
    network = networks.build(filled)
    checkpoint.restore(state, network, algorithms.build(filled, network).optimizers)
    return network, last


async def _play(stack: Stack, spec: RunSpec) -> None:
    async with Trainer(stack.addresses["kasmina"]) as trainer:
        await trainer.start(spec, RUN)
        async for _event in trainer.watch(RUN):
            pass
        run = await trainer.get(RUN)
    if run.state != RUN_STATE_COMPLETED:
        raise RuntimeError(f"the run did not come to its end: {run.status_message}")


def _check(training: Training) -> None:
    if training.state != TrainingState.TRAINING_STATE_COMPLETED:
        raise RuntimeError(f"the training did not come to its end: {training.status_message}")


def learn(plan: TrainingPlan, episodes: int, lag: int) -> tuple[PolicyNetwork, dict[str, float]]:
    """Train a policy from scratch; the network that came of it, and its last update's diagnostics.

    Deterministic, so that the policy that plays is ``lag`` updates behind and no more.

    Args:
        plan: what to learn and how; its seed is that of the episodes, too.
        episodes: of the default family, as Kasmina plays them.
        lag: updates by which the version that plays is behind the newest one.
    """
    asked = TrainingPlan(deterministic=True, run_id=RUN, lag=lag)
    asked.MergeFrom(plan)
    asked.max_updates = episodes // fill(plan).episodes_per_update
    spec = RunSpec(
        host=HostSpec(name="simulator"),
        policy=PolicySpec(deterministic=True),
        observation_spec=plan.observation_spec,
        seed=1000 + plan.seed,
        episodes=episodes,
    )
    return asyncio.run(_learn(asked, spec))
