"""Who decides: a policy service, the run's own plan, or a caller; and WAIT where nobody does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from kasmina.runs.episode_log import Beginning, Decided, EpisodeRecord
from kasmina.runs.experience_client import EpisodeIntroduction
from kasmina.runs.run_spec import fingerprint_of
from leyline.identity import sampling_seed
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    Decision,
    DecisionQuery,
    SelectionMode,
)
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, StepId
from leyline.v1.trainer_pb2 import RunSpec
from leyline.v1.transition_pb2 import DECIDER_FALLBACK, DECIDER_POLICY


@dataclass(frozen=True)
class EpisodeTerms:
    """What deciders are told of an episode before it begins.

    Attributes:
        horizon: decision intervals of the episode.
        slots: number of slots that the run uses.
        spec_fingerprint: of the observation spec that snapshots are filled for.
        policy_version: the version that it is pinned to by an earlier attempt; None where it is
        not.
        origin: what it is made of. The experience service is told; the policy is not.
        offers_evaluation: whether it may become an episode of an evaluation, of another origin.
    """

    run_id: str
    episode_index: int
    horizon: int
    slots: int
    spec_fingerprint: str
    policy_version: str | None
    origin: EpisodeOrigin
    offers_evaluation: bool = False

    def introduction(
        self, policy: str, mode: SelectionMode.ValueType, *, follows_registry: bool = False
    ) -> EpisodeIntroduction:
        """What the experience service is told of the episode."""
        return EpisodeIntroduction(
            run_id=self.run_id,
            episode_index=self.episode_index,
            policy=policy,
            follows_registry=follows_registry,
            mode=mode,
            horizon=self.horizon,
            slots=self.slots,
            spec_fingerprint=self.spec_fingerprint,
            origin=self.origin,
            # What decides must be of the registry whose versions are evaluated.
            offers_evaluation=self.offers_evaluation and follows_registry,
        )


@dataclass(frozen=True)
class Answer:
    """A decision, and how it came about.

    Attributes:
        latency_s: seconds from the question to it; None where it was not asked anew.
    """

    decided: Decided
    latency_s: float | None


class Decider(Protocol):
    """Decides an episode, step by step."""

    def begin(self, terms: EpisodeTerms) -> Beginning:
        """Makes ready for an episode."""

    def decide(self, query: DecisionQuery) -> Answer:
        """What to do now."""

    def end(self) -> None:
        """Nothing more is asked in the episode."""


def question(spec: RunSpec, record: EpisodeRecord, snapshot: MultiSlotSnapshot) -> DecisionQuery:
    """What a policy is asked at a step of an episode."""
    step_id = snapshot.step_id
    policy = spec.policy
    return DecisionQuery(
        snapshot=snapshot,
        spec_fingerprint=fingerprint_of(spec),
        sampling_seed=sampling_seed(spec.seed, step_id.episode_index, step_id.step),
        mode=record.mode,
        policy_version=record.policy_version,
        temperature=policy.temperature if policy.HasField("temperature") else None,
    )


def fallback(step_id: StepId, reason: str) -> Decided:
    """The trainer's own decision where nobody else took one."""
    name = f"fallback/{step_id.run_id}/{step_id.episode_index}/{step_id.step}"
    decision = Decision(decision_id=name, action_type=ACTION_TYPE_WAIT, mode=SELECTION_MODE_GREEDY)
    return Decided(decision, DECIDER_FALLBACK, reason[:1024])


def by_policy(decision: Decision, asked_at: float) -> Answer:
    """A policy's decision; `asked_at` is on the monotonic clock."""
    return Answer(Decided(decision, DECIDER_POLICY, None), time.monotonic() - asked_at)
