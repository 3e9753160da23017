"""Decisions in batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from tests.tamiyo.queries import query

from chassis.errors import ErrorCode, LeylineError
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    Decision,
    DecisionQuery,
)
from leyline.v1.observation_pb2 import ObservationSpec
from tamiyo.batch import DecisionBatcher
from tamiyo.policy import Choice


class Poison(Exception):
    """What the policy says to a poisoned query."""


@dataclass
class Gated:
    """A policy that notes the sizes of its batches and answers only while its gate is open."""

    version: str = "gated-1"
    name: str = "gated"
    slots: int | None = None
    poison: int = -1
    gate: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)
    batches: list[list[int]] = field(default_factory=list)

    @property
    def spec(self) -> ObservationSpec:
        return SEED_SPEC

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        steps = [asked.snapshot.step_id.step for asked in queries]
        self.batches.append(steps)
        self.asked.set()
        self.gate.wait()
        if self.poison in steps:
            raise Poison
        return [Choice(ACTION_TYPE_WAIT, SELECTION_MODE_GREEDY)] * len(queries)


async def busy(policy: Gated, batcher: DecisionBatcher) -> asyncio.Task[Decision]:
    """Ask for step 0 and return when the policy has begun to think about it."""
    first = asyncio.create_task(batcher.decide(policy, query(0)))
    await asyncio.to_thread(policy.asked.wait)
    return first


async def ask(
    policy: Gated, batcher: DecisionBatcher, steps: Sequence[int]
) -> list[asyncio.Task[Decision]]:
    """Ask for steps, and return when all wait."""
    tasks = [asyncio.create_task(batcher.decide(policy, query(step))) for step in steps]
    await asyncio.sleep(0)
    return tasks


async def test_whatever_waits_is_decided_in_one_batch_and_everybody_gets_the_own_answer() -> None:
    policy = Gated()
    async with DecisionBatcher(limit=100, in_thread=True) as batcher:
        first = await busy(policy, batcher)
        others = await ask(policy, batcher, range(1, 41))
        policy.gate.set()
        decisions = await asyncio.gather(first, *others)
    assert policy.batches == [[0], list(range(1, 41))]
    ids = [decision.decision_id for decision in decisions]
    assert len(set(ids)) == 41
    async with DecisionBatcher(limit=100, in_thread=True) as batcher:
        assert (await batcher.decide(policy, query(17))).decision_id == ids[17]


async def test_too_many_waiting_is_said_at_once_and_those_who_wait_are_answered() -> None:
    policy = Gated()
    async with DecisionBatcher(limit=3, in_thread=True) as batcher:
        first = await busy(policy, batcher)
        waiting = await ask(policy, batcher, [1, 2, 3])
        with pytest.raises(LeylineError) as caught:
            await batcher.decide(policy, query(4))
        assert caught.value.code is ErrorCode.QUEUE_FULL
        assert caught.value.retry_after_s
        policy.gate.set()
        await asyncio.gather(first, *waiting)
        await batcher.decide(policy, query(4))


async def test_a_query_keeps_the_version_that_it_came_with_whatever_comes_after_it() -> None:
    old, new = Gated("old"), Gated("new")
    new.gate.set()
    async with DecisionBatcher(limit=100, in_thread=True) as batcher:
        first = await busy(old, batcher)
        mixed = await ask(old, batcher, [1]) + await ask(new, batcher, [2])
        mixed += await ask(old, batcher, [3])
        old.gate.set()
        decisions = await asyncio.gather(first, *mixed)
    versions = [decision.policy_version for decision in decisions]
    assert versions == ["old", "old", "new", "old"]
    assert old.batches == [[0], [1, 3]]
    assert new.batches == [[2]]


async def test_a_query_that_the_policy_fails_on_spoils_no_other() -> None:
    policy = Gated(poison=2)
    async with DecisionBatcher(limit=100, in_thread=True) as batcher:
        first = await busy(policy, batcher)
        others = await ask(policy, batcher, [1, 2, 3])
        policy.gate.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Decision, Decision, Poison, Decision]


async def test_for_who_has_gone_nothing_is_computed() -> None:
    policy = Gated()
    async with DecisionBatcher(limit=100, in_thread=True) as batcher:
        first = await busy(policy, batcher)
        stays, goes = await ask(policy, batcher, [1, 2])
        goes.cancel()
        await asyncio.gather(goes, return_exceptions=True)
        policy.gate.set()
        await asyncio.gather(first, stays)
    assert policy.batches == [[0], [1]]


async def test_what_waits_at_the_end_is_told_so() -> None:
    policy = Gated()
    async with DecisionBatcher(limit=100, in_thread=True) as batcher:
        first = await busy(policy, batcher)
        (waiting,) = await ask(policy, batcher, [1])
        asyncio.get_running_loop().call_later(0.05, policy.gate.set)
    for task in (first, waiting):
        with pytest.raises(LeylineError) as caught:
            await task
        assert caught.value.code is ErrorCode.SHUTTING_DOWN
    with pytest.raises(LeylineError):
        await batcher.decide(policy, query(5))


async def test_in_the_event_loop_what_arrives_together_is_decided_together() -> None:
    policy = Gated(poison=7)
    policy.gate.set()
    async with DecisionBatcher(limit=100, in_thread=False) as batcher:
        tasks = await ask(policy, batcher, range(8))
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Decision] * 7 + [Poison]
        assert policy.batches[0] == list(range(8))
        (later,) = await ask(policy, batcher, [9])
        await later
    assert policy.batches[-1] == [9]


@pytest.mark.parametrize("in_thread", [True, False])
async def test_whoever_goes_first_takes_nobody_along(in_thread: bool) -> None:
    policy = Gated()
    policy.gate.set()
    async with DecisionBatcher(limit=100, in_thread=in_thread) as batcher:
        first, *others = await ask(policy, batcher, range(4))
        first.cancel()
        decisions = await asyncio.gather(*others)
        assert policy.batches == [[1, 2, 3]]
        assert len({decision.decision_id for decision in decisions}) == 3
        with pytest.raises(asyncio.CancelledError):
            await first
