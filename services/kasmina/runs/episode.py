"""One episode from its beginning or its last checkpoint to its horizon, so that a crash anywhere
loses and doubles nothing.

The order in the life of a step is what makes it so: the decision is on the disk before it is
applied; the checkpoint is on the disk before the journal points to it; and transition, event and
pointer become true in one transaction. Everything in between is a function of the checkpoint and
the decision, and is done again after a crash with the same result.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chassis.logging import bind_call
from kasmina.data.dataset import Dataset
from kasmina.network.slot import NoOpReason, Outcome
from kasmina.runs import run_spec
from kasmina.runs.decider import Answer, Decider, EpisodeTerms
from kasmina.runs.disk import writing
from kasmina.runs.episode_log import Checkpoint, Decided, EpisodeRecord, FinalNetwork
from kasmina.runs.fault import Point, reached
from kasmina.runs.journal import Journal
from kasmina.runs.observation import action_of, execution_message, facts_message, snapshot_message
from kasmina.runs.run_control import RunControl, RunFailed
from kasmina.runs.state_directory import StateDirectory
from kasmina.training.trainer import GrowthTrainer
from leyline.identity import sampling_seed
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, StepId
from leyline.v1.trainer_pb2 import EpisodeBegan, RunSpec, StepCompleted, StepDecided
from leyline.v1.transition_pb2 import TERMINATION_HORIZON, EpisodeEnd, Execution, Transition

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class EpisodeSetting:
    """What all episodes of a run have in common.

    Attributes:
        spec: filled in.
        device, threads: that the trainer computes with.
    """

    run_id: str
    spec: RunSpec
    dataset: Dataset
    device: str
    threads: int
    journal: Journal
    state: StateDirectory
    control: RunControl
    decider: Decider


@dataclass(frozen=True)
class _Step:
    """A decision that is being carried out."""

    step_id: StepId
    snapshot: MultiSlotSnapshot
    decided: Decided
    execution: Execution


class Episode:
    """One episode of a run."""

    def __init__(self, setting: EpisodeSetting, episode_index: int) -> None:
        self._setting = setting
        self._index = episode_index
        self._journal = setting.journal
        self._control = setting.control
        self._slots = frozenset(setting.spec.host.slots)
        self._fingerprint = run_spec.fingerprint_of(setting.spec)

    def play(self) -> None:
        """Plays the episode to its horizon; one that has ended stays as it is.

        Raises:
            RunCancelled: somebody has asked for the end; the journal does not know it yet.
            RunFailed: it cannot go on.
        """
        record = self._journal.episodes.get(self._setting.run_id, self._index)
        if record is not None and record.termination:
            self._prune(None)
            return
        trainer = self._trainer()
        try:
            record = self._begin(trainer, record)
            while not trainer.finished:
                self._control.before_step()
                record = self._play_step(trainer, record)
        finally:
            self._setting.decider.end()

    def _trainer(self) -> GrowthTrainer:
        checkpoint = self._journal.episodes.checkpoint(self._setting.run_id, self._index)
        if checkpoint is not None:
            path = self._setting.state.root / checkpoint.path
            self._prune(path)
            return GrowthTrainer.load(path, self._setting.dataset)
        setting = self._setting
        config = run_spec.trainer_config(setting.spec, self._index, setting.threads, setting.device)
        try:
            return GrowthTrainer(config, self._setting.dataset)
        except ValueError as error:
            raise RunFailed(f"the host cannot be built for these images: {error}") from error

    def _begin(self, trainer: GrowthTrainer, known: EpisodeRecord | None) -> EpisodeRecord:
        terms = EpisodeTerms(
            run_id=self._setting.run_id,
            episode_index=self._index,
            horizon=self._setting.spec.training.horizon,
            slots=len(self._slots),
            spec_fingerprint=self._fingerprint,
            policy_version=None if known is None else known.policy_version,
        )
        beginning = self._setting.decider.begin(terms)
        snapshot = self._snapshot(trainer)
        event = EpisodeBegan(
            episode_index=self._index, first_step=trainer.interval, slots=snapshot.slots
        )
        record = self._control.persist(
            lambda: self._journal.episodes.begin(beginning, event, self._setting.run_id)
        )
        bind_call(policy_version=record.policy_version)
        if known is None or trainer.interval == 0:
            checkpoint = self._save(trainer)
            self._control.persist(
                lambda: self._journal.episodes.point_to(
                    self._setting.run_id, self._index, checkpoint
                )
            )
        return record

    def _play_step(self, trainer: GrowthTrainer, record: EpisodeRecord) -> EpisodeRecord:
        snapshot = self._snapshot(trainer)
        step_id = snapshot.step_id
        self._reached(Point.SNAPSHOT_TAKEN, step_id)
        answer, record = self._decide(snapshot, record)
        self._reached(Point.DECISION_JOURNALLED, step_id)
        execution = execution_message(self._apply(trainer, answer.decided))
        step = _Step(step_id, snapshot, answer.decided, execution)
        self._tell_decided(step, answer)
        self._reached(Point.DECISION_APPLIED, step_id)
        self._train(trainer, step)
        self._reached(Point.TRANSITION_COMMITTED, step_id)
        self._prune(None if trainer.finished else self._checkpoint_path(trainer))
        return record

    def _decide(
        self, snapshot: MultiSlotSnapshot, record: EpisodeRecord
    ) -> tuple[Answer, EpisodeRecord]:
        """The decision that is on the disk already, or else a fresh one, which is on the disk when
        this returns.
        """
        step_id = snapshot.step_id
        known = self._journal.episodes.decided(step_id)
        if known is not None:
            return Answer(known, latency_s=None), record
        query = DecisionQuery(
            snapshot=snapshot,
            spec_fingerprint=self._fingerprint,
            sampling_seed=sampling_seed(self._setting.spec.seed, self._index, step_id.step),
            mode=record.mode,
            policy_version=record.policy_version,
        )
        answer = self._setting.decider.decide(query)
        decision = answer.decided.decision
        pin = decision.policy_version if decision.HasField("policy_version") else None
        self._control.persist(
            lambda: self._journal.episodes.write_decision(step_id, answer.decided, pin)
        )
        if pin is not None and record.policy_version is None:
            bind_call(policy_version=pin)
            record = self._journal.episodes.get(step_id.run_id, self._index) or record
        return answer, record

    def _apply(self, trainer: GrowthTrainer, decided: Decided) -> Outcome:
        decision = decided.decision
        action = action_of(decision.action_type)
        if not decision.HasField("slot_id"):
            return trainer.apply(action)
        if decision.slot_id not in self._slots:
            return Outcome(NoOpReason.UNKNOWN_SLOT)
        return trainer.apply(action, decision.slot_id)

    def _tell_decided(self, step: _Step, answer: Answer) -> None:
        event = StepDecided(
            step_id=step.step_id,
            decision=step.decided.decision,
            decider=step.decided.decider,
            execution=step.execution,
            snapshot=step.snapshot,
            fallback_reason=step.decided.fallback_reason,
        )
        if answer.latency_s is not None:
            event.latency.FromNanoseconds(int(answer.latency_s * _NANOSECONDS))
        self._control.persist(lambda: self._journal.episodes.write_execution(step.execution, event))

    def _train(self, trainer: GrowthTrainer, step: _Step) -> None:
        facts = trainer.train_interval()
        self._reached(Point.INTERVAL_TRAINED, step.step_id)
        after = self._snapshot(trainer)
        transition = Transition(
            step_id=step.step_id,
            snapshot=step.snapshot,
            decision=step.decided.decision,
            decider=step.decided.decider,
            execution=step.execution,
            next_snapshot=after,
            terminal=trainer.finished,
            facts=facts_message(facts, trainer.snapshot(), self._slots),
            spec_fingerprint=self._fingerprint,
            fallback_reason=step.decided.fallback_reason,
        )
        transition.completed_at.FromNanoseconds(time.time_ns())
        event = StepCompleted(step_id=step.step_id, next_snapshot=after, facts=transition.facts)
        if trainer.finished:
            self._complete_last(trainer, transition, event)
        else:
            self._complete(trainer, transition, event)

    def _complete(
        self, trainer: GrowthTrainer, transition: Transition, event: StepCompleted
    ) -> None:
        checkpoint = self._save(trainer)
        self._reached(Point.CHECKPOINT_WRITTEN, transition.step_id)
        self._control.persist(
            lambda: self._journal.episodes.complete(transition, event, checkpoint)
        )

    def _complete_last(
        self, trainer: GrowthTrainer, transition: Transition, event: StepCompleted
    ) -> None:
        network = self._export(trainer)
        self._reached(Point.CHECKPOINT_WRITTEN, transition.step_id)
        end = EpisodeEnd(
            run_id=self._setting.run_id,
            episode_index=self._index,
            termination=TERMINATION_HORIZON,
            steps=trainer.interval,
        )
        end.ended_at.FromNanoseconds(time.time_ns())
        self._control.persist(
            lambda: self._journal.episodes.complete_last(transition, event, end, network)
        )

    def _snapshot(self, trainer: GrowthTrainer) -> MultiSlotSnapshot:
        step_id = StepId(
            run_id=self._setting.run_id, episode_index=self._index, step=trainer.interval
        )
        return snapshot_message(step_id, trainer.snapshot(), self._slots)

    def _save(self, trainer: GrowthTrainer) -> Checkpoint:
        path = self._checkpoint_path(trainer)
        self._write(path, trainer.save)
        return Checkpoint(trainer.interval, str(path.relative_to(self._setting.state.root)))

    def _export(self, trainer: GrowthTrainer) -> FinalNetwork:
        state = self._setting.state
        path = state.network(self._setting.run_id, self._index)
        self._write(path, trainer.export)
        content = path.read_bytes()
        return FinalNetwork(hashlib.sha256(content).hexdigest(), len(content))

    def _write(self, path: Path, write: Callable[[Path], None]) -> None:
        def attempt() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing(path):
                write(path)

        self._control.persist(attempt)

    def _checkpoint_path(self, trainer: GrowthTrainer) -> Path:
        return self._setting.state.checkpoint(self._setting.run_id, self._index, trainer.interval)

    def _prune(self, keep: Path | None) -> None:
        """Removes the episode's checkpoints but the one that the journal points to, and what a
        crash left half-written.
        """
        folder = self._setting.state.checkpoints(self._setting.run_id)
        for pattern in (f"{self._index}-*", f".{self._index}-*"):
            for path in folder.glob(pattern):
                if path != keep:
                    path.unlink(missing_ok=True)

    def _reached(self, point: Point, step_id: StepId) -> None:
        reached(point, self._index, step_id.step, self._setting.state.faults)
