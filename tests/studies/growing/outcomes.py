"""What played episodes came to, as Simic has stored them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.studies.growing.problem import StudyError

from leyline.client import Episode, Experience
from leyline.record import action_name
from leyline.v1.experience_pb2 import ReadEpisodesRequest
from leyline.v1.snapshot_pb2 import STAGE_FOSSILIZED
from leyline.v1.transition_pb2 import (
    DECIDER_FALLBACK,
    EXECUTION_RESULT_EXECUTED,
    TERMINATION_HORIZON,
)
from simic.learning.reward import POINTS_A_UNIT, final_accuracy_rent, rent


@dataclass(frozen=True)
class Act:
    """One step's decision; `slot` is empty on WAIT."""

    action: str
    slot: str
    executed: bool


@dataclass(frozen=True)
class Outcome:
    """An episode that came to its horizon.

    Attributes:
        accuracy: at its end, points.
        rent: what was spent beyond the bare host, points.
        situation: what it was like, by name.
        acts: its decisions.
        kept: slots whose seed is in the final network.
        versions: policy versions that decided.
        seconds: that its intervals took to train and validate.
    """

    index: int
    accuracy: float
    rent: float
    situation: Mapping[str, Any]
    acts: Sequence[Act]
    kept: Sequence[str]
    versions: Sequence[str]
    seconds: float

    @property
    def score(self) -> float:
        """What the learner is paid for it, in points; a twin's is taken off by whoever has it."""
        return self.accuracy - self.rent


async def outcomes(experience: Experience, run_id: str, price: float) -> dict[int, Outcome]:
    """The run's episodes that came to their horizon, by index.

    Raises:
        StudyError: the trainer decided in a policy's place, which these runs rule out.
    """
    found: dict[int, Outcome] = {}
    async for episode in experience.episodes(ReadEpisodesRequest(run_id=run_id)):
        if episode.end is None or episode.end.termination != TERMINATION_HORIZON:
            continue
        if len(episode.steps) == episode.end.steps:
            found[episode.head.episode_index] = _outcome(episode, price)
    return found


def _outcome(episode: Episode, price: float) -> Outcome:
    steps = episode.steps
    if any(step.decider == DECIDER_FALLBACK for step in steps):
        raise StudyError(f"{episode}: a decision was a fallback")
    spent = float(rent(steps, price).sum()) * POINTS_A_UNIT
    paid = float(final_accuracy_rent(steps, price).sum()) * POINTS_A_UNIT
    return Outcome(
        index=episode.head.episode_index,
        accuracy=paid + spent,
        rent=spent,
        situation=_situation(episode),
        acts=[
            Act(
                action_name(step.decision.action_type),
                step.decision.slot_id,
                step.execution.result == EXECUTION_RESULT_EXECUTED,
            )
            for step in steps
        ],
        kept=[
            slot.slot_id for slot in steps[-1].next_snapshot.slots if slot.stage == STAGE_FOSSILIZED
        ],
        versions=sorted(
            {
                step.decision.policy_version
                for step in steps
                if step.decision.HasField("policy_version")
            }
        ),
        seconds=sum(step.facts.duration.ToNanoseconds() for step in steps) / 1e9,
    )


def _situation(episode: Episode) -> dict[str, Any]:
    """By name, in words that group episodes."""
    situation = episode.head.origin.situation
    return {
        "training images": situation.training_images,
        "label noise": round(situation.label_noise, 3),
        "channels": list(situation.channels),
        "learning rate": round(situation.learning_rate, 4),
        "duds": list(situation.duds),
    }
