"""What one update of a policy did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """An update's gradient steps, and numbers to judge it by.

    Attributes:
        gradient_steps: taken; 0 where there was no episode to learn from.
        mean_return: of the fresh batch's episodes, in units of the reward.
        diagnostics: by the names that TrainingSummary lists.
        alarms: what somebody should look at, for people.
    """

    gradient_steps: int
    mean_return: float
    diagnostics: Mapping[str, float]
    alarms: Sequence[str] = ()
