"""Servers that take tokens, and what whoever calls them is told."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from chassis.status import from_rpc_error
from leyline.v1 import experience_pb2, policy_pb2

SCOPES = ("trainer", "policy", "operator")
ASK = policy_pb2.GetPolicyInfoRequest()


def line(name: str, scopes: str, token: str) -> str:
    return f"{name} {scopes} sha256:{hashlib.sha256(token.encode()).hexdigest()}\n"


async def _info(_request: Any, _context: Any) -> policy_pb2.GetPolicyInfoResponse:
    return policy_pb2.GetPolicyInfoResponse(policy="wait")


async def _statistics(_request: Any, _context: Any) -> experience_pb2.GetStatisticsResponse:
    return experience_pb2.GetStatisticsResponse()


async def _echo(
    requests: AsyncIterator[policy_pb2.StreamDecisionsRequest], _context: Any
) -> AsyncIterator[policy_pb2.StreamDecisionsResponse]:
    async for _ in requests:
        yield policy_pb2.StreamDecisionsResponse()


METHODS = {"GetPolicyInfo": _info, "GetStatistics": _statistics, "StreamDecisions": _echo}


def bearer(token: str) -> Any:
    return (("authorization", f"Bearer {token}"),)


async def outcome(call: Any) -> str:
    """OK, or the reason why not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return "OK"
