"""Load for a policy server: streams that each ask again as soon as they are answered.

    python -m tests.benchmarks.decision_load unix:/tmp/socket --streams 64 --seconds 3

Prints one JSON object: decisions a second, and the latency's median and 99th percentile in
milliseconds. Queries are serialised beforehand and answers stay bytes, so that this process has
less to do for a decision than any server in Python.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from tests.tamiyo.queries import query

from leyline.v1.policy_pb2 import StreamDecisionsRequest, StreamDecisionsResponse

METHOD = "/leyline.v1.PolicyService/StreamDecisions"
WARM_UP_S = 0.5
STEPS = 40


@dataclass(frozen=True)
class Form:
    """How a query travels and an answer comes back: as the contract has it, or inside a message of
    another protocol; on a stream, or by a call for each.
    """

    method: str = METHOD
    streams: bool = True
    wrapped: Callable[[bytes], bytes] = bytes
    unwrapped: Callable[[bytes], bytes] = bytes


def episode(index: int) -> list[bytes]:
    """The queries of one stream, again and again."""
    return [
        StreamDecisionsRequest(query=query(step, episode=index)).SerializeToString()
        for step in range(STEPS)
    ]


async def ask(
    channel: grpc.aio.Channel, form: Form, queries: Sequence[bytes], begin: float, end: float
) -> list[float]:
    """Asks until the end; returns the latencies, in seconds, of what was asked after the begin."""
    by_call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(form.method)
    stream: grpc.aio.StreamStreamCall[bytes, bytes] | None = None
    if form.streams:
        stream = channel.stream_stream(form.method)()
    latencies = []
    asked = 0
    answer: object = b""
    while (now := time.perf_counter()) < end:
        asking = queries[asked % len(queries)]
        if stream is None:
            answer = await by_call(asking)
        else:
            await stream.write(asking)
            answer = await stream.read()
        asked += 1
        if now >= begin:
            latencies.append(time.perf_counter() - now)
    # Looked at once, not each time: an error in a decision's place would be quick.
    echoed = answer == queries[(asked - 1) % len(queries)]
    if not isinstance(answer, bytes):
        raise RuntimeError("the server ended the stream")
    if not echoed:
        response = StreamDecisionsResponse.FromString(form.unwrapped(answer))
        if not response.HasField("decision"):
            raise RuntimeError("the server answers with errors")
    if stream is not None:
        await stream.done_writing()
    return latencies


async def load(address: str, form: Form, streams: int, seconds: float) -> dict[str, float]:
    """Asks on so many streams at once, over one connection."""
    episodes = [[form.wrapped(one) for one in episode(index)] for index in range(streams)]
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        begin = time.perf_counter() + WARM_UP_S
        asking = (ask(channel, form, queries, begin, begin + seconds) for queries in episodes)
        latencies = [one for many in await asyncio.gather(*asking) for one in many]
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "per_second": len(latencies) / seconds,
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
    }


def main(form: Form) -> None:
    """Puts load on the server that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(load(options.address, form, options.streams, options.seconds))))


if __name__ == "__main__":
    main(Form())
