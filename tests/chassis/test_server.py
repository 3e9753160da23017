"""A server's life inside one process: health, drain, addresses, TLS, reflection, its channels."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]
    ProtoReflectionDescriptorDatabase,
)
from tests.chassis.certificates import Certificates

from chassis import transport
from chassis.callers import STRANGERS_WATCHES
from chassis.channel import ChannelSettings, open_channel, wait_ready
from chassis.errors import ErrorCode
from chassis.process import AddressInUse, ConfigurationError, StartupError
from chassis.server import Server
from chassis.settings import ServerSettings, load
from chassis.status import RemoteError, from_rpc_error
from leyline.channel import Credentials
from leyline.v1 import experience_pb2, experience_pb2_grpc, registry_pb2, registry_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAMES = ["", "leyline.v1.PolicyService", "leyline.v1.PolicyRegistryService"]


async def _health(channel: grpc.aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    response = await health_pb2_grpc.HealthStub(channel).Check(request)
    status: int = response.status
    return status


def _watch(channel: grpc.aio.Channel, service: str = "") -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Watch(request)


async def test_health_says_not_serving_until_the_service_can_serve(start: Any) -> None:
    server, channel = await start()
    assert [await _health(channel, name) for name in NAMES] == [NOT_SERVING] * 3
    assert server.not_serving_reason == "starting"
    server.set_serving()
    assert [await _health(channel, name) for name in NAMES] == [SERVING] * 3
    assert (server.is_serving, server.not_serving_reason) == (True, "")


async def test_a_service_may_stop_serving_and_serve_again(start: Any) -> None:
    server, channel = await start()
    server.set_serving()
    server.set_not_serving("the disk is full")
    assert await _health(channel) == NOT_SERVING
    assert server.not_serving_reason == "the disk is full"
    server.set_serving()
    assert await _health(channel) == SERVING


async def test_health_knows_no_other_service(start: Any) -> None:
    _, channel = await start()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _health(channel, "leyline.v1.Nowhere")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await _watch(channel, "leyline.v1.Nowhere").read()).status == SERVICE_UNKNOWN


async def test_every_watcher_hears_every_change_also_after_another_has_left(start: Any) -> None:
    server, channel = await start()
    first, second = _watch(channel), _watch(channel)
    for watch in (first, second):
        assert (await watch.read()).status == NOT_SERVING
    first.cancel()
    for open_again in (True, False, True):
        server.set_serving() if open_again else server.set_not_serving("a reason")
        assert (await second.read()).status == (SERVING if open_again else NOT_SERVING)


async def test_the_drain_says_not_serving_and_ends_the_watches_before_the_grace(
    start: Any,
) -> None:
    server, channel = await start(drain_grace_s=3600)
    server.set_serving()
    watch = _watch(channel)
    assert (await watch.read()).status == SERVING
    await server.stop()
    assert (await watch.read()).status == NOT_SERVING
    assert await watch.read() is grpc.aio.EOF
    server.set_serving()
    assert not server.is_serving


async def test_the_drain_cuts_a_request_stream_after_answering_what_it_had(start: Any) -> None:
    async def acknowledge(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            sequence = request.items[0].sequence
            yield experience_pb2.StreamTransitionsResponse(acknowledged_sequence=sequence)

    server, channel = await start({"StreamTransitions": acknowledge}, drain_grace_s=3600)
    stub: experience_pb2_grpc.ExperienceServiceAsyncStub
    stub = experience_pb2_grpc.ExperienceServiceStub(channel)
    call = stub.StreamTransitions()
    item = experience_pb2.ExperienceItem(sequence=7)
    await call.write(experience_pb2.StreamTransitionsRequest(items=[item]))
    answer: Any = await call.read()
    assert answer.acknowledged_sequence == 7
    await server.stop()
    with pytest.raises(grpc.aio.AioRpcError) as cut:
        await call.read()
    remote = from_rpc_error(cut.value)
    assert remote.error_code is ErrorCode.SHUTTING_DOWN
    assert remote.is_retryable


async def test_a_call_in_hand_is_answered_during_the_drain(start: Any) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def get(_request: Any, _context: Any) -> Any:
        entered.set()
        await release.wait()
        return registry_pb2.GetPolicyResponse(active=True)

    server, channel = await start({"GetPolicy": get}, drain_grace_s=3600)
    stub: registry_pb2_grpc.PolicyRegistryServiceAsyncStub
    stub = registry_pb2_grpc.PolicyRegistryServiceStub(channel)
    answer = stub.GetPolicy(registry_pb2.GetPolicyRequest())
    await entered.wait()
    stopping = asyncio.ensure_future(server.stop())
    await server.drain.wait()
    release.set()
    assert (await answer).active
    await stopping


async def test_a_cancellation_ends_the_grace(start: Any) -> None:
    entered = asyncio.Event()

    async def get(_request: Any, _context: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    server, channel = await start({"GetPolicy": get}, drain_grace_s=3600)
    stub: registry_pb2_grpc.PolicyRegistryServiceAsyncStub
    stub = registry_pb2_grpc.PolicyRegistryServiceStub(channel)
    answer = stub.GetPolicy(registry_pb2.GetPolicyRequest(), timeout=1000)
    await entered.wait()
    stopping = asyncio.ensure_future(server.stop())
    await server.drain.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    with pytest.raises(grpc.aio.AioRpcError):
        await answer


async def test_the_server_serves_until_it_is_asked_to_stop(start: Any) -> None:
    server, channel = await start()
    serving = asyncio.ensure_future(server.serve())
    watch = _watch(channel)
    while (await watch.read()).status != SERVING:
        pass
    assert not serving.done()
    server.ask_to_stop()
    await serving


async def test_a_unix_socket_serves_and_is_not_taken_from_its_owner(
    start: Any, socket_path: Path, desk_settings: type[ServerSettings]
) -> None:
    server, channel = await start(listen=f"unix:{socket_path}")
    assert (str(server.address), server.port) == (f"unix:{socket_path}", 0)
    with pytest.raises(AddressInUse, match="in use by another process"):
        await Server(load(desk_settings, listen=f"unix:{socket_path}"), []).start()
    assert await _health(channel) == NOT_SERVING


async def test_a_socket_that_a_dead_process_left_is_taken_over(
    start: Any, socket_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path))
    _, channel = await start(listen=f"unix:{socket_path}")
    assert await _health(channel) == NOT_SERVING


@pytest.fixture
def precious(socket_path: Path) -> Path:
    """Put a file where a server wants its socket."""
    socket_path.write_text("precious")
    return socket_path


async def test_a_file_is_never_taken_for_a_socket(
    precious: Path, desk_settings: type[ServerSettings]
) -> None:
    with pytest.raises(StartupError, match="a file that is no socket"):
        await Server(load(desk_settings, listen=f"unix:{precious}"), []).start()
    assert await asyncio.to_thread(precious.read_text) == "precious"


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("unix:/nowhere/at/all", "No such file or directory"),
        ("192.0.2.1:0", "Cannot assign requested address"),
    ],
)
async def test_an_address_that_is_not_ours_is_refused_with_the_kernels_reason(
    desk_settings: type[ServerSettings], listen: str, why: str
) -> None:
    with pytest.raises(StartupError, match=why) as refused:
        await Server(load(desk_settings, listen=listen, insecure=True), []).start()
    assert not isinstance(refused.value, AddressInUse)


async def test_localhost_is_in_use_when_half_of_it_is(
    desk_settings: type[ServerSettings],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=taken):
            await Server(load(desk_settings, listen=taken), []).start()


async def test_reflection_lists_and_describes_what_is_served(start: Any) -> None:
    server, _ = await start()

    def ask() -> tuple[set[str], str]:
        with grpc.insecure_channel(str(server.address)) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            described = database.FindFileContainingSymbol("leyline.v1.PolicyService")
            return set(database.get_services()), described.name

    served, file = await asyncio.to_thread(ask)
    assert {"leyline.v1.PolicyService", "grpc.health.v1.Health"} <= served
    assert file == "leyline/v1/policy.proto"


async def test_with_a_certificate_only_those_who_trust_it_get_through(
    start: Any, certificates: Certificates
) -> None:
    server, channel = await start(
        tls_certificate=certificates.chain, tls_key=certificates.key, peer_ca=certificates.ca
    )
    assert await _health(channel) == NOT_SERVING
    target = str(server.address)
    for stranger in (
        ChannelSettings(target),
        ChannelSettings(target, Credentials(certificates.other_ca)),
    ):
        async with open_channel(stranger) as refused:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await _health(refused)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_with_a_client_authority_only_its_clients_get_through(
    start: Any, certificates: Certificates
) -> None:
    server, channel = await start(
        tls_certificate=certificates.chain,
        tls_key=certificates.key,
        tls_client_ca=certificates.ca,
        peer_ca=certificates.ca,
    )
    assert await _health(channel) == NOT_SERVING
    nameless = ChannelSettings(str(server.address), Credentials(certificates.ca))
    async with open_channel(nameless) as refused:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await _health(refused)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_key_of_another_certificate_is_refused_at_the_start(
    desk_settings: type[ServerSettings], certificates: Certificates
) -> None:
    settings = load(
        desk_settings, tls_certificate=certificates.chain, tls_key=certificates.other_key
    )
    with pytest.raises(ConfigurationError, match=r"no PEM certificate with its key"):
        await Server(settings, []).start()


async def test_authorities_that_are_no_certificates_are_refused(tmp_path: Path) -> None:
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nonsense")
    with pytest.raises(ConfigurationError, match="no PEM certificates"):
        open_channel(ChannelSettings("127.0.0.1:1", Credentials(nonsense)))


async def test_nobody_there_is_said_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unheard:
        target = f"127.0.0.1:{unheard.getsockname()[1]}"
    async with open_channel(ChannelSettings(target)) as channel:
        with pytest.raises(RemoteError, match=target) as failed:
            await wait_ready(channel, target, timeout_s=0.1)
    assert failed.value.is_retryable


async def test_a_channel_finds_its_server_again_after_a_restart(
    start: Any, socket_path: Path
) -> None:
    listen = f"unix:{socket_path}"
    first, channel = await start(listen=listen)
    await first.stop()
    with pytest.raises(grpc.aio.AioRpcError):
        await _health(channel)
    second, _ = await start(listen=listen)
    second.set_serving()
    await wait_ready(channel, listen, timeout_s=60)
    assert await _health(channel) == SERVING


def test_what_our_clients_send_our_servers_allow(desk_settings: type[ServerSettings]) -> None:
    pair = load(desk_settings, keepalive_s=10).transport
    server = dict(pair.server_options(60, 60, 100))
    channel = dict(pair.channel_options())
    allowed = server["grpc.http2.min_ping_interval_without_data_ms"]
    assert isinstance(allowed, int)
    assert allowed < int(channel["grpc.keepalive_time_ms"])
    for size in ("grpc.max_receive_message_length", "grpc.max_send_message_length"):
        assert server[size] == channel[size]


async def test_a_stream_that_waits_in_silence_outlives_many_pings(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_LEAST_PING_INTERVAL_S", 0.5)
    server, _ = await start()
    server.set_serving()
    options = {**dict(transport.Transport().channel_options()), "grpc.keepalive_time_ms": 1000}
    channel = grpc.aio.insecure_channel(str(server.address), options=list(options.items()))
    async with channel:
        watch = _watch(channel)
        await watch.read()
        # gRPC's own allowance, two pings in five minutes, would be used up.
        await asyncio.sleep(4.5)
        server.set_not_serving("to see that the stream is still there")
        assert (await watch.read()).status == NOT_SERVING


async def test_a_connection_is_told_how_many_calls_it_may_have_open(start: Any) -> None:
    """By the setting of HTTP/2 (RFC 9113, sections 4.1 and 6.5); a little more than the server has,
    so that too many are refused with a reason.
    """
    server, _ = await start(max_concurrent_rpcs=5)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    async with asyncio.timeout(60):
        frame = await reader.readexactly(9)
        content = await reader.readexactly(int.from_bytes(frame[:3]))
    settings = {
        int.from_bytes(content[at : at + 2]): int.from_bytes(content[at + 2 : at + 6])
        for at in range(0, len(content), 6)
    }
    assert frame[3] == 4, "the first frame has the settings"
    assert settings[3] == 5 + STRANGERS_WATCHES
    writer.close()


@pytest.mark.parametrize("asks", [True, False])
async def test_the_log_says_at_the_start_whether_anybody_is_asked_who_he_is(
    start: Any, certificates: Certificates, tokens: Path, asks: bool
) -> None:
    asking = {
        "tokens": tokens,
        "tls_certificate": certificates.chain,
        "tls_key": certificates.key,
        "tls_client_ca": certificates.ca,
        "peer_ca": certificates.ca,
    }
    with structlog.testing.capture_logs() as lines:
        await start(**(asking if asks else {}))
    [said] = [each for each in lines if each["event"] == "listening"]
    assert (said["tls"], said["asks_for_tokens"], said["asks_for_certificates"]) == (asks,) * 3


async def test_no_thread_is_started_for_a_call(start: Any) -> None:
    _, channel = await start()
    await _health(channel)
    before = threading.active_count()
    watches = [_watch(channel) for _ in range(20)]
    for watch in watches:
        await watch.read()
    assert threading.active_count() <= before
