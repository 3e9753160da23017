"""What a policy is: a pure function from queries to choices, with a version.

A policy knows no gRPC, no queue and no registry. It is asked many queries at a time, from any
episodes, and answers each as if it had been asked alone.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_CULL,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    ActionType,
    Decision,
    DecisionQuery,
    SelectionMode,
)
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.policy_pb2 import SlotRequirement


@dataclass(frozen=True)
class Choice:
    """What a policy says to one query.

    Attributes:
        action_type: what to do.
        mode: how it was drawn; GREEDY from a policy without randomness.
        slot_id: where to do it; None exactly on WAIT.
        type_log_prob: log P(type) in nats, or None where the policy has no distribution.
        slot_log_prob: log P(slot | type) in nats; None on WAIT, or without a distribution.
        value: the expected return in the units of the policy's own reward, or None.
    """

    action_type: ActionType.ValueType
    mode: SelectionMode.ValueType
    slot_id: str | None = None
    type_log_prob: float | None = None
    slot_log_prob: float | None = None
    value: float | None = None

    @classmethod
    def wait(cls) -> Self:
        """Change nothing. This and the three below are for policies without a distribution."""
        return cls(ACTION_TYPE_WAIT, SELECTION_MODE_GREEDY)

    @classmethod
    def germinate(cls, slot_id: str) -> Self:
        """Put a seed into an empty slot."""
        return cls(ACTION_TYPE_GERMINATE, SELECTION_MODE_GREEDY, slot_id)

    @classmethod
    def advance(cls, slot_id: str) -> Self:
        """Move a slot's seed one stage on."""
        return cls(ACTION_TYPE_ADVANCE, SELECTION_MODE_GREEDY, slot_id)

    @classmethod
    def cull(cls, slot_id: str) -> Self:
        """Drop a seed that is not fossilised."""
        return cls(ACTION_TYPE_CULL, SELECTION_MODE_GREEDY, slot_id)


@runtime_checkable
class Policy(Protocol):
    """One version of one policy. Its answers depend on the query and on nothing else."""

    @property
    def name(self) -> str:
        """Name of the policy: ``wait``, ``learned``."""

    @property
    def version(self) -> str:
        """What its decisions are attributed to. Another rule, another version."""

    @property
    def spec(self) -> ObservationSpec:
        """The observation spec that its queries must be filled for."""

    @property
    def slots(self) -> int | None:
        """The number of slots that it decides for, or None for any."""

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        """Answer each query, in order.

        Called by one thread at a time, with queries that passed the contract's rules and ``admit``.
        An error spoils only the query that causes it: the others are asked again without it.
        """


def admit(policy: Policy, query: DecisionQuery) -> None:
    """Let a query pass that the policy can answer.

    Raises:
        LeylineError: FINGERPRINT_MISMATCH, or SLOT_COUNT_MISMATCH.
    """
    expected = policy.spec.fingerprint
    if query.spec_fingerprint != expected:
        raise LeylineError(
            ErrorCode.FINGERPRINT_MISMATCH,
            given=query.spec_fingerprint,
            expected=expected,
            spec_name=policy.spec.name,
            policy_version=policy.version,
        )
    given = len(query.snapshot.slots)
    if policy.slots is not None and given != policy.slots:
        raise LeylineError(
            ErrorCode.SLOT_COUNT_MISMATCH,
            given=given,
            expected=policy.slots,
            policy_version=policy.version,
        )


def slot_requirement(slots: int | None) -> SlotRequirement:
    """Say in the contract's words for how many slots a policy decides; None is any number."""
    return SlotRequirement(any=True) if slots is None else SlotRequirement(exactly=slots)


def decision_from(policy: Policy, query: DecisionQuery, choice: Choice) -> Decision:
    """Sign a choice: the decision that is sent, with the version and an id that repeats."""
    decision = Decision(
        decision_id=_decision_id(policy.version, query),
        action_type=choice.action_type,
        slot_id=choice.slot_id,
        policy_version=policy.version,
        type_log_prob=choice.type_log_prob,
        slot_log_prob=choice.slot_log_prob,
        value=choice.value,
        mode=choice.mode,
    )
    if choice.type_log_prob is not None:
        decision.log_prob = choice.type_log_prob + (choice.slot_log_prob or 0.0)
    return decision


def _decision_id(version: str, query: DecisionQuery) -> str:
    """Name a decision by all that it is a function of: the same question gets the same id."""
    step = query.snapshot.step_id
    question = (
        f"leyline/decision/1:{step.run_id}:{step.episode_index}:{step.step}"
        f":{query.sampling_seed}:{query.mode}:{version}"
    )
    if query.HasField("temperature"):
        question += f":{struct.pack('>d', query.temperature).hex()}"
    return hashlib.sha256(question.encode()).hexdigest()[:32]
