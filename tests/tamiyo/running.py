"""A Tamiyo that runs: the real server over a real socket, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from chassis.address import Address
from leyline.v1.policy_pb2 import GetPolicyInfoRequest, GetPolicyInfoResponse
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from tamiyo.service import serve
from tamiyo.settings import TamiyoSettings


@asynccontextmanager
async def running(directory: Path, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Serve while the block lasts; gives a channel to the server, which is bound by then."""
    port_file = directory / "address"
    port_file.unlink(missing_ok=True)
    loaded = TamiyoSettings(
        listen=Address.parse("127.0.0.1:0"),
        port_file=port_file,
        state_dir=directory / "state",
        **settings,
    )
    server = asyncio.create_task(serve(loaded))
    try:
        await until(lambda: port_file.exists() or server.done())
        if server.done():
            server.result()
        async with grpc.aio.insecure_channel(port_file.read_text().strip()) as channel:
            yield channel
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds; the test's own time limit is the only one."""
    while not condition():  # noqa: ASYNC110 - nobody tells when a file or a server changes
        await asyncio.sleep(0.005)


async def info(channel: grpc.aio.Channel) -> GetPolicyInfoResponse:
    """Ask who decides."""
    response: GetPolicyInfoResponse = await PolicyServiceStub(channel).GetPolicyInfo(
        GetPolicyInfoRequest()
    )
    return response


async def serves(channel: grpc.aio.Channel, version: str) -> None:
    """Wait until a version is the default one."""
    while (await info(channel)).policy_version != version:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.005)
