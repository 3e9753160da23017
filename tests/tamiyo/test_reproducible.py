"""The same questions get the same answers, however they are asked and by whichever process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from tests.tamiyo.networks import Network
from tests.tamiyo.queries import query
from tests.tamiyo.registry_server import RegistryServer
from tests.tamiyo.running import serves
from tests.tamiyo.test_process import Process, started

from leyline.v1.decision_pb2 import Decision, DecisionQuery
from leyline.v1.policy_pb2 import StreamDecisionsRequest, StreamDecisionsResponse
from leyline.v1.policy_pb2_grpc import PolicyServiceStub

Stream = grpc.aio.StreamStreamCall[StreamDecisionsRequest, StreamDecisionsResponse]
SNAPSHOTS = 10_000
STEPS = 50
LOG_PROB_TOLERANCE = 1e-5


async def decided(
    channel: grpc.aio.Channel, queries: Sequence[DecisionQuery], streams: int
) -> list[Decision | None]:
    """Ask on so many streams at once; None where the server went before it answered."""
    answers: list[Decision | None] = [None] * len(queries)
    stub = PolicyServiceStub(channel)

    async def ask(first: int) -> None:
        call: Stream = stub.StreamDecisions()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for place in range(first, len(queries), streams):
                await call.write(StreamDecisionsRequest(query=queries[place]))
                answer = await call.read()
                if not isinstance(answer, StreamDecisionsResponse):
                    return  # the end of the stream
                answers[place] = answer.decision
            await call.done_writing()

    await asyncio.gather(*(ask(first) for first in range(streams)))
    return answers


async def decided_with_a_kill(
    directory: Path, flags: Sequence[str], queries: Sequence[DecisionQuery], streams: int
) -> list[Decision]:
    """Ask, kill the server in the middle of it, and ask another one for what is missing."""
    async with server(directory, flags) as tamiyo:
        first_half = len(queries) // 2
        answers = await decided(tamiyo.channel, queries[:first_half], streams)
        asking = asyncio.create_task(decided(tamiyo.channel, queries[first_half:], streams))
        await asyncio.sleep(0.2)
        await tamiyo.end(signal.SIGKILL)
        answers += await asking
    missing = [place for place, answer in enumerate(answers) if answer is None]
    assert missing, "the server was killed after its last answer"
    async with server(directory, flags) as tamiyo:
        again = await decided(tamiyo.channel, [queries[place] for place in missing], streams)
    for place, answer in zip(missing, again, strict=True):
        answers[place] = answer
    return [answer for answer in answers if answer is not None]


@asynccontextmanager
async def server(directory: Path, flags: Sequence[str]) -> AsyncIterator[Process]:
    """A new process, once it can decide."""
    async with started(directory, *flags) as tamiyo:
        await tamiyo.channel.channel_ready()
        await serves(tamiyo.channel, NETWORK.name)
        yield tamiyo


NETWORK = Network(seed=1).version()


@pytest.mark.timeout(600)
async def test_ten_thousand_snapshots_get_the_same_decisions_on_any_streams_and_after_restarts(
    tmp_path: Path,
) -> None:
    queries = [
        query(step, episode=episode, version=NETWORK.name)
        for episode, step in itertools.product(range(SNAPSHOTS // STEPS), range(STEPS))
    ]
    async with RegistryServer() as registry:
        await registry.activate(NETWORK)
        flags = ("--registry", registry.address)
        async with server(tmp_path, flags) as tamiyo:
            alone = await decided(tamiyo.channel, queries, 1)
        by_eight = await decided_with_a_kill(tmp_path, flags, queries, 8)
        by_many = await decided_with_a_kill(tmp_path, flags, queries, 64)
    for others in (by_eight, by_many):
        assert len(others) == len(queries)
        same_bits = 0
        for one, other in zip(alone, others, strict=True):
            assert one is not None
            assert (one.action_type, one.slot_id) == (other.action_type, other.slot_id)
            assert abs(one.log_prob - other.log_prob) <= LOG_PROB_TOLERANCE
            same_bits += one.SerializeToString() == other.SerializeToString()
        print(f"\nbit for bit the same: {same_bits} of {len(queries)}")
