"""What several checks expect of an answer."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Collection, Sequence
from typing import Any

from leyline.conformance.target import Connection, Failed, decision_of
from leyline.error import ServiceError
from leyline.rules import violations
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT, ActionType, Decision, DecisionQuery
from leyline.v1.policy_pb2 import StreamDecisionsResponse

_SUM_TOLERANCE = 1e-6


async def refused(
    answer: Awaitable[Any],
    *,
    code: str,
    reason: str | None = None,
    fields: Collection[str] = (),
) -> None:
    """Expect an error of a code, with a reason and naming one of the fields, and none else.

    Raises:
        Failed: it is another error, or none.
    """
    try:
        decided = await answer
    except ServiceError as error:
        said = error
    else:
        raise Failed(f"it decided {brief(decided)}; expected {reason or code}")
    if said.code != code:
        raise Failed(f"it answered {said.code} ({said.message}); expected {code}")
    if reason is not None and said.reason != reason:
        raise Failed(
            f"it answered {code} with the reason {said.reason!r} in google.rpc.ErrorInfo; "
            f"expected {reason!r}"
        )
    named = {violation.field for violation in said.violations}
    if fields and not named:
        raise Failed(f"{code} came without google.rpc.BadRequest; expected it to name {fields}")
    if fields and not named <= set(fields):
        raise Failed(f"it blames {sorted(named - set(fields))}; to blame are {sorted(set(fields))}")


async def refused_by_both(
    connection: Connection,
    query: DecisionQuery,
    *,
    code: str,
    reason: str | None = None,
    fields: Collection[str] = (),
) -> None:
    """Expect Decide to refuse a query, and a stream to refuse it in its place.

    Raises:
        Failed: one of them says something else.
    """
    await refused(connection.decide(query), code=code, reason=reason, fields=fields)
    answers = await connection.stream([query])
    count([query], answers)
    try:
        await refused(decided(answers[0]), code=code, reason=reason, fields=fields)
    except Failed as why:
        raise Failed(f"on a stream, {why}") from None


def keep_the_rules(query: DecisionQuery, decision: Decision) -> None:
    """Expect a decision to keep the contract's rules and to answer this query.

    Raises:
        Failed: with the first rule that it breaks.
    """
    broken = violations(decision)
    if broken:
        raise Failed(
            f"the decision {brief(decision)} breaks the contract: "
            f"{broken[0].field or 'decision'}: {broken[0].description}"
        )
    slots = [slot.slot_id for slot in query.snapshot.slots]
    if decision.action_type != ACTION_TYPE_WAIT and decision.slot_id not in slots:
        raise Failed(f"it names the slot {decision.slot_id!r}; the snapshot has {slots}")
    if not decision.policy_version:
        raise Failed("the decision names no policy_version")
    _keep_log_probs(decision)


def _keep_log_probs(decision: Decision) -> None:
    given = [decision.HasField(name) for name in ("type_log_prob", "log_prob")]
    waits = decision.action_type == ACTION_TYPE_WAIT
    given += [] if waits else [decision.HasField("slot_log_prob")]
    if any(given) and not all(given):
        raise Failed("type_log_prob, slot_log_prob (none on WAIT) and log_prob come all or not")
    if any(given):
        total = decision.type_log_prob + (0.0 if waits else decision.slot_log_prob)
        if not math.isclose(
            total, decision.log_prob, rel_tol=_SUM_TOLERANCE, abs_tol=_SUM_TOLERANCE
        ):
            raise Failed(
                f"log_prob is {decision.log_prob:.6g}; log P(type) and log P(slot | type) add up "
                f"to {total:.6g}"
            )


def same(one: Decision, other: Decision, when: str) -> None:
    """Expect two decisions to be one and the same.

    Raises:
        Failed: they differ.
    """
    if one.SerializeToString(deterministic=True) != other.SerializeToString(deterministic=True):
        raise Failed(f"{when} it decides {brief(other)} where it decided {brief(one)}")


def brief(decision: Any) -> str:
    """Say a decision in a few words."""
    if not isinstance(decision, Decision):
        return type(decision).__name__
    action = str(decision.action_type)
    if decision.action_type in ActionType.values():
        action = ActionType.Name(decision.action_type).removeprefix("ACTION_TYPE_")
    where = f" at {decision.slot_id}" if decision.HasField("slot_id") else ""
    likely = f", log_prob {decision.log_prob:.6g}" if decision.HasField("log_prob") else ""
    return f"{action}{where}{likely}"


async def decided(answer: StreamDecisionsResponse) -> Decision:
    """Return a stream's decision, or raise its error, as a call of Decide would."""
    return decision_of(answer)


def match(asked: Sequence[DecisionQuery], answers: Sequence[StreamDecisionsResponse]) -> None:
    """Expect a decision on each query, in order.

    Raises:
        Failed: there are more or fewer, of other steps, or none at all.
        ServiceError: one of them is an error.
    """
    count(asked, answers)
    for query, answer in zip(asked, answers, strict=True):
        if not isinstance(answer, StreamDecisionsResponse):
            raise Failed("the stream ended before its last answer")
        same_step(query, answer)
        keep_the_rules(query, decision_of(answer))


def count(asked: Sequence[DecisionQuery], answers: Sequence[StreamDecisionsResponse]) -> None:
    """Expect as many answers as queries.

    Raises:
        Failed: there are more or fewer.
    """
    if len(answers) != len(asked):
        raise Failed(f"{len(asked)} queries on a stream got {len(answers)} answers")


def same_step(query: DecisionQuery, answer: StreamDecisionsResponse) -> None:
    """Expect an answer to name the step that was asked about.

    Raises:
        Failed: it names another.
    """
    if answer.step_id != query.snapshot.step_id:
        raise Failed(
            f"the answer in the place of episode {query.snapshot.step_id.episode_index}, step "
            f"{query.snapshot.step_id.step} is for episode {answer.step_id.episode_index}, step "
            f"{answer.step_id.step}"
        )
