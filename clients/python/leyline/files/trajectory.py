"""An episode as an offline learner sees it: arrays of observations, actions, rewards, and infos."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from minari.data_collector import EpisodeBuffer  # type: ignore[import-untyped]
from numpy.typing import NDArray

from leyline.client import Episode
from leyline.files.columns import name_of
from leyline.files.specs import Specs
from leyline.observation import slot_order
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.transition_pb2 import Decider, NoOpReason, Termination, Transition

_TYPES_WITH_SLOT = 3


class Kind(NamedTuple):
    """What all episodes of one data set have in common."""

    spec: ObservationSpec
    slots: int

    @property
    def observations(self) -> gymnasium.spaces.Box:
        """Every vector of the spec, what stands for "not measured" included."""
        features = [*self.spec.global_features, *self.slots * [*self.spec.slot_features]]
        low = [min(feature.lower, feature.unset_value) for feature in features]
        high = [max(feature.upper, feature.unset_value) for feature in features]
        return gymnasium.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))

    @property
    def actions(self) -> gymnasium.spaces.Discrete[Any]:
        """WAIT, then each other type at each slot."""
        return gymnasium.spaces.Discrete(1 + _TYPES_WITH_SLOT * self.slots)

    def action(self, step: Transition) -> int:
        """Return the index of a decision. What names a slot that there is not is WAIT: it changed
        nothing.
        """
        decision, order = step.decision, slot_order(step.snapshot)
        if decision.action_type == ACTION_TYPE_WAIT or decision.slot_id not in order:
            return 0
        row = decision.action_type - ACTION_TYPE_WAIT - 1
        return 1 + row * self.slots + order.index(decision.slot_id)

    def __str__(self) -> str:
        slots = f"{self.slots} slot{'' if self.slots == 1 else 's'}"
        return f"{slots} under the spec {self.spec.name} ({self.spec.fingerprint[:12]})"


def buffer(episode: Episode, kind: Kind, specs: Specs) -> EpisodeBuffer:
    """Return an episode of T steps without a gap as Minari takes it. Infos have T + 1 places, as
    Minari's own have: what step t led to stands in place t + 1.
    """
    steps, fingerprint = episode.steps, episode.head.spec_fingerprint
    snapshots = [*(step.snapshot for step in steps), steps[-1].next_snapshot]
    is_terminal, before = steps[-1].terminal, [False] * (len(steps) - 1)
    termination = episode.end.termination if episode.end else 0
    return EpisodeBuffer(
        options={
            "run_id": episode.head.run_id,
            "episode_index": episode.head.episode_index,
            "policy": episode.head.policy,
            "termination": name_of(Termination.DESCRIPTOR, termination) or "",
        },
        observations=[specs.vector(snapshot, fingerprint) for snapshot in snapshots],
        actions=[kind.action(step) for step in steps],
        rewards=accuracy_changes(steps),
        terminations=[*before, is_terminal],
        truncations=[*before, not is_terminal],
        infos={
            "policy_version": _infos(steps, "", lambda step: step.decision.policy_version),
            "decider": _infos(steps, "", lambda step: _name(Decider, step.decider)),
            "no_op_reason": _infos(
                steps, "", lambda step: _name(NoOpReason, step.execution.no_op_reason)
            ),
            **{
                name: _infos(steps, math.nan, partial(_number, name))
                for name in ("log_prob", "type_log_prob", "slot_log_prob", "value")
            },
        },
    )


def _infos(steps: Sequence[Transition], first: Any, read: Callable[[Transition], Any]) -> list[Any]:
    return [first, *map(read, steps)]


def _name(kind: Any, number: int) -> str:
    return name_of(kind.DESCRIPTOR, number) or ""


def _number(name: Any, step: Transition) -> float:
    return getattr(step.decision, name) if step.decision.HasField(name) else math.nan


def accuracy_changes(steps: Sequence[Transition]) -> NDArray[np.float64]:
    """Return the change of validation accuracy over each interval, as a fraction `(T,)`.

    Where it was not measured the last one that was stands for it, and the change comes with the
    next measurement.
    """
    changes = np.zeros(len(steps))
    first = steps[0].snapshot
    last = first.val_accuracy if first.HasField("val_accuracy") else None
    for index, step in enumerate(steps):
        if step.next_snapshot.HasField("val_accuracy"):
            accuracy = step.next_snapshot.val_accuracy
            changes[index] = 0.0 if last is None else accuracy - last
            last = accuracy
    return changes
