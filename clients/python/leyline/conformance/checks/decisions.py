"""What a decision says, and what it may depend on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from leyline.conformance.checks.expect import keep_the_rules, match, refused_by_both, same
from leyline.conformance.checks.unknown import UNKNOWN
from leyline.conformance.target import Failed, Skipped, Target, parsed
from leyline.v1.decision_pb2 import (
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
    ActionType,
    Decision,
    DecisionQuery,
)
from leyline.v1.policy_pb2 import DecideRequest
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot

_MODES = (SELECTION_MODE_SAMPLED, SELECTION_MODE_GREEDY)
_STANDARD_ERRORS = 5.0
_LOG_PROB_TOLERANCE = 1e-4
"""Of what is computed in float32."""


async def decides(target: Target, snapshot: dict[str, Any]) -> None:
    """A valid snapshot is decided in both modes."""
    golden = parsed(MultiSlotSnapshot, snapshot)
    slots = target.info.slots
    if slots.WhichOneof("slots") == "exactly" and slots.exactly != len(golden.slots):
        raise Skipped(f"it decides for exactly {slots.exactly} slots")
    async with target.connect() as connection:
        for mode in _MODES:
            query = target.query(golden, mode=mode)
            keep_the_rules(query, await connection.decide(query))


async def refuses_invalid(target: Target, query: dict[str, Any], fields: list[str]) -> None:
    """A query that breaks a rule is refused, and the field is named."""
    asked = parsed(DecisionQuery, query)
    if "query.spec_fingerprint" not in fields:
        asked.spec_fingerprint = target.info.spec_fingerprint
    async with target.connect() as connection:
        await refused_by_both(connection, asked, code="INVALID_ARGUMENT", fields=fields)


async def names_its_version(target: Target) -> None:
    """An unpinned query is decided by the version that GetPolicyInfo names."""
    async with target.connect() as connection:
        named = (await connection.policy_info()).policy_version
        decision = await connection.decide(target.query(target.snapshot()))
        if decision.policy_version == named:
            return
        # A newer version may have come between the two calls.
        if decision.policy_version != (await connection.policy_info()).policy_version:
            raise Failed(f"{decision.policy_version!r} decided; GetPolicyInfo names {named!r}")


async def ignores_unknown_fields(target: Target) -> None:
    """Fields of a newer contract change nothing."""
    query = target.query(target.snapshot())
    newer = DecideRequest.FromString(DecideRequest(query=query).SerializeToString() + UNKNOWN)
    snapshot = query.snapshot.SerializeToString() + UNKNOWN
    newer.query.snapshot.ParseFromString(snapshot)
    async with target.connect() as connection:
        plain = await connection.decide(query)
        decision = await connection.decide_request(newer)
    keep_the_rules(query, decision)
    if target.info.deterministic:
        same(plain, decision, "with fields that it does not know")


async def is_greedy_whatever_the_seed(target: Target, seeds: int) -> None:
    """A decision that says GREEDY does not depend on the sampling seed."""
    if not target.info.deterministic:
        raise Skipped("it says that it is not deterministic")
    async with target.connect() as connection:
        for step in range(4):
            snapshot = target.snapshot(step)
            decisions = [
                await connection.decide(
                    target.query(snapshot, mode=SELECTION_MODE_GREEDY, seed=seed)
                )
                for seed in range(seeds)
            ]
            if any(decision.mode == SELECTION_MODE_SAMPLED for decision in decisions):
                raise Skipped("it has no greedy action: it answers SAMPLED where GREEDY is asked")
            actions = {_action(decision) for decision in decisions}
            if len(actions) > 1:
                raise Failed(f"{seeds} sampling seeds got the greedy actions {sorted(actions)}")


async def orders_slots_by_depth(target: Target) -> None:
    """The order of the slots in the message does not matter: depth is their order."""
    if not target.info.deterministic:
        raise Skipped("it says that it is not deterministic")
    async with target.connect() as connection:
        for step in range(16):
            query = target.query(target.snapshot(step))
            turned = DecisionQuery()
            turned.CopyFrom(query)
            del turned.snapshot.slots[:]
            turned.snapshot.slots.extend(reversed(query.snapshot.slots))
            same(
                await connection.decide(query),
                await connection.decide(turned),
                "with the same slots in another order",
            )


async def repeats_itself(target: Target, others: int) -> None:
    """The same query gets the same decision: again, on another connection, after other queries."""
    if not target.info.deterministic:
        raise Skipped("it says that it is not deterministic")
    queries = [target.query(target.snapshot(step)) for step in range(others)]
    async with target.connect() as connection, target.connect() as other:
        first = [await connection.decide(query) for query in queries]
        for query, decision in zip(reversed(queries), reversed(first), strict=True):
            same(decision, await other.decide(query), "asked again")


async def names_decisions(target: Target) -> None:
    """Decisions on different steps have different ids."""
    async with target.connect() as connection:
        steps = range(8)
        ids = [
            (await connection.decide(target.query(target.snapshot(step)))).decision_id
            for step in steps
        ]
    if len(set(ids)) < len(ids):
        raise Failed(f"{len(ids)} steps got {len(set(ids))} decision ids: {sorted(set(ids))}")


async def draws_what_it_says(target: Target, draws: int) -> None:
    """Types are drawn as often as their log-probabilities say, slots too."""
    snapshot = target.snapshot()
    queries = [target.query(snapshot, seed=_SEED_STRIDE * seed % 2**64) for seed in range(draws)]
    async with target.connect() as connection:
        answers = await connection.stream(queries)
    match(queries, answers)
    decisions = [answer.decision for answer in answers]
    if not any(decision.HasField("log_prob") for decision in decisions):
        raise Skipped("it has no distribution: its decisions carry no log-probabilities")
    _compare([(_type(it), it.type_log_prob) for it in decisions], "type_log_prob")
    _compare([(_action(it), it.log_prob) for it in decisions], "log_prob")


async def keeps_the_temperature(target: Target, draws: int, temperature: float) -> None:
    """A temperature divides the logits of what is drawn, and changes nothing where nothing is."""
    snapshot = target.snapshot()
    seeds = [_SEED_STRIDE * seed % 2**64 for seed in range(draws)]
    cold = [target.query(snapshot, seed=seed) for seed in seeds]
    warm = [target.query(snapshot, seed=seed) for seed in seeds]
    greedy = [target.query(snapshot, mode=SELECTION_MODE_GREEDY, seed=seed) for seed in seeds[:2]]
    for query in (*warm, greedy[1]):
        query.temperature = temperature
    async with target.connect() as connection:
        answers = [await connection.stream(queries) for queries in (cold, warm, greedy)]
    at_one, at_temperature, likeliest = ([answer.decision for answer in some] for some in answers)
    if not any(decision.HasField("log_prob") for decision in at_one):
        raise Skipped("it has no distribution: its decisions carry no log-probabilities")
    _compare([(_type(it), it.type_log_prob) for it in at_temperature], "type_log_prob")
    _divided(
        {_type(it): it.type_log_prob for it in at_one},
        {_type(it): it.type_log_prob for it in at_temperature},
        temperature,
    )
    for action in sorted({_type(it) for it in at_one if it.HasField("slot_id")}):
        _divided(
            {_action(it): it.slot_log_prob for it in at_one if _type(it) == action},
            {_action(it): it.slot_log_prob for it in at_temperature if _type(it) == action},
            temperature,
        )
    without, with_temperature = map(_action, likeliest)
    if likeliest[0].mode == SELECTION_MODE_GREEDY and without != with_temperature:
        raise Failed(f"greedy, it does {without}, and at temperature {temperature:g} it does not")


def _divided(at_one: Mapping[str, float], warm: Mapping[str, float], temperature: float) -> None:
    """Expect the differences of log-probabilities to be divided: what is added is normalisation."""
    names = sorted(at_one.keys() & warm.keys())
    for name in names[1:]:
        expected = (at_one[name] - at_one[names[0]]) / temperature
        given = warm[name] - warm[names[0]]
        if abs(given - expected) > _LOG_PROB_TOLERANCE * max(1.0, abs(expected)):
            raise Failed(
                f"at temperature {temperature:g}, log P({name}) - log P({names[0]}) is "
                f"{given:.4f}; divided logits make it {expected:.4f}"
            )


def _compare(drawn: Sequence[tuple[str, float]], field: str) -> None:
    """Expect each thing that was drawn to have come about as often as it says that it is likely."""
    counts = Counter(name for name, _ in drawn)
    for name, log_prob in dict(drawn).items():
        stated, share = math.exp(log_prob), counts[name] / len(drawn)
        error = math.sqrt(max(stated * (1 - stated), 1 / len(drawn)) / len(drawn))
        if abs(share - stated) > _STANDARD_ERRORS * error:
            raise Failed(
                f"{name} was drawn with {share:.3f} of {len(drawn)} sampling seeds; its {field} "
                f"says {stated:.3f}"
            )


_SEED_STRIDE = 0x9E3779B97F4A7C15
"""An odd number whose multiples are far apart: seeds that look like nothing."""


def _type(decision: Decision) -> str:
    return ActionType.Name(decision.action_type).removeprefix("ACTION_TYPE_")


def _action(decision: Decision) -> str:
    name = _type(decision)
    return f"{name} at {decision.slot_id}" if decision.HasField("slot_id") else name
