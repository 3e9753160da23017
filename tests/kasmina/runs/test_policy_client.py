"""Asking a policy over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.kasmina.neighbours import Answer, Policy, answer, coin, refusal, serving, step_id

from chassis.channel import ChannelSettings, open_channel
from chassis.errors import ErrorCode, LeylineError
from kasmina.runs.policy_client import PolicyClient, PolicyRefused, PolicyUnavailable
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_CULL,
    ACTION_TYPE_UNSPECIFIED,
    SELECTION_MODE_SAMPLED,
    Decision,
    DecisionQuery,
)
from leyline.v1.policy_pb2 import GetPolicyInfoResponse
from leyline.v1.snapshot_pb2 import STAGE_DORMANT, MultiSlotSnapshot, SlotReading

IN_TIME = 20.0
SOON = 0.2


def query(step: int, pin: str | None = None) -> DecisionQuery:
    """A question about a step."""
    return DecisionQuery(
        snapshot=MultiSlotSnapshot(
            step_id=step_id("run", 0, step),
            slots=[SlotReading(slot_id="slot-0", stage=STAGE_DORMANT)],
        ),
        spec_fingerprint=SEED_SPEC.fingerprint,
        sampling_seed=step * 7919,
        mode=SELECTION_MODE_SAMPLED,
        policy_version=pin,
    )


@asynccontextmanager
async def client_of(policy: Policy) -> AsyncIterator[PolicyClient]:
    """A client of a policy that is served."""
    async with serving(policy) as address, open_channel(ChannelSettings(address)) as channel:
        client = PolicyClient(channel, channel)
        yield client
        await client.close()


async def test_episodes_are_divided_among_the_servers_of_one_name() -> None:
    one, other = Policy(), Policy()
    async with serving(one) as here, serving(other) as there:
        target = ChannelSettings(f"ipv4:{here},{there}")
        async with open_channel(target) as streams, open_channel(target) as introductions:
            client = PolicyClient(streams, introductions)

            async def play(episodes: int) -> None:
                for _ in range(episodes):
                    await client.info(IN_TIME)
                    await client.decide(query(0), IN_TIME)
                    await client.close()

            while not (one.streams and other.streams):  # a connection takes its time to be made
                await play(1)
            began = one.streams, other.streams
            await play(20)
    assert (one.streams - began[0], other.streams - began[1]) == (10, 10)


async def test_an_episode_is_decided_on_one_stream() -> None:
    policy = Policy()
    async with client_of(policy) as client:
        decisions = [await client.decide(query(step), IN_TIME) for step in range(5)]
    assert decisions == [coin(query(step)) for step in range(5)]
    assert policy.streams == 1


async def test_an_answer_that_comes_late_is_thrown_away() -> None:
    late: list[DecisionQuery] = []

    def first_is_late(asked: DecisionQuery) -> Answer:
        late.append(asked)
        if len(late) == 1:
            return None
        # What was due for step 0 comes in the place of step 1's, and then step 1 is asked again.
        return answer(asked, coin(asked)) if len(late) > 2 else answer(late[0], coin(late[0]))

    async with client_of(Policy(decide=first_is_late)) as client:
        with pytest.raises(PolicyUnavailable, match=r"no answer within 0\.2 s"):
            await client.decide(query(0), SOON)
        with pytest.raises(PolicyUnavailable, match="no answer"):
            await client.decide(query(1), SOON)
        assert await client.decide(query(2), IN_TIME) == coin(query(2))


async def test_nobody_at_the_address_is_known_without_waiting_for_the_deadline() -> None:
    async with serving(Policy()) as address:
        pass
    async with open_channel(ChannelSettings(address)) as channel:
        with pytest.raises(PolicyUnavailable, match="UNAVAILABLE"):
            await PolicyClient(channel, channel).decide(query(0), 600.0)


async def patiently(client: PolicyClient, question: DecisionQuery) -> Decision:
    """The answer, as soon as there is one."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(PolicyUnavailable):
                return await client.decide(question, IN_TIME)
            await asyncio.sleep(0.02)


async def test_a_policy_that_comes_back_decides_again() -> None:
    async with serving(Policy()) as address:
        pass
    async with open_channel(ChannelSettings(address)) as channel:
        client = PolicyClient(channel, channel)
        with pytest.raises(PolicyUnavailable):
            await client.decide(query(1), IN_TIME)
        async with serving(Policy(), address=address):
            assert await patiently(client, query(1)) == coin(query(1))
            await client.close()


async def test_a_stream_that_broke_is_opened_again_for_the_same_question() -> None:
    class Leaving(Policy):
        async def StreamDecisions(self, requests, context):  # type: ignore[no-untyped-def]
            """Answers once, and ends the stream as a draining replica does."""
            async for response in super().StreamDecisions(requests, context):
                yield response
                return

    policy = Leaving()
    async with client_of(policy) as client:
        for step in range(3):
            assert await client.decide(query(step), IN_TIME) == coin(query(step))
    assert policy.streams == 3


def breaking(change: Callable[[Decision], None]) -> Callable[[DecisionQuery], Answer]:
    """A policy whose answers are changed."""

    def decide(asked: DecisionQuery) -> Answer:
        decision = coin(asked)
        change(decision)
        return answer(asked, decision)

    return decide


def cull_nowhere(decision: Decision) -> None:
    decision.action_type = ACTION_TYPE_CULL
    decision.ClearField("slot_id")


def unset_action(decision: Decision) -> None:
    decision.action_type = ACTION_TYPE_UNSPECIFIED


def no_version(decision: Decision) -> None:
    decision.ClearField("policy_version")


def other_version(decision: Decision) -> None:
    decision.policy_version = "another"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (cull_nowhere, "slot_id"),
        (unset_action, "action_type"),
        (no_version, "no policy version"),
        (other_version, "another answered in place of pinned-1"),
    ],
)
async def test_an_answer_that_breaks_the_contract_is_no_answer(
    change: Callable[[Decision], None], why: str
) -> None:
    async with client_of(Policy(decide=breaking(change))) as client:
        with pytest.raises(PolicyUnavailable, match=why):
            await client.decide(query(0, pin="pinned-1"), IN_TIME)


async def test_an_error_in_the_place_of_an_answer_leaves_the_stream_alive() -> None:
    def not_ready_at_first(asked: DecisionQuery) -> Answer:
        if asked.snapshot.step_id.step:
            return answer(asked, coin(asked))
        return refusal(asked, LeylineError(ErrorCode.POLICY_NOT_READY, problem="loading"))

    policy = Policy(decide=not_ready_at_first)
    async with client_of(policy) as client:
        with pytest.raises(PolicyUnavailable, match="POLICY_NOT_READY"):
            await client.decide(query(0), IN_TIME)
        assert await client.decide(query(1), IN_TIME) == coin(query(1))
    assert policy.streams == 1


@pytest.mark.parametrize(
    "error",
    [
        LeylineError(ErrorCode.FINGERPRINT_MISMATCH, given="a", expected="b"),
        LeylineError(ErrorCode.SLOT_COUNT_MISMATCH, given=3, expected=4),
    ],
)
async def test_a_policy_for_other_observations_is_told_from_one_that_is_away(
    error: LeylineError,
) -> None:
    async with client_of(Policy(decide=lambda asked: refusal(asked, error))) as client:
        with pytest.raises(PolicyRefused, match=error.code.name):
            await client.decide(query(0), IN_TIME)


async def test_a_policy_says_who_it_is() -> None:
    async with client_of(Policy()) as client:
        assert (await client.info(IN_TIME)).policy == "coin"
    async with client_of(Policy(info=GetPolicyInfoResponse(policy="nameless"))) as client:
        with pytest.raises(PolicyRefused, match="describes itself wrongly"):
            await client.info(IN_TIME)
