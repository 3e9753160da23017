"""The policy that never grows anything: what every other one is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.observation_pb2 import ObservationSpec
from tamiyo.policy import Choice


@dataclass(frozen=True)
class WaitPolicy:
    """WAIT, whatever it is asked; for any number of slots."""

    spec: ObservationSpec
    name: str = "wait"
    version: str = "wait-1"
    slots: int | None = None

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        """Answer each query with WAIT."""
        return [Choice.wait()] * len(queries)
