"""Specifications of runs, short to write."""

from __future__ import annotations

from typing import Any

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


def digits(**parts: Any) -> RunSpec:
    """A specification on digits."""
    return RunSpec(dataset=DatasetSpec(name="digits"), **parts)


def simulator(**parts: Any) -> RunSpec:
    """A specification on the simulator."""
    options = parts.pop("options", {})
    host = HostSpec(name="simulator", options=options)
    return RunSpec(host=host, **parts)


def planned(*actions: PlannedAction, **policy: Any) -> PolicySpec:
    """A policy that is a plan."""
    return PolicySpec(plan=Plan(actions=actions), **policy)


def situations(**distributions: Any) -> SituationRange:
    """A range of one's own."""
    return SituationRange(name="mine", **distributions)
