"""Specifications of runs, short to write."""

from __future__ import annotations

from leyline.v1.episode_pb2 import (
    SituationRange,
)
from leyline.v1.trainer_pb2 import (
    DatasetSpec,
    HostSpec,
    Plan,
    PlannedAction,
    PolicySpec,
    RunSpec,
)


def digits(**parts: object) -> RunSpec:
    """A specification on digits."""
    return RunSpec(dataset=DatasetSpec(name="digits"), **parts)  # type: ignore[arg-type]


def simulator(**parts: object) -> RunSpec:
    """A specification on the simulator."""
    options = parts.pop("options", {})
    host = HostSpec(name="simulator", options=options)  # type: ignore[arg-type]
    return RunSpec(host=host, **parts)  # type: ignore[arg-type]


def planned(*actions: PlannedAction, **policy: object) -> PolicySpec:
    """A policy that is a plan."""
    return PolicySpec(plan=Plan(actions=actions), **policy)  # type: ignore[arg-type]


def situations(**distributions: object) -> SituationRange:
    """A range of one's own."""
    return SituationRange(name="mine", **distributions)  # type: ignore[arg-type]
