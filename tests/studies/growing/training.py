"""The stage `train`: a policy learns from whole episodes until its time is used up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import count

from tests.studies.growing.playing import (
    POLL_S,
    Job,
    check,
    episodes_played,
    has_ended,
    say,
    waiting,
)
from tests.studies.growing.preset import WAITING, Preset, Share, root_seed
from tests.studies.growing.problem import StudyError
from tests.studies.growing.services import Services
from tests.studies.growing.state import State

from leyline.client import Learner, Trainer
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.learner_pb2 import (
    TRAINING_STATE_FAILED,
    TRAINING_STATE_RUNNING,
    Training,
    TrainingPlan,
)
from leyline.v1.trainer_pb2 import PolicySpec, Run

TRAINING = "growing"
RUNS = "train"
_AHEAD = 2
"""Chunks that are unfinished at any time: workers are never idle, and twins not far ahead."""
_SAY_EVERY_S = 30.0
_SAMPLED = PolicySpec(mode=SELECTION_MODE_SAMPLED, deterministic=True)
"""Deterministic, so that a service that is away is waited for: no decision is a fallback."""


def chunks(preset: Preset, seed: int, *, minus_twin: bool) -> Iterator[list[Job]]:
    """The training's episodes without end, some at a time, the twins that only wait first."""
    root = root_seed("train", seed)
    for number in count():
        first = number * preset.chunk
        twin = f"{RUNS}-wait-{first:05d}" if minus_twin else ""
        share = Share(root, first, preset.chunk)
        jobs = [Job(twin, preset.run_spec(WAITING, share))] if minus_twin else []
        spec = preset.run_spec(_SAMPLED, share, twin=twin)
        yield [*jobs, Job(f"{RUNS}-{first:05d}", spec)]


async def train(
    services: Services, state: State, preset: Preset, *, seed: int, plan: TrainingPlan
) -> None:
    """Trains until the state's `training_minutes` are used, or all updates are made.

    Raises:
        StudyError: the learner or a run failed.
    """
    budget_s = 60.0 * state.config["training_minutes"]
    async with services.learner() as learner, services.trainer() as trainer:
        await learner.start(plan, TRAINING)
        await services.policies_ready()
        coming = chunks(preset, seed, minus_twin=plan.minus_twin)
        await _play(learner, trainer, state, budget_s, coming)
        training = await _end(learner, trainer)
    state.version = training.policy_version
    state.save()
    say(
        f"train: {training.updates} updates from {training.episodes} episodes in"
        f" {state.seconds['train'] / 60:.1f} min; version {state.version}"
    )


async def _play(
    learner: Learner, trainer: Trainer, state: State, budget_s: float, coming: Iterator[list[Job]]
) -> None:
    """Keeps the workers busy until the budget is used or the training has ended."""
    clock = state.clock("train")
    begun: list[list[str]] = []
    runs: dict[str, Run] = {}
    said = 0.0
    while clock.tick() < budget_s:
        training = await learner.get(TRAINING)
        if training.state != TRAINING_STATE_RUNNING:
            break
        while sum(any(not has_ended(runs[each]) for each in chunk) for chunk in begun) < _AHEAD:
            jobs = next(coming)
            begun.append([job.run_id for job in jobs])
            for job in jobs:
                runs[job.run_id] = await trainer.start(job.spec, job.run_id)
                check(runs[job.run_id])
        await asyncio.sleep(min(POLL_S, budget_s))
        for run_id, run in runs.items():
            if not has_ended(run):
                runs[run_id] = await trainer.get(run_id)
                check(runs[run_id])
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            _say(training, runs, clock.tick(), budget_s)
    clock.save()


def _say(training: Training, runs: dict[str, Run], used_s: float, budget_s: float) -> None:
    played = episodes_played(run for run in runs.values() if run.spec.twin_run)
    twins = episodes_played(run for run in runs.values() if run.spec.policy.HasField("plan"))
    say(
        f"train: {used_s / 60:.1f} of {budget_s / 60:.1f} min,"
        f" {episodes_played(runs.values()) - twins:.1f} episodes"
        f"{f' and {twins:.1f} twins' if played else ''}, {training.updates} updates,"
        f" {max(0.0, budget_s - used_s) / 60:.1f} min left{waiting(runs.values())}"
    )


async def _end(learner: Learner, trainer: Trainer) -> Training:
    """Ends what still goes on, whoever began it; the training as it ended."""
    runs = [run async for run in trainer.list()]
    for run in runs:
        if not has_ended(run):
            await trainer.cancel(run.run_id, "the training's time is used up")
    for run in runs:
        while not has_ended(run) or run.outbox_depth:
            await asyncio.sleep(POLL_S)
            run = await trainer.get(run.run_id)
    training = await learner.stop(TRAINING)
    while training.state == TRAINING_STATE_RUNNING:
        await asyncio.sleep(POLL_S)
        training = await learner.get(TRAINING)
    if training.state == TRAINING_STATE_FAILED:
        raise StudyError(f"training {TRAINING} failed: {training.status_message}")
    return training
