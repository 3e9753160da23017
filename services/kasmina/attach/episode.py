"""An episode of somebody else's training loop, step by step: asked for, written down, recorded.

The order is that of every run: a decision is in the journal before it is applied, and the
transition is in the outbox before the next decision is asked for. What a loop does again after a
crash is neither asked nor recorded again.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kasmina.attach.connection import AttachError, Connection
from kasmina.network.slot import Action, Outcome
from kasmina.runs.decider import Answer, EpisodeTerms, fallback, question
from kasmina.runs.episode_log import Decided, EpisodeRecord
from kasmina.runs.observation import action_of, execution_message, slot_message
from kasmina.runs.run_control import RunFailed
from kasmina.runs.run_spec import fingerprint_of
from kasmina.runs.seeds import stream_seeds
from kasmina.training.telemetry import Snapshot
from leyline.v1.decision_pb2 import Decision
from leyline.v1.episode_pb2 import EpisodeOrigin, Seeds
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, SlotReading, StepId
from leyline.v1.trainer_pb2 import EpisodeBegan, RunSpec, StepCompleted, StepDecided
from leyline.v1.transition_pb2 import (
    TERMINATION_ABANDONED,
    TERMINATION_CANCELLED,
    TERMINATION_FAILED,
    TERMINATION_HORIZON,
    EpisodeEnd,
    Execution,
    IntervalFacts,
    Termination,
    Transition,
)

_NANOSECONDS = 1_000_000_000
_LONGEST_MESSAGE = 4096


@dataclass(frozen=True)
class StepInHand:
    """A decision that was carried out, and whose interval is being trained."""

    snapshot: MultiSlotSnapshot
    decided: Decided
    execution: Execution

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "snapshot": _text(self.snapshot.SerializeToString()),
            "decision": _text(self.decided.decision.SerializeToString()),
            "decider": int(self.decided.decider),
            "fallback_reason": self.decided.fallback_reason,
            "execution": _text(self.execution.SerializeToString()),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> StepInHand:
        """The step that `state` described."""
        decision = Decision.FromString(base64.b64decode(state["decision"]))
        return cls(
            snapshot=MultiSlotSnapshot.FromString(base64.b64decode(state["snapshot"])),
            decided=Decided(decision, state["decider"], state["fallback_reason"]),
            execution=Execution.FromString(base64.b64decode(state["execution"])),
        )


class RemoteEpisode:
    """The episode that a run is in."""

    def __init__(self, connection: Connection, run_id: str, spec: RunSpec) -> None:
        """Finds out where the run stands; the episode has not begun."""
        self._connection = connection
        self._journal = connection.journal
        self._run_id = run_id
        self._spec = spec
        self._index: int | None = None
        latest = self._journal.episodes.latest(run_id)
        self._unfinished = None if latest is None or latest.termination else latest
        self._fresh_index = 0 if latest is None else latest.episode_index + 1

    @property
    def index(self) -> int:
        """The episode within the run."""
        assert self._index is not None, "the episode has not begun"
        return self._index

    @property
    def may_be_resumed(self) -> bool:
        """Whether there was an earlier attempt: the loop may go on with an episode of that."""
        return self._fresh_index > 0

    def begin(self, snapshot: Snapshot) -> None:
        """Begins an episode anew. One that an earlier attempt has left is over then.

        Raises `AttachError` where the policy cannot decide for it.
        """
        slots = [slot_message(slot) for slot in snapshot.slots]
        unfinished = self._unfinished
        if unfinished is not None and unfinished.steps == 0:
            self._begin(unfinished.episode_index, 0, slots)
            return
        if unfinished is not None:
            message = "a later attempt of the training loop began from the start"
            end = self._end_of(unfinished, TERMINATION_ABANDONED, message)
            self._connection.control.persist(lambda: self._journal.episodes.end(end))
        self._begin(self._fresh_index, 0, slots)

    def resume(self, index: int, snapshot: MultiSlotSnapshot | None) -> None:
        """Goes on with an episode from the step that `snapshot` is of.

        Without one the loop has an episode that is over: nothing more happens in it. Where the
        episode has come to its horizon and the loop has to go there again, it does so by what was
        decided. Raises `AttachError` where the episode is over otherwise, and the loop is not.
        """
        known = self._journal.episodes.get(self._run_id, index)
        repeated = (
            known is not None
            and known.termination == TERMINATION_HORIZON
            and snapshot is not None
            and snapshot.step_id.step < known.steps
        )
        if snapshot is None or repeated:
            self._index = index
            return
        if known is not None and known.termination:
            reason = Termination.Name(known.termination).removeprefix("TERMINATION_")
            raise AttachError(
                f"episode {index} of run {self._run_id!r} has ended ({reason}) and cannot be"
                " resumed: attach without load_state_dict() to begin the next one"
            )
        self._begin(index, snapshot.step_id.step, list(snapshot.slots))

    def take_step(
        self,
        snapshot: MultiSlotSnapshot,
        apply: Callable[[Action, str | None], Outcome],
    ) -> StepInHand:
        """Has a decision taken on the snapshot, written down, and then applied."""
        answer = self._decide(snapshot)
        decision = answer.decided.decision
        slot_id = decision.slot_id if decision.HasField("slot_id") else None
        outcome = apply(action_of(decision.action_type), slot_id)
        step = StepInHand(snapshot, answer.decided, execution_message(outcome))
        event = StepDecided(
            step_id=snapshot.step_id,
            decision=decision,
            decider=answer.decided.decider,
            execution=step.execution,
            snapshot=snapshot,
            fallback_reason=answer.decided.fallback_reason,
        )
        if answer.latency_s is not None:
            event.latency.FromNanoseconds(int(answer.latency_s * _NANOSECONDS))
        self._connection.control.persist(
            lambda: self._journal.episodes.write_execution(step.execution, event)
        )
        return step

    def complete(
        self, step: StepInHand, after: MultiSlotSnapshot, facts: IntervalFacts, *, terminal: bool
    ) -> None:
        """Hands in what became of a step, unless that was done before a crash already."""
        step_id = step.snapshot.step_id
        record = self._now()
        if record.steps > step_id.step:
            return
        transition = Transition(
            step_id=step_id,
            snapshot=step.snapshot,
            decision=step.decided.decision,
            decider=step.decided.decider,
            execution=step.execution,
            next_snapshot=after,
            terminal=terminal,
            facts=facts,
            spec_fingerprint=fingerprint_of(self._spec),
            fallback_reason=step.decided.fallback_reason,
        )
        transition.completed_at.FromNanoseconds(time.time_ns())
        event = StepCompleted(step_id=step_id, next_snapshot=after, facts=facts)
        episodes, control = self._journal.episodes, self._connection.control
        if not terminal:
            control.persist(lambda: episodes.complete(transition, event, None))
            return
        end = self._end_of(record, TERMINATION_HORIZON, "")
        end.steps = step_id.step + 1
        control.persist(lambda: episodes.complete_last(transition, event, end, None))
        self._connection.send()

    def give_up(self, failure: str | None = None) -> None:
        """Ends the episode before its horizon, with the steps that are complete; one that is over
        already stays as it is.

        `failure` says what has gone wrong, if anything.
        """
        record = self._now()
        if record.termination:
            return
        message = failure or f"the training loop ended after {record.steps} intervals"
        termination = TERMINATION_CANCELLED if failure is None else TERMINATION_FAILED
        end = self._end_of(record, termination, message[:_LONGEST_MESSAGE])
        self._connection.control.persist(lambda: self._journal.episodes.end(end))

    def step_id(self, step: int) -> StepId:
        """Names a step of the episode."""
        return StepId(run_id=self._run_id, episode_index=self.index, step=step)

    def _now(self) -> EpisodeRecord:
        record = self._journal.episodes.get(self._run_id, self.index)
        assert record is not None
        return record

    def _begin(self, index: int, step: int, slots: list[SlotReading]) -> None:
        known = self._journal.episodes.get(self._run_id, index)
        # The rest of what is random is the loop's own.
        seeds = Seeds(blueprint=stream_seeds(self._spec).blueprint)
        origin = EpisodeOrigin(seeds=seeds)
        terms = EpisodeTerms(
            run_id=self._run_id,
            episode_index=index,
            horizon=self._spec.training.horizon,
            slots=len(self._spec.host.slots),
            spec_fingerprint=fingerprint_of(self._spec),
            policy_version=None if known is None else known.policy_version,
            origin=origin,
        )
        try:
            with self._connection.line() as policy:
                beginning = policy.begin(terms)
        except RunFailed as failed:
            raise AttachError(str(failed)) from failed
        if beginning.refusal is not None:
            raise AttachError(beginning.refusal)
        event = EpisodeBegan(episode_index=index, first_step=step, slots=slots, origin=origin)
        self._connection.control.persist(
            lambda: self._journal.episodes.begin(beginning, event, self._run_id)
        )
        self._index = index

    def _decide(self, snapshot: MultiSlotSnapshot) -> Answer:
        step_id = snapshot.step_id
        known = self._journal.episodes.decided(step_id)
        if known is not None:
            return Answer(known, latency_s=None)
        query = question(self._spec, self._now(), snapshot)
        try:
            with self._connection.line() as policy:
                answer = policy.decide(query)
        except RunFailed as failed:  # the training loop goes on all the same
            answer = Answer(fallback(step_id, str(failed)), latency_s=None)
        decision = answer.decided.decision
        pin = decision.policy_version if decision.HasField("policy_version") else None
        self._connection.control.persist(
            lambda: self._journal.episodes.write_decision(step_id, answer.decided, pin)
        )
        return answer

    def _end_of(
        self, record: EpisodeRecord, termination: Termination.ValueType, message: str
    ) -> EpisodeEnd:
        end = EpisodeEnd(
            run_id=self._run_id,
            episode_index=record.episode_index,
            termination=termination,
            steps=record.steps,
            message=message,
        )
        end.ended_at.FromNanoseconds(time.time_ns())
        return end


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
