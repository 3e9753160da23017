"""What tells a healthy training from a sick one: numbers of a fresh batch, and alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from leyline.v1.decision_pb2 import ActionType
from leyline.v1.snapshot_pb2 import Stage
from simic.learning.rollout import Trajectory

WAIT_ALARM = 0.95
"""Share of waiting from which on a policy has probably collapsed: it hardly acts, so it hardly
sees what acting would bring, and an entropy bonus does not bring it back."""


def of_batch(fresh: Sequence[Trajectory]) -> dict[str, float]:
    """Shares of actions, rates of no-ops and the age of the versions, of a fresh batch.

    Shares are of a policy's own decisions; no-op rates of all decisions, and by the stage of the
    slot that they named, where there were any.
    """
    types = np.concatenate([each.action_types[each.by_policy] for each in fresh])
    no_ops = np.concatenate([each.no_ops for each in fresh])
    stages = np.concatenate([each.stages for each in fresh])
    found = {
        f"{_name(ActionType.Name(number), 'ACTION_TYPE_')}_share": _mean(types == index)
        for index, number in enumerate(ActionType.values()[1:])
    }
    found["no_op_rate"] = _mean(no_ops)
    for number in Stage.values()[1:]:
        named = stages == number
        if named.any():
            name = _name(Stage.Name(number), "STAGE_")
            found[f"no_op_rate_{name}"] = _mean(no_ops[named])
    found["staleness"] = float(np.mean([each.age for each in fresh]))
    return found


def alarms(diagnostics: Mapping[str, float]) -> list[str]:
    """What somebody should look at, for people."""
    found = []
    share = diagnostics.get("wait_share", 0.0)
    if share >= WAIT_ALARM:
        found.append(
            f"{share:.0%} of the batch's decisions were to wait: the policy has probably collapsed;"
            " begin another training from an earlier version, or with a higher entropy_bonus"
        )
    broken = sorted(name for name, value in diagnostics.items() if not np.isfinite(value))
    if broken:
        found.append(f"no longer finite: {', '.join(broken)}")
    return found


def _name(constant: str, prefix: str) -> str:
    return constant.removeprefix(prefix).lower()


def _mean(values: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
