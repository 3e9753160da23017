"""A channel whose certificates are replaced while calls are open on it, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.chassis.certificates import Certificates

from chassis.channel import ChannelSettings, open_channel
from leyline.channel import Credentials, FileChannel
from leyline.v1.policy_pb2 import (
    GetPolicyInfoRequest,
    GetPolicyInfoResponse,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.policy_pb2_grpc import (
    PolicyServiceServicer,
    PolicyServiceStub,
    add_PolicyServiceServicer_to_server,
)


class Policy(PolicyServiceServicer):
    async def GetPolicyInfo(
        self, request: GetPolicyInfoRequest, context: Any
    ) -> GetPolicyInfoResponse:
        return GetPolicyInfoResponse(policy="wait")

    async def StreamDecisions(
        self, requests: AsyncIterator[StreamDecisionsRequest], context: Any
    ) -> AsyncIterator[StreamDecisionsResponse]:
        async for _ in requests:
            yield StreamDecisionsResponse()


class Relay:
    """Stands between a client and a server, and sees the connections that are open."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.open = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        out_reader, out_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(_pass_on(reader, out_writer), _pass_on(out_reader, writer))
        self.open -= 1


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def served(certificates: Certificates) -> AsyncIterator[tuple[str, Relay]]:
    """A policy server that speaks TLS, behind a relay; its address there."""
    server = grpc.aio.server()
    add_PolicyServiceServicer_to_server(Policy(), server)
    pair = (certificates.key.read_bytes(), certificates.chain.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    relay = Relay(port)
    listener = await asyncio.start_server(relay.connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", relay
    finally:
        await server.stop(None)
        listener.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def renew(file: Path) -> None:
    """Put the same into a file again, which is a change to whoever watches it."""
    before = file.stat().st_mtime_ns
    while file.stat().st_mtime_ns == before:
        file.write_bytes(file.read_bytes())


async def answers(channel: grpc.aio.Channel) -> bool:
    call: Awaitable[GetPolicyInfoResponse] = PolicyServiceStub(channel).GetPolicyInfo(
        GetPolicyInfoRequest(), timeout=20
    )
    return (await call).policy == "wait"


async def echoes(stream: Any) -> bool:
    await stream.write(StreamDecisionsRequest())
    return isinstance(await stream.read(), StreamDecisionsResponse)


async def eventually_open(relay: Relay, connections: int) -> None:
    """Wait until so many connections are open.

    Whoever keeps a call that has ended keeps its connection, which is gRPC's way; and calls are
    cycles, which go when Python looks for such.
    """
    deadline = time.monotonic() + 20
    while relay.open != connections:
        assert time.monotonic() < deadline, f"{relay.open} connections are open"
        await asyncio.sleep(0.02)
        gc.collect()


async def test_an_open_call_goes_on_for_as_long_as_it_likes_after_its_certificates_were_replaced(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        served(certificates) as (address, _),
        FileChannel(address, Credentials(certificates.ca), ()) as channel,
    ):
        stream = PolicyServiceStub(channel).StreamDecisions()
        assert await echoes(stream)
        renew(certificates.ca)
        assert await answers(channel)
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0.1)
        loop, now = asyncio.get_running_loop(), asyncio.get_running_loop().time
        monkeypatch.setattr(loop, "time", lambda: now() + 24 * 3600)
        await asyncio.sleep(0.1)
        assert not reading.done(), "nobody cancels whoever reads"
        await stream.write(StreamDecisionsRequest())
        assert isinstance(await reading, StreamDecisionsResponse)


async def test_a_connection_of_before_is_closed_with_the_last_of_its_calls(
    certificates: Certificates,
) -> None:
    async with (
        served(certificates) as (address, relay),
        FileChannel(address, Credentials(certificates.ca), ()) as channel,
    ):
        kept = PolicyServiceStub(channel)
        assert await kept.GetPolicyInfo(GetPolicyInfoRequest(), timeout=20)
        first, second = kept.StreamDecisions(), kept.StreamDecisions()
        assert await echoes(first)
        assert await echoes(second)
        for _ in range(10):
            renew(certificates.ca)
            assert await answers(channel)
        await eventually_open(relay, 2)  # that of the streams, and that of now
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        assert await echoes(second)
        assert relay.open == 2
        second.cancel()
        del first, second
        await eventually_open(relay, 1)


async def test_an_interceptor_surrounds_calls_over_the_connections_of_before_and_after(
    certificates: Certificates,
) -> None:
    class Counting(grpc.aio.UnaryUnaryClientInterceptor):
        calls = 0

        async def intercept_unary_unary(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            self.calls += 1
            return await continuation(client_call_details, request)

    counting = Counting()
    async with (
        served(certificates) as (address, relay),
        FileChannel(address, Credentials(certificates.ca), (), interceptors=(counting,)) as channel,
    ):
        for number in range(1, 4):
            assert await answers(channel)
            assert counting.calls == number
            renew(certificates.ca)
        assert await answers(channel)
        await eventually_open(relay, 1)


async def test_whoever_closes_a_channel_ends_what_is_left_of_the_calls_of_before(
    certificates: Certificates,
) -> None:
    async with served(certificates) as (address, _):
        channel = FileChannel(address, Credentials(certificates.ca), ())
        stream = PolicyServiceStub(channel).StreamDecisions(timeout=3600)
        assert await echoes(stream)
        renew(certificates.ca)
        assert await answers(channel)
        reading = asyncio.ensure_future(stream.read())
        await asyncio.sleep(0.1)
        await channel.close()
        ended, _ = await asyncio.wait({reading}, timeout=20)
        assert ended
        assert stream.done()


@pytest.mark.parametrize("half", ["key", "certificate", "ca"])
async def test_half_of_what_is_replaced_is_not_used_and_said(
    certificates: Certificates, half: str
) -> None:
    told: list[Exception | None] = []
    shown = Credentials(certificates.ca, certificates.chain, certificates.key)
    changed = getattr(shown, half)
    before = changed.read_bytes()
    async with (
        served(certificates) as (address, _),
        FileChannel(address, shown, (), told.append) as channel,
    ):
        assert await answers(channel)
        another = {"key": certificates.other_key, "certificate": certificates.other_ca}
        changed.write_bytes(another[half].read_bytes() if half in another else b"nonsense")
        for _ in range(3):
            assert await answers(channel)
        (problem,) = told
        assert str(changed) in str(problem)
        changed.write_bytes(before)
        assert await answers(channel)
        assert told == [problem, None]


async def test_a_service_s_log_says_what_it_cannot_use_of_its_own(
    certificates: Certificates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    shown = Credentials(certificates.ca, certificates.chain, certificates.key, token)
    async with (
        served(certificates) as (address, _),
        open_channel(ChannelSettings(address, shown)) as channel,
    ):
        for file in (token, certificates.key):
            before = file.read_bytes()
            file.write_bytes(b"two words")
            assert await answers(channel)
            assert await answers(channel)
            said = capsys.readouterr().out
            assert said.count("credentials not read") == 1
            assert str(file) in said
            assert address in said
            file.write_bytes(before)
            assert await answers(channel)
            assert "credentials read" in capsys.readouterr().out
