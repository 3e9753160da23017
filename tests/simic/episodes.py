"""Experience as a trainer sends it, made up but valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import ActionType, Decision, SelectionMode
from leyline.v1.experience_pb2 import BeginEpisodeRequest, ExperienceItem
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, SlotReading, Stage, StepId
from leyline.v1.transition_pb2 import (
    Decider,
    EpisodeEnd,
    Execution,
    ExecutionResult,
    Termination,
    Transition,
)

UNIFORM_TYPE = -float(np.log(4))
UNIFORM_SLOT = -float(np.log(3))


@dataclass(frozen=True)
class Script:
    """An episode to be: who decides, and how well it goes.

    Attributes:
        version: the deciding version; None: every step is a fallback.
        accuracies: validation accuracy before each step and at the end, as fractions.
        actions: what is decided at each step, as (type, slot or None).
    """

    run: str = "run"
    index: int = 0
    version: str | None = "mlp-000000000000"
    accuracies: Sequence[float] = (0.1, 0.2, 0.3, 0.4)
    actions: Sequence[tuple[ActionType.ValueType, int | None]] = field(
        default=(
            (ActionType.ACTION_TYPE_GERMINATE, 2),
            (ActionType.ACTION_TYPE_WAIT, None),
            (ActionType.ACTION_TYPE_ADVANCE, 0),
        )
    )

    @property
    def horizon(self) -> int:
        return len(self.accuracies) - 1

    def begin(self) -> BeginEpisodeRequest:
        """The call that begins it."""
        return BeginEpisodeRequest(
            run_id=self.run,
            episode_index=self.index,
            policy="learned",
            follows_registry=True,
            mode=SelectionMode.SELECTION_MODE_SAMPLED,
            horizon=self.horizon,
            slots=3,
            spec_fingerprint=SEED_SPEC.fingerprint,
        )

    def transitions(self) -> list[Transition]:
        """Its steps, in order."""
        return [self._transition(step) for step in range(self.horizon)]

    def end(self) -> EpisodeEnd:
        """Its end, at the horizon."""
        end = EpisodeEnd(
            run_id=self.run,
            episode_index=self.index,
            termination=Termination.TERMINATION_HORIZON,
            steps=self.horizon,
        )
        end.ended_at.FromSeconds(1_700_000_100)
        return end

    def items(self, fence: int = 1, first: int = 1) -> list[ExperienceItem]:
        """All that is to be recorded of it, numbered from ``first`` on."""
        steps = [ExperienceItem(fence=fence, transition=each) for each in self.transitions()]
        everything = [*steps, ExperienceItem(fence=fence, episode_end=self.end())]
        for sequence, item in enumerate(everything, first):
            item.sequence = sequence
        return everything

    def _transition(self, step: int) -> Transition:
        transition = Transition(
            step_id=self._step_id(step),
            snapshot=self.snapshot(step),
            decision=self._decision(step),
            decider=Decider.DECIDER_FALLBACK if self.version is None else Decider.DECIDER_POLICY,
            execution=Execution(result=ExecutionResult.EXECUTION_RESULT_EXECUTED),
            next_snapshot=self.snapshot(step + 1),
            terminal=step == self.horizon - 1,
            spec_fingerprint=SEED_SPEC.fingerprint,
        )
        transition.completed_at.FromSeconds(1_700_000_000 + step)
        return transition

    def _decision(self, step: int) -> Decision:
        name = f"{self.run}-{self.index}-{step}"
        if self.version is None:
            return Decision(
                decision_id=name,
                action_type=ActionType.ACTION_TYPE_WAIT,
                mode=SelectionMode.SELECTION_MODE_GREEDY,
            )
        action, slot = self.actions[step % len(self.actions)]
        slot_log_prob = None if slot is None else UNIFORM_SLOT
        return Decision(
            decision_id=name,
            action_type=action,
            slot_id=None if slot is None else f"slot-{slot}",
            policy_version=self.version,
            type_log_prob=UNIFORM_TYPE,
            slot_log_prob=slot_log_prob,
            log_prob=UNIFORM_TYPE + (slot_log_prob or 0.0),
            mode=SelectionMode.SELECTION_MODE_SAMPLED,
        )

    def snapshot(self, step: int) -> MultiSlotSnapshot:
        """What is seen before a step."""
        accuracy = self.accuracies[step]
        return MultiSlotSnapshot(
            step_id=self._step_id(step),
            epoch=step,
            global_step=step * 79,
            train_loss=None if step == 0 else 4.0 - accuracy,
            val_loss=4.0 - accuracy,
            val_accuracy=accuracy,
            best_val_accuracy=max(self.accuracies[: step + 1]),
            best_val_loss=4.0 - max(self.accuracies[: step + 1]),
            loss_history=[4.0 - each for each in self.accuracies[: step + 1]][-5:],
            accuracy_history=list(self.accuracies[: step + 1])[-5:],
            slots=[
                SlotReading(slot_id=f"slot-{depth}", depth=depth, stage=Stage.STAGE_DORMANT)
                for depth in range(3)
            ],
            time_left=1 - step / self.horizon,
        )

    def _step_id(self, step: int) -> StepId:
        return StepId(run_id=self.run, episode_index=self.index, step=step)


def in_messages(items: Sequence[ExperienceItem], size: int) -> Iterator[list[ExperienceItem]]:
    """``items`` in messages of at most ``size``."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


Rewarded = Callable[[ActionType.ValueType, int | None], float]


def played(version: str, index: int, horizon: int, gain: Rewarded, run: str = "run") -> Script:
    """An episode that a uniform policy played, each decision gaining accuracy as ``gain`` says."""
    random = np.random.default_rng([index, horizon])
    actions: list[tuple[ActionType.ValueType, int | None]] = []
    accuracies = [0.1]
    for _step in range(horizon):
        action = ActionType.ValueType(int(random.integers(1, 5)))
        slot = None if action == ActionType.ACTION_TYPE_WAIT else int(random.integers(3))
        actions.append((action, slot))
        accuracies.append(min(1.0, max(0.0, accuracies[-1] + gain(action, slot))))
    return Script(run=run, index=index, version=version, accuracies=accuracies, actions=actions)
