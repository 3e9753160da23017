"""Too late, too large, and no message at all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from leyline.conformance.checks.expect import keep_the_rules, match
from leyline.conformance.checks.unknown import unknown
from leyline.conformance.target import CALL_TIMEOUT_S, SERVICE, Connection, Failed, Target, resize
from leyline.error import ServiceError
from leyline.v1.policy_pb2 import DecideRequest

_MOST_SLOTS = 64
_GIVEN_UP = ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
"""Late, or refused by a server that sheds load."""
_MUCH_LONGER = 20


async def honours_deadlines(target: Target, calls: int, deadline_s: float, within_s: float) -> None:
    """Calls whose deadline has passed are given up: they do not hold up those that come after."""
    query = target.query(target.snapshot())
    async with target.connect() as connection:
        await connection.decide(query)
        began = time.monotonic()
        await connection.decide(query)
        # A busy machine is no fault of the server's.
        within_s = max(within_s, _MUCH_LONGER * (time.monotonic() - began))
        hurried = (connection.decide(query, timeout_s=deadline_s) for _ in range(calls))
        for outcome in await asyncio.gather(*hurried, return_exceptions=True):
            given_up = isinstance(outcome, ServiceError) and outcome.code in _GIVEN_UP
            if isinstance(outcome, BaseException) and not given_up:
                raise outcome
        began = time.monotonic()
        try:
            await connection.decide(query, timeout_s=within_s)
        except ServiceError as error:
            raise Failed(
                f"after {calls} calls with {deadline_s:g} s, one with {within_s:g} s ended "
                f"after {time.monotonic() - began:.1f} s with {error.code}"
            ) from None


async def takes_the_largest(target: Target) -> None:
    """The largest snapshot of the contract is decided: 64 slots, the longest names."""
    snapshot = target.snapshot()
    if target.info.slots.WhichOneof("slots") == "any":
        resize(snapshot, _MOST_SLOTS)
    snapshot.step_id.run_id = "r" * 63
    for index, slot in enumerate(snapshot.slots):
        slot.slot_id = f"{index:02}-".ljust(63, "s")
    query = target.query(snapshot)
    async with target.connect() as connection:
        keep_the_rules(query, await connection.decide(query))
        match([query], await connection.stream([query]))


async def refuses_too_large(target: Target, mebibytes: int) -> None:
    """A message beyond gRPC's usual limit is refused before anything is made of it."""
    # Valid but for its size: an implementation that ignores what it does not know would decide.
    content = DecideRequest(query=target.query(target.snapshot())).SerializeToString()
    request = DecideRequest.FromString(content + unknown(mebibytes * 2**20))
    async with target.connect() as connection:
        try:
            await connection.decide_request(request)
        except ServiceError as error:
            if error.code != "RESOURCE_EXHAUSTED":
                raise Failed(f"{mebibytes} MiB got {error.code}: {error.message}") from None
        else:
            raise Failed(f"it decided on a message of {mebibytes} MiB")
        await _still_decides(target, connection)


async def survives_garbage(target: Target, messages: int) -> None:
    """Bytes that are no message end their call with an error, and nothing else."""
    async with target.connect() as connection:
        for length in range(1, messages + 1):
            call: Any = connection.channel.unary_unary(f"/{SERVICE}/Decide")
            # Field 1, length-delimited, longer than what follows: no protobuf of any kind.
            garbage = bytes([0x0A, 0xFF, 0xFF, 0x7F, *range(length % 256)])
            try:
                await call(garbage, timeout=CALL_TIMEOUT_S, metadata=connection.metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                ):
                    raise Failed(
                        f"bytes that are no message got {error.code().name}: {error.details()}"
                    ) from None
            else:
                raise Failed("bytes that are no message got an answer")
        await _still_decides(target, connection)


async def _still_decides(target: Target, connection: Connection) -> None:
    query = target.query(target.snapshot())
    keep_the_rules(query, await connection.decide(query))
