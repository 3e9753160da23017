"""One episode from its beginning or its last checkpoint to its horizon, so that a crash anywhere
loses and doubles nothing.

The order in the life of a step is what makes it so: the decision is on the disk before it is
applied; the checkpoint is on the disk before the journal points to it; and transition, event and
pointer become true in one transaction. Everything in between is a function of the checkpoint and
the decision, and is done again after a crash with the same result.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chassis.logging import bind_call
from kasmina.network.slot import Outcome
from kasmina.runs import run_spec
from kasmina.runs.decider import Answer, Decider, EpisodeTerms, question
from kasmina.runs.episode_files import EpisodeFiles
from kasmina.runs.episode_log import Beginning, Decided, EpisodeRecord
from kasmina.runs.episode_source import EpisodeSource, EpisodeTrainer
from kasmina.runs.fault import Point, reached
from kasmina.runs.journal import Journal
from kasmina.runs.observation import action_of, execution_message, facts_message, snapshot_message
from kasmina.runs.origin import origin_of
from kasmina.runs.run_control import RunControl, RunFailed
from kasmina.runs.state_directory import StateDirectory
from leyline.v1.decision_pb2 import ActionType
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, StepId
from leyline.v1.trainer_pb2 import EpisodeBegan, RunSpec, StepCompleted, StepDecided
from leyline.v1.transition_pb2 import TERMINATION_HORIZON, EpisodeEnd, Execution, Transition

if TYPE_CHECKING:
    from chassis.spans import Tracing

_NANOSECONDS = 1_000_000_000
_RETRY_S = 1.0


@dataclass(frozen=True)
class EpisodeSetting:
    """What all episodes of a run have in common.

    Attributes:
        spec: settled.
        source: of the episodes' trainers.
        tracing: is told of steps; None: nobody is.
    """

    run_id: str
    spec: RunSpec
    source: EpisodeSource
    journal: Journal
    state: StateDirectory
    control: RunControl
    decider: Decider
    tracing: Tracing | None = None


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
        self._files = EpisodeFiles(
            run_id=setting.run_id,
            episode_index=episode_index,
            state=setting.state,
            control=setting.control,
            keeps_checkpoints=setting.spec.keep_checkpoints,
        )
        self._first_interval = 0
        """The trainer's at step 0: that of the parent, in a fork."""
        self._fingerprint = run_spec.fingerprint_of(setting.spec)

    def play(self) -> None:
        """Plays the episode to its horizon; one that has ended stays as it is.

        Raises:
            RunCancelled: somebody has asked for the end; the journal does not know it yet.
            RunFailed: it cannot go on.
        """
        record = self._journal.episodes.get(self._setting.run_id, self._index)
        if record is not None and record.termination:
            self._files.prune(None)
            return
        # Before the fence changes: what is still on its way carries the one of now.
        self._control.await_experience()
        origin = self._origin() if record is None else record.origin
        trainer = self._trainer(origin)
        try:
            beginning = self._begun(self._terms(origin, record))
            if record is None and beginning.evaluation_pair is not None:
                del trainer  # there may not be room for two
                origin, beginning = self._evaluation(beginning, beginning.evaluation_pair)
                trainer = self._trainer(origin)
            record = self._begin(trainer, origin, beginning, record)
            while not trainer.finished:
                self._control.before_step()
                record = self._play_step(trainer, record)
        finally:
            self._setting.decider.end()

    def _origin(self) -> EpisodeOrigin:
        setting = self._setting
        return origin_of(setting.spec, self._index, self._journal.episodes, setting.source)

    def _trainer(self, origin: EpisodeOrigin) -> EpisodeTrainer:
        source, state = self._setting.source, self._setting.state
        checkpoint = self._journal.episodes.checkpoint(self._setting.run_id, self._index)
        if checkpoint is not None:
            path = state.root / checkpoint.path
            self._files.prune(path)
            trainer = source.resumed(path, origin)
            self._first_interval = trainer.interval - checkpoint.step
            return trainer
        if not origin.HasField("fork"):
            return source.fresh(origin)
        parent, step = origin.fork.parent, origin.fork.step
        trainer = source.resumed(
            state.checkpoint(parent.run_id, parent.episode_index, step), origin
        )
        self._first_interval = trainer.interval
        trainer.forget_spending()
        return trainer

    def _terms(self, origin: EpisodeOrigin, known: EpisodeRecord | None) -> EpisodeTerms:
        spec = self._setting.spec
        return EpisodeTerms(
            run_id=self._setting.run_id,
            episode_index=self._index,
            horizon=spec.training.horizon,
            slots=len(spec.host.slots),
            spec_fingerprint=self._fingerprint,
            policy_version=None if known is None else known.policy_version,
            origin=origin,
            # A fork goes on from what its parent was made of.
            offers_evaluation=known is None and not spec.HasField("fork"),
        )

    def _evaluation(self, beginning: Beginning, pair: int) -> tuple[EpisodeOrigin, Beginning]:
        """The origin that the episode has for a pair of an evaluation, and the beginning with it:
        not that of its own, which has a twin perhaps, but that of both episodes of the pair.
        """
        origin = self._setting.source.evaluation_origin(pair)
        terms = replace(self._terms(origin, None), policy_version=beginning.policy_version)
        # Where the service is away now, the outbox's drainer tells it the origin later.
        return origin, replace(beginning, fence=self._begun(terms).fence)

    def _begin(
        self,
        trainer: EpisodeTrainer,
        origin: EpisodeOrigin,
        beginning: Beginning,
        known: EpisodeRecord | None,
    ) -> EpisodeRecord:
        snapshot = self._snapshot(trainer)
        event = EpisodeBegan(
            episode_index=self._index,
            first_step=self._step_of(trainer),
            slots=snapshot.slots,
            origin=origin,
        )
        record = self._control.persist(
            lambda: self._journal.episodes.begin(beginning, event, self._setting.run_id)
        )
        if beginning.refusal is not None:
            # Written down all the same: whoever has heard of the episode is told its end.
            raise RunFailed(beginning.refusal)
        bind_call(policy_version=record.policy_version)
        if known is None or self._step_of(trainer) == 0:
            # From here on a fork needs nothing of its parent's.
            checkpoint = self._files.save(trainer, self._step_of(trainer))
            self._control.persist(
                lambda: self._journal.episodes.point_to(
                    self._setting.run_id, self._index, checkpoint
                )
            )
        return record

    def _begun(self, terms: EpisodeTerms) -> Beginning:
        """What the decider begins with. A refusal without a word from the experience service, which
        may know of a version that decides, is waited out.
        """
        while True:
            beginning = self._setting.decider.begin(terms)
            may_change = beginning.follows_registry and beginning.fence is None
            if beginning.refusal is None or not may_change:
                self._control.go_on()
                return beginning
            self._control.pause(beginning.refusal)
            time.sleep(_RETRY_S)

    def _play_step(self, trainer: EpisodeTrainer, record: EpisodeRecord) -> EpisodeRecord:
        snapshot = self._snapshot(trainer)
        with self._traced("step", snapshot.step_id):
            return self._carry_out(trainer, snapshot, record)

    def _carry_out(
        self, trainer: EpisodeTrainer, snapshot: MultiSlotSnapshot, record: EpisodeRecord
    ) -> EpisodeRecord:
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
        next_step = self._step_of(trainer)
        self._files.prune(None if trainer.finished else self._files.checkpoint(next_step))
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
        answer = self._setting.decider.decide(question(self._setting.spec, record, snapshot))
        decision = answer.decided.decision
        pin = decision.policy_version if decision.HasField("policy_version") else None
        self._control.persist(
            lambda: self._journal.episodes.write_decision(step_id, answer.decided, pin)
        )
        if pin is not None and record.policy_version is None:
            bind_call(policy_version=pin)
            record = self._journal.episodes.get(step_id.run_id, self._index) or record
        return answer, record

    def _apply(self, trainer: EpisodeTrainer, decided: Decided) -> Outcome:
        decision = decided.decision
        action = action_of(decision.action_type)
        return trainer.apply(action, decision.slot_id if decision.HasField("slot_id") else None)

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
        if self._setting.tracing is not None:
            decision = step.decided.decision
            self._setting.tracing.add(
                action=ActionType.Name(decision.action_type).removeprefix("ACTION_TYPE_"),
                slot_id=decision.slot_id or None,
                fallback_reason=step.decided.fallback_reason,
            )

    def _train(self, trainer: EpisodeTrainer, step: _Step) -> None:
        with self._traced("train", step.step_id):
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
            facts=facts_message(facts, trainer.snapshot()),
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
        self, trainer: EpisodeTrainer, transition: Transition, event: StepCompleted
    ) -> None:
        checkpoint = self._files.save(trainer, self._step_of(trainer))
        self._reached(Point.CHECKPOINT_WRITTEN, transition.step_id)
        self._control.persist(
            lambda: self._journal.episodes.complete(
                transition, event, checkpoint, self._traceparent()
            )
        )

    def _complete_last(
        self, trainer: EpisodeTrainer, transition: Transition, event: StepCompleted
    ) -> None:
        network = self._files.export(trainer, self._setting.source)
        self._reached(Point.CHECKPOINT_WRITTEN, transition.step_id)
        end = EpisodeEnd(
            run_id=self._setting.run_id,
            episode_index=self._index,
            termination=TERMINATION_HORIZON,
            steps=self._step_of(trainer),
        )
        end.ended_at.FromNanoseconds(time.time_ns())
        self._control.persist(
            lambda: self._journal.episodes.complete_last(
                transition, event, end, network, self._traceparent()
            )
        )

    def _traced(self, name: str, step_id: StepId) -> AbstractContextManager[object]:
        """A span of the step, for as long as the block lasts; nothing where nobody is told."""
        tracing = self._setting.tracing
        return nullcontext() if tracing is None else tracing.step(name, step_id)

    def _traceparent(self) -> str | None:
        tracing = self._setting.tracing
        return None if tracing is None else tracing.traceparent()

    def _snapshot(self, trainer: EpisodeTrainer) -> MultiSlotSnapshot:
        step_id = StepId(
            run_id=self._setting.run_id, episode_index=self._index, step=self._step_of(trainer)
        )
        return snapshot_message(step_id, trainer.snapshot())

    def _step_of(self, trainer: EpisodeTrainer) -> int:
        return trainer.interval - self._first_interval

    def _reached(self, point: Point, step_id: StepId) -> None:
        reached(point, self._index, step_id.step, self._setting.state.faults)
