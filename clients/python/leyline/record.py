"""What happened in a run, put together from its events: episode by episode, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT, ActionType
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, Stage
from leyline.v1.trainer_pb2 import RunState, StepCompleted, StepDecided, WatchRunResponse
from leyline.v1.transition_pb2 import (
    DECIDER_FALLBACK,
    EXECUTION_RESULT_NO_OP,
    NoOpReason,
    Termination,
)


def stage_name(stage: Stage.ValueType) -> str:
    """Return a stage's name as people write it: `BLENDING`."""
    return Stage.Name(stage).removeprefix("STAGE_")


def action_name(action: ActionType.ValueType) -> str:
    """Return an action type's name as people write it: `GERMINATE`."""
    return ActionType.Name(action).removeprefix("ACTION_TYPE_")


def state_name(state: RunState.ValueType) -> str:
    """Return a run state's name as people write it: `RUNNING`."""
    return RunState.Name(state).removeprefix("RUN_STATE_")


def termination_name(termination: Termination.ValueType) -> str:
    """Return how an episode ended, as people write it: `HORIZON`."""
    return Termination.Name(termination).removeprefix("TERMINATION_")


@dataclass
class StepRecord:
    """One step: what was seen, what was decided, and what was seen next."""

    decided: StepDecided
    completed: StepCompleted | None = None

    @property
    def action(self) -> str:
        """`WAIT`, `GERMINATE`, `ADVANCE` or `CULL`."""
        return action_name(self.decided.decision.action_type)

    @property
    def slot_id(self) -> str | None:
        """Where; None on WAIT."""
        decision = self.decided.decision
        return None if decision.action_type == ACTION_TYPE_WAIT else decision.slot_id

    @property
    def no_op_reason(self) -> str | None:
        """Why nothing was done; None where it was."""
        execution = self.decided.execution
        if execution.result != EXECUTION_RESULT_NO_OP:
            return None
        return NoOpReason.Name(execution.no_op_reason).removeprefix("NO_OP_REASON_")

    @property
    def is_fallback(self) -> bool:
        """Whether the trainer decided because no policy did in time."""
        return self.decided.decider == DECIDER_FALLBACK

    @property
    def policy_version(self) -> str | None:
        """The version that decided; None on a fallback."""
        return None if self.is_fallback else self.decided.decision.policy_version

    @property
    def snapshot(self) -> MultiSlotSnapshot:
        """The newest that is known of the network."""
        return self.completed.next_snapshot if self.completed else self.decided.snapshot

    def __str__(self) -> str:
        words = self.action if self.slot_id is None else f"{self.action} {self.slot_id}"
        if self.no_op_reason is not None:
            words += f" (no-op: {self.no_op_reason})"
        return words + " (fallback)" if self.is_fallback else words


@dataclass
class EpisodeRecord:
    """One episode."""

    index: int
    policy_version: str | None = None
    """The version that it is pinned to, as far as is known."""
    steps: dict[int, StepRecord] = field(default_factory=dict)
    termination: str | None = None
    """How it ended; None while it has not."""

    @property
    def newest(self) -> StepRecord | None:
        """Its newest step."""
        return self.steps[max(self.steps)] if self.steps else None

    @property
    def completed(self) -> list[StepRecord]:
        """Its completed steps, in order."""
        return [step for _, step in sorted(self.steps.items()) if step.completed]

    @property
    def accuracies(self) -> list[float]:
        """Validation accuracy before the first interval and after each, as fractions."""
        steps = self.completed
        snapshots = [step.decided.snapshot for step in steps[:1]]
        snapshots += [step.snapshot for step in steps]
        return [snapshot.val_accuracy for snapshot in snapshots]

    @property
    def versions(self) -> set[str]:
        """The policy versions that decided in it."""
        return {step.policy_version for step in self.steps.values() if step.policy_version}


@dataclass
class RunRecord:
    """One run, as its events tell it."""

    episodes: dict[int, EpisodeRecord] = field(default_factory=dict)
    state: str = "QUEUED"
    message: str = ""
    """Why it is in its state, for people."""

    def add(self, event: WatchRunResponse) -> None:
        """Take in the next event. After a crash a trainer tells a step again: the newest counts."""
        kind = event.WhichOneof("event")
        if kind == "state_changed":
            self.state = state_name(event.state_changed.state)
            self.message = event.state_changed.message
        elif kind == "episode_began":
            began = event.episode_began
            episode = self._episode(began.episode_index)
            if began.HasField("policy_version"):
                episode.policy_version = began.policy_version
        elif kind == "step_decided":
            step_id = event.step_decided.step_id
            episode = self._episode(step_id.episode_index)
            episode.steps[step_id.step] = step = StepRecord(event.step_decided)
            episode.policy_version = episode.policy_version or step.policy_version
        elif kind == "step_completed":
            step_id = event.step_completed.step_id
            # A watch that began in the middle may not have seen the decision.
            known = self._episode(step_id.episode_index).steps.get(step_id.step)
            if known is not None:
                known.completed = event.step_completed
        elif kind == "episode_ended":
            ended = event.episode_ended
            name = termination_name(ended.termination)
            self._episode(ended.episode_index).termination = name

    def _episode(self, index: int) -> EpisodeRecord:
        return self.episodes.setdefault(index, EpisodeRecord(index))

    @property
    def steps(self) -> Iterator[StepRecord]:
        """All completed steps, in order."""
        for _, episode in sorted(self.episodes.items()):
            yield from episode.completed

    @property
    def current(self) -> EpisodeRecord | None:
        """The newest episode."""
        return self.episodes[max(self.episodes)] if self.episodes else None
