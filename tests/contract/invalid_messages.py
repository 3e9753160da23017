"""Messages that break a rule of the contract, and how."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.message import Message
from tests.contract.golden_snapshots import DORMANT, TRAINING, bare, lively, ordinary, slot

from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED, Decision, DecisionQuery
from leyline.v1.experience_pb2 import ExperienceItem
from leyline.v1.policy_pb2 import StreamDecisionsRequest
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, StepId
from leyline.v1.transition_pb2 import (
    EXECUTION_RESULT_EXECUTED,
    EXECUTION_RESULT_NO_OP,
    Execution,
    Transition,
)


def decision(**fields: Any) -> Decision:
    """A valid WAIT with some fields changed."""
    given: dict[str, Any] = {
        "decision_id": "d",
        "action_type": 1,
        "policy_version": "wait-1",
        "mode": 2,
    }
    return Decision(**{**given, **fields})


Expected = list[tuple[str, str]]  # field paths and the rules that they break


def invalid_messages() -> dict[str, tuple[str, Message, Expected]]:
    """Messages that break a rule, by name: why, the message, every violation that it must get."""

    def broken(**fields: Any) -> MultiSlotSnapshot:
        return ordinary([lively(0, DORMANT), lively(1, DORMANT), lively(2, DORMANT)], **fields)

    def broken_slot(**fields: Any) -> MultiSlotSnapshot:
        return ordinary([lively(0, DORMANT), lively(1, DORMANT, **fields)])

    def with_step(step: int) -> MultiSlotSnapshot:
        return broken(step_id=StepId(run_id="golden", episode_index=3, step=step))

    def transition(**fields: Any) -> Transition:
        given: dict[str, Any] = {
            "step_id": StepId(run_id="golden", episode_index=3, step=7),
            "snapshot": with_step(7),
            "decision": decision(),
            "decider": 1,
            "execution": Execution(result=EXECUTION_RESULT_EXECUTED),
            "next_snapshot": with_step(8),
            "spec_fingerprint": fingerprint,
            "completed_at": {"seconds": 1},
        }
        return Transition(**{**given, **fields})

    fingerprint = SEED_SPEC.fingerprint
    nan = float("nan")
    within_a_million = "double.gte_lte"
    traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    query: dict[str, Any] = {"snapshot": broken(), "spec_fingerprint": fingerprint, "mode": 1}
    return {
        "snapshot-nan-loss": (
            "NaN is not a measurement",
            broken(val_loss=nan),
            [("val_loss", "double.finite"), ("val_loss", within_a_million)],
        ),
        "snapshot-infinite-gradient": (
            "an infinite gradient is sent as the upper bound",
            broken_slot(gradient_norm=math.inf),
            [
                ("slots[1].gradient_norm", "double.finite"),
                ("slots[1].gradient_norm", within_a_million),
            ],
        ),
        "snapshot-accuracy-in-percent": (
            "accuracies are fractions",
            broken(val_accuracy=21.34),
            [("val_accuracy", within_a_million)],
        ),
        "snapshot-history-too-long": (
            "a history has at most 5 elements",
            broken(loss_history=[4.0] * 6),
            [("loss_history", "repeated.max_items")],
        ),
        "snapshot-nan-in-history": (
            "NaN is not a measurement",
            broken(accuracy_history=[0.1, nan]),
            [("accuracy_history[1]", "double.finite"), ("accuracy_history[1]", within_a_million)],
        ),
        "snapshot-without-step": (
            "a snapshot names the decision that it is for",
            MultiSlotSnapshot(slots=[slot(0)]),
            [("step_id", "required")],
        ),
        "snapshot-run-id-empty": (
            "a run has a name",
            broken(step_id=StepId(step=1)),
            [("step_id.run_id", "string.pattern")],
        ),
        "snapshot-without-slots": (
            "a network has at least one slot",
            bare([]),
            [("slots", "repeated.min_items")],
        ),
        "snapshot-too-many-slots": (
            "a network has at most 64 slots",
            bare([slot(depth) for depth in range(65)]),
            [("slots", "repeated.max_items")],
        ),
        "snapshot-slot-id-twice": (
            "slot ids are distinct",
            bare([slot(0), slot(1, slot_id="slot-0")]),
            [("", "snapshot.slots.unique_id")],
        ),
        "snapshot-depth-twice": (
            "depths are distinct, or there would be no order",
            bare([slot(0), slot(1, depth=0)]),
            [("", "snapshot.slots.unique_depth")],
        ),
        "snapshot-slot-id-malformed": (
            "a slot id has lower-case letters, digits, '.', '_' and '-'",
            broken_slot(slot_id="Slot 1"),
            [("slots[1].slot_id", "string.pattern")],
        ),
        "snapshot-stage-unset": (
            "an unset stage is not DORMANT",
            broken_slot(stage=0, has_seed=True),
            [("slots[1].stage", "enum.not_in")],
        ),
        "snapshot-stage-unknown": (
            "a stage that nobody defined",
            broken_slot(stage=99, has_seed=True),
            [("slots[1].stage", "enum.defined_only")],
        ),
        "snapshot-seed-in-dormant-slot": (
            "a dormant slot is empty",
            broken_slot(has_seed=True),
            [("slots[1]", "slot_reading.has_seed")],
        ),
        "snapshot-alpha-before-blending": (
            "a seed that does not blend has no weight",
            broken_slot(stage=TRAINING, has_seed=True, alpha=0.5),
            [("slots[1]", "slot_reading.alpha")],
        ),
        "decision-action-unset": (
            "an unset action is not WAIT",
            decision(action_type=0, slot_id="slot-0"),
            [("action_type", "enum.not_in")],
        ),
        "decision-mode-unset": (
            "whoever decides says how",
            decision(mode=0),
            [("mode", "enum.not_in")],
        ),
        "decision-wait-with-slot": (
            "one waits nowhere",
            decision(slot_id="slot-0"),
            [("", "decision.slot")],
        ),
        "decision-germinate-without-slot": (
            "one germinates somewhere",
            decision(action_type=2),
            [("", "decision.slot")],
        ),
        "decision-wait-with-slot-log-prob": (
            "WAIT has no slot, so no probability of one",
            decision(slot_log_prob=-1.0),
            [("", "decision.slot_log_prob")],
        ),
        "decision-probability-above-one": (
            "the logarithm of a probability is not positive",
            decision(log_prob=0.1),
            [("log_prob", "double.lte")],
        ),
        "decision-nan-value": (
            "NaN is not an estimate",
            decision(value=nan),
            [("value", "double.finite")],
        ),
        "query-without-snapshot": (
            "there is nothing to decide on",
            DecisionQuery(spec_fingerprint=fingerprint, mode=SELECTION_MODE_SAMPLED),
            [("snapshot", "required")],
        ),
        "query-fingerprint-malformed": (
            "a fingerprint has 64 lower-case hexadecimal digits",
            DecisionQuery(**{**query, "spec_fingerprint": fingerprint.upper()}),
            [("spec_fingerprint", "string.pattern")],
        ),
        "query-temperature-zero": (
            "nothing can be divided by a temperature of zero: that is greedy mode",
            DecisionQuery(**query, temperature=0.0),
            [("temperature", "double.gte_lte")],
        ),
        "query-temperature-nan": (
            "NaN is no temperature",
            DecisionQuery(**query, temperature=nan),
            [("temperature", "double.gte_lte")],
        ),
        "query-nan-deep-inside": (
            "rules hold for the snapshot in a query",
            DecisionQuery(**{**query, "snapshot": broken(train_loss=nan)}),
            [("snapshot.train_loss", "double.finite"), ("snapshot.train_loss", within_a_million)],
        ),
        "transition-snapshot-of-another-step": (
            "a transition is about one step",
            transition(snapshot=with_step(6)),
            [("", "transition.snapshot.step")],
        ),
        "transition-step-skipped": (
            "the next snapshot belongs to the next step",
            transition(next_snapshot=with_step(9)),
            [("", "transition.next_snapshot.step")],
        ),
        "transition-fallback-germinates": (
            "a trainer that falls back waits",
            transition(decider=2, decision=decision(action_type=2, slot_id="slot-0")),
            [("", "transition.fallback")],
        ),
        "transition-no-op-without-reason": (
            "a no-op has a reason",
            transition(execution=Execution(result=EXECUTION_RESULT_NO_OP)),
            [("execution", "execution.reason")],
        ),
        "transition-decider-unset": (
            "somebody decided",
            transition(decider=0),
            [("decider", "enum.not_in")],
        ),
        "stream-query-traceparent-of-another-version": (
            "a traceparent is of version 00",
            StreamDecisionsRequest(query=DecisionQuery(**query), traceparent=f"01{traced[2:]}"),
            [("traceparent", "string.pattern")],
        ),
        "item-traceparent-in-capitals": (
            "a traceparent has lower-case hexadecimal digits",
            ExperienceItem(sequence=1, transition=transition(), traceparent=traced.upper()),
            [("traceparent", "string.pattern")],
        ),
    }
