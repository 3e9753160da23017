"""One demonstration from the outside: a training, a run, and what came of both."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.client import Experience, Learner, PolicyServer, Registry, Trainer
from leyline.demo.preset import Data, Preset
from leyline.error import ServiceError
from leyline.record import RunRecord
from leyline.stack import Addresses
from leyline.v1.experience_pb2 import GetStatisticsResponse, ReadEpisodesRequest
from leyline.v1.learner_pb2 import Training, WatchTrainingResponse
from leyline.v1.registry_pb2 import PolicyManifest
from leyline.v1.trainer_pb2 import Run

_READY_S = 60.0
_LEARNED_S = 120.0
_DRAINED_S = 60.0
_LEARNED_VERSIONS = 2


class DemoError(Exception):
    """The demonstration cannot go on. The text says why."""


@dataclass
class Demonstration:
    """All that is known of it; grows while it runs."""

    preset: Preset
    run_id: str
    horizon: int = 0
    dataset: str = ""
    record: RunRecord = field(default_factory=RunRecord)
    initial_version: str = ""
    updates: list[WatchTrainingResponse] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    first_decision_s: float | None = None
    """Seconds from the beginning to the first decision."""
    run: Run = field(default_factory=Run)
    """As it ended."""
    training: Training = field(default_factory=Training)
    """The training that learned from it, as it was last seen."""
    stored: GetStatisticsResponse = field(default_factory=GetStatisticsResponse)
    """What Simic counts of the run."""
    versions_stored: dict[int, set[str]] = field(default_factory=dict)
    """The versions that decided, by episode, as Simic stored them."""
    manifests: list[PolicyManifest] = field(default_factory=list)
    """The registry's versions, oldest first."""
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps that it will have."""
        return self.preset.episodes * self.horizon

    @property
    def expected_updates(self) -> int:
        """Versions that must be learned from its episodes, or nobody has seen a policy learn."""
        fresh = max(self.training.plan.episodes_per_update, 1)
        return min(_LEARNED_VERSIONS, self.preset.episodes // fresh)


class View(Protocol):
    """Shows a demonstration to somebody."""

    def say(self, text: str) -> None:
        """Say what happens now."""

    def update(self, demonstration: Demonstration) -> None:
        """Show how far it is."""


@dataclass
class Session:
    """Carries out a demonstration against services that run."""

    addresses: Addresses
    view: View
    credentials: Credentials = NO_CREDENTIALS

    async def carry_out(self, demonstration: Demonstration) -> None:
        """Train, run, and gather what came of it.

        Raises:
            ServiceError, DemoError: something does not work. What was started is stopped.
        """
        at, credentials = self.addresses, self.credentials
        async with (
            Trainer(at.kasmina, credentials) as trainer,
            PolicyServer(at.tamiyo, credentials) as policy,
            Learner(at.simic, credentials) as learner,
            Experience(at.simic, credentials) as experience,
            Registry(at.simic, credentials) as registry,
        ):
            await trainer.serving(_READY_S)
            await learner.serving(_READY_S)
            async with self._training(learner, demonstration):
                self.view.say("Simic registers the policy's first version, Tamiyo waits for it")
                await policy.serving(_READY_S)
                demonstration.initial_version = (await policy.info()).policy_version
                async with self._run(trainer, demonstration):
                    await self._follow(trainer, learner, demonstration)
            demonstration.run = await self._drained(trainer, demonstration.run_id)
            demonstration.training = await learner.get(demonstration.training.training_id)
            demonstration.stored = await experience.statistics(demonstration.run_id)
            demonstration.versions_stored = await _versions(experience, demonstration.run_id)
            demonstration.manifests = [manifest async for manifest, _ in registry.list()][::-1]
            demonstration.seconds = time.monotonic() - demonstration.began

    @contextlib.asynccontextmanager
    async def _training(
        self, learner: Learner, demonstration: Demonstration
    ) -> AsyncIterator[None]:
        """A training of its own, which ends with the block at the latest, or the one that runs."""
        plan = demonstration.preset.plan(demonstration.run_id)
        try:
            demonstration.training = await learner.start(plan, demonstration.run_id)
        except ServiceError as error:
            if error.reason != "TRAINING_ALREADY_RUNNING":
                raise
            demonstration.training = await learner.get()
            self.view.say(
                f"Simic's training {demonstration.training.training_id} runs already, "
                f"and learns from this run too"
            )
            yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(ServiceError):
                await learner.stop(demonstration.run_id)

    @contextlib.asynccontextmanager
    async def _run(self, trainer: Trainer, demonstration: Demonstration) -> AsyncIterator[None]:
        """A run on the first data set that is there; cancelled if the block fails."""
        run = await self._start(trainer, demonstration)
        demonstration.horizon = run.spec.training.horizon
        demonstration.dataset = run.spec.dataset.name
        try:
            yield
        except BaseException:
            with contextlib.suppress(ServiceError):
                await trainer.cancel(demonstration.run_id, "the demonstration was broken off")
            raise

    async def _start(self, trainer: Trainer, demonstration: Demonstration) -> Run:
        preset = demonstration.preset
        *choices, last = preset.data
        for data in choices:
            try:
                return await self._start_on(data, trainer, demonstration)
            except ServiceError as error:
                if error.reason != "DATASET_NOT_FOUND":
                    raise
                self.view.say(f"not on {data.dataset.name}: {error.message}")
        return await self._start_on(last, trainer, demonstration)

    async def _start_on(self, data: Data, trainer: Trainer, demonstration: Demonstration) -> Run:
        spec = demonstration.preset.run_spec(data)
        run = await trainer.start(spec, demonstration.run_id)
        self.view.say(
            f"Kasmina trains on {data.dataset.name}: {spec.episodes} episodes of "
            f"{data.training.horizon} intervals, "
            f"{data.training.batch_size * data.training.interval_batches:,} images each"
        )
        return run

    async def _follow(
        self, trainer: Trainer, learner: Learner, demonstration: Demonstration
    ) -> None:
        """Watch the run and the training until both have ended."""
        learning = asyncio.create_task(self._follow_training(learner, demonstration))
        try:
            async for event in trainer.watch(demonstration.run_id):
                demonstration.record.add(event)
                if demonstration.first_decision_s is None and event.HasField("step_decided"):
                    demonstration.first_decision_s = time.monotonic() - demonstration.began
                self.view.update(demonstration)
            record = demonstration.record
            if record.state != "COMPLETED":
                raise DemoError(f"the run ended {record.state}: {record.message}")
            self.view.say("the run is over; Simic learns from its last episodes")
            await asyncio.wait_for(learning, _LEARNED_S)
        except TimeoutError:
            raise DemoError(
                f"Simic has not learned enough {_LEARNED_S:.0f} s after the run"
            ) from None
        finally:
            learning.cancel()

    async def _follow_training(self, learner: Learner, demonstration: Demonstration) -> None:
        training = demonstration.training
        async for update in learner.watch(training.training_id, after=training.updates):
            demonstration.updates.append(update)
            self.view.update(demonstration)
            somebody_elses = training.training_id != demonstration.run_id
            if somebody_elses and len(demonstration.updates) >= demonstration.expected_updates:
                return  # it goes on without us

    async def _drained(self, trainer: Trainer, run_id: str) -> Run:
        """Return the run as it ended, once Simic has all of it."""
        deadline = time.monotonic() + _DRAINED_S
        while (run := await trainer.get(run_id)).outbox_depth:
            if time.monotonic() > deadline:
                raise DemoError(f"{run.outbox_depth} transitions have not arrived at Simic")
            await asyncio.sleep(0.1)
        return run


async def _versions(experience: Experience, run_id: str) -> dict[int, set[str]]:
    """Read back which versions decided in each episode."""
    found: dict[int, set[str]] = {}
    async for record in experience.read(ReadEpisodesRequest(run_id=run_id)):
        if record.HasField("head"):
            versions = found.setdefault(record.head.episode_index, set())
        elif record.HasField("transition"):
            decision = record.transition.decision
            if decision.HasField("policy_version"):
                versions.add(decision.policy_version)
    return found
