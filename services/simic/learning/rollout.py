"""Episodes as arrays: what a learner needs of the stored transitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leyline.observation import Vectorizer, slot_order
from leyline.v1.decision_pb2 import ActionType, SelectionMode
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.transition_pb2 import Decider, ExecutionResult, Transition
from simic.learning.reward import Rewards

NO_SLOT = -1


@dataclass(frozen=True)
class Trajectory:
    """One whole episode of T steps that came to its horizon.

    Attributes:
        observations: (T, length), float32.
        slots_seen: the number of slots in each of them.
        action_types: index among WAIT, GERMINATE, ADVANCE, CULL, (T,).
        slots: position by depth of the slot that was named, (T,); -1 on WAIT.
        behaviour_log_probs: log-probability of each decision under the policy that took it, as it
            was told then, (T,), nats; 0 where no policy decided.
        by_policy: whether a policy with a distribution decided, (T,). Other steps (fallbacks)
            teach the value function and not the policy.
        chosen: whether somebody chose the decision, and the network could, (T,); not so a fallback.
        rewards: (T,), in units of the reward.
        no_ops: whether the decision came to nothing, (T,).
        stages: number of the stage that the named slot was in, (T,); 0 on WAIT.
        age: updates between the version that decided and the newest one.
    """

    observations: NDArray[np.float32]
    slots_seen: int
    action_types: NDArray[np.int64]
    slots: NDArray[np.int64]
    behaviour_log_probs: NDArray[np.float64]
    by_policy: NDArray[np.bool_]
    chosen: NDArray[np.bool_]
    rewards: NDArray[np.float64]
    no_ops: NDArray[np.bool_]
    stages: NDArray[np.int64]
    age: int = 0

    def __len__(self) -> int:
        return len(self.rewards)


def trajectory(
    steps: Sequence[Transition], spec: ObservationSpec, rewards: Rewards, age: int = 0
) -> Trajectory:
    """The arrays of an episode, given all its steps in order and what they were paid."""
    log_probs = [_behaviour_log_prob(step) for step in steps]
    vector = Vectorizer(spec)
    return Trajectory(
        observations=vector.batch([step.snapshot for step in steps]),
        slots_seen=len(steps[0].snapshot.slots),
        action_types=np.array(
            [step.decision.action_type - ActionType.ACTION_TYPE_WAIT for step in steps]
        ),
        slots=np.array([_slot(step) for step in steps]),
        behaviour_log_probs=np.array([log_prob or 0.0 for log_prob in log_probs]),
        by_policy=np.array([log_prob is not None for log_prob in log_probs]),
        chosen=np.array([_is_chosen(step) for step in steps]),
        rewards=rewards,
        no_ops=np.array(
            [step.execution.result == ExecutionResult.EXECUTION_RESULT_NO_OP for step in steps]
        ),
        stages=np.array([_stage(step) for step in steps]),
        age=age,
    )


def _slot(step: Transition) -> int:
    order = slot_order(step.snapshot)
    slot_id = step.decision.slot_id
    return order.index(slot_id) if slot_id in order else NO_SLOT


def _is_chosen(step: Transition) -> bool:
    waits = step.decision.action_type == ActionType.ACTION_TYPE_WAIT
    return step.decider != Decider.DECIDER_FALLBACK and (waits or _slot(step) != NO_SLOT)


def _stage(step: Transition) -> int:
    slot_id = step.decision.slot_id
    return next((slot.stage for slot in step.snapshot.slots if slot.slot_id == slot_id), 0)


def _behaviour_log_prob(step: Transition) -> float | None:
    """What the policy itself said then; computed anew, it would be another policy's.

    None where nothing was drawn: a greedy decision was certain, whatever the probabilities.
    """
    decision = step.decision
    if step.decider != Decider.DECIDER_POLICY or not decision.HasField("type_log_prob"):
        return None
    if decision.mode != SelectionMode.SELECTION_MODE_SAMPLED:
        return None
    if decision.action_type == ActionType.ACTION_TYPE_WAIT:
        return decision.type_log_prob
    if not decision.HasField("slot_log_prob") or _slot(step) == NO_SLOT:
        return None
    return decision.type_log_prob + decision.slot_log_prob


def explained_variance(predictions: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Share of the targets' variance that the predictions account for; 1 is all, 0 is none."""
    variance = float(np.var(targets))
    return 1.0 - float(np.var(targets - predictions)) / variance if variance > 0 else 0.0
