"""References for decisions per second: servers that decide nothing.

    python -m tests.benchmarks.decision_servers constant unix:/tmp/socket

`constant` parses a query, checks the contract's rules, and answers the same decision to all: the
least that any policy server in Python with grpc.aio does. `echo` sends the bytes back.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import protovalidate

from leyline.v1.decision_pb2 import ACTION_TYPE_GERMINATE, SELECTION_MODE_SAMPLED, Decision
from leyline.v1.policy_pb2 import StreamDecisionsRequest, StreamDecisionsResponse

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = "leyline.v1.PolicyService"
METHOD = "StreamDecisions"

DECISION = Decision(
    decision_id="0" * 32,
    action_type=ACTION_TYPE_GERMINATE,
    slot_id="slot-1",
    policy_version="constant-1",
    type_log_prob=-1.4,
    slot_log_prob=-1.1,
    log_prob=-2.5,
    value=0.1,
    mode=SELECTION_MODE_SAMPLED,
)


async def constant(
    requests: AsyncIterator[StreamDecisionsRequest], context: Context
) -> AsyncIterator[StreamDecisionsResponse]:
    """Answers each valid query with the same decision."""
    async for request in requests:
        if protovalidate.collect_violations(request.query):
            raise ValueError("the load is invalid")
        yield StreamDecisionsResponse(step_id=request.query.snapshot.step_id, decision=DECISION)


async def echo(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    """Sends back what comes."""
    async for request in requests:
        yield request


HANDLERS = {
    "constant": grpc.stream_stream_rpc_method_handler(
        constant,
        request_deserializer=StreamDecisionsRequest.FromString,
        response_serializer=StreamDecisionsResponse.SerializeToString,
    ),
    "echo": grpc.stream_stream_rpc_method_handler(echo),
}


async def serve(kind: str, address: str) -> None:
    """Serves until it is killed."""
    server = grpc.aio.server()
    handlers = grpc.method_handlers_generic_handler(SERVICE, {METHOD: HANDLERS[kind]})
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
