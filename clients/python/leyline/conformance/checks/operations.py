"""Going down, and coming back."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from leyline.conformance.checks.expect import keep_the_rules, same
from leyline.conformance.target import Failed, Skipped, Target, decision_of
from leyline.error import ServiceError, from_rpc_error
from leyline.v1.policy_pb2 import StreamDecisionsRequest, StreamDecisionsResponse

RESTART_S = 30.0
_BETWEEN_QUERIES_S = 0.02
_STEPS = 64
"""Asked before and after a restart: one decision may be the same by chance."""
_MADE_UP = "Internal error from Core"
_NO_COMMAND = "give --restart-cmd to test a server that goes down and comes back"


async def drains(target: Target) -> None:
    """A server that is asked to end answers what it has read, and ends its streams in order."""
    if target.restart_command is None:
        raise Skipped(_NO_COMMAND)
    async with target.connect() as connection:
        asking, silent = (connection.open_stream(2 * RESTART_S) for _ in range(2))
        # One answer first: a stream that stands is something else than one that is being made.
        for stream in (asking, silent):
            if not await _goes_on(target, stream, 0):
                raise Failed("a stream ended before its first answer")
        answered = 1
        async with _restart(target):
            while await _goes_on(target, asking, answered):
                answered += 1
                await asyncio.sleep(_BETWEEN_QUERIES_S)
        ends = [await _end_of(stream, target.address) for stream in (asking, silent)]
    for end, which in zip(
        ends, (f"a stream after {answered} answers", "a silent stream"), strict=True
    ):
        # Where a query meets the end of its stream on the way, gRPC's client makes an end up.
        made_up = end.message == _MADE_UP and end is ends[0]
        if end.code != "OK" and end.reason != "SHUTTING_DOWN" and not made_up:
            raise Failed(f"asked to end, it ends {which} with {end.code} ({end.message})")
    await _until_it_serves(target)


async def restarts(target: Target) -> None:
    """After a restart it serves again, and the same query to the same version gets the same."""
    if target.restart_command is None:
        raise Skipped(_NO_COMMAND)
    await _until_it_serves(target)
    queries = [target.query(target.snapshot(step)) for step in range(_STEPS)]
    async with target.connect() as connection:
        before = [await connection.decide(query) for query in queries]
    async with _restart(target):
        pass
    await _until_it_serves(target)
    async with target.connect() as connection:
        for query, earlier in zip(queries, before, strict=True):
            query.policy_version = earlier.policy_version
            later = await connection.decide(query)
            keep_the_rules(query, later)
            if target.info.deterministic:
                same(earlier, later, "after a restart")


async def _end_of(stream: Any, address: str) -> ServiceError:
    """Return how a stream ended, OK included."""
    return from_rpc_error(
        grpc.aio.AioRpcError(
            await stream.code(),
            await stream.initial_metadata(),
            await stream.trailing_metadata(),
            await stream.details(),
        ),
        address,
    )


async def _goes_on(target: Target, stream: Any, step: int) -> bool:
    """Ask for a step on a stream; False where it has ended, however it did."""
    query = target.query(target.snapshot(step))
    try:
        await stream.write(StreamDecisionsRequest(query=query))
        answer = await stream.read()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    if not isinstance(answer, StreamDecisionsResponse):
        return False
    if answer.step_id != query.snapshot.step_id:
        raise Failed(f"step {step} got the answer of step {answer.step_id.step}")
    keep_the_rules(query, decision_of(answer))
    return True


@asynccontextmanager
async def _restart(target: Target) -> AsyncIterator[None]:
    """Run the tester's command while the block lasts, and to its end.

    Raises:
        Failed: it fails, or takes too long.
    """
    assert target.restart_command is not None
    # A file and no pipe: the server that it starts may keep that open for ever.
    with tempfile.TemporaryFile() as said:
        command = await asyncio.create_subprocess_shell(
            target.restart_command, stdin=DEVNULL, stdout=said, stderr=said
        )
        try:
            yield
            status = await asyncio.wait_for(command.wait(), RESTART_S)
        except TimeoutError:
            raise Failed(f"--restart-cmd takes longer than {RESTART_S:g} s") from None
        finally:
            if command.returncode is None:
                command.kill()
                await command.wait()
        if status != 0:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-500:]
            raise Failed(f"--restart-cmd ended with {status}: {words}")


async def _until_it_serves(target: Target) -> None:
    """Wait for SERVING.

    Raises:
        Failed: it takes too long.
    """
    last = "nobody answered"
    async with target.connect() as connection:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESTART_S):
                while True:
                    try:
                        last = await connection.health("")
                        if last == "SERVING":
                            return
                    except ServiceError as error:
                        last = error.message
                    await asyncio.sleep(_BETWEEN_QUERIES_S)
    raise Failed(f"{RESTART_S:g} s after --restart-cmd it does not serve: {last}")
