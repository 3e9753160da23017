"""What a collector is told of unary calls, and that nobody waits for one."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.chassis.asking import bearer, outcome
from tests.chassis.certificates import Certificates
from tests.chassis.conftest import DeskSettings
from tests.collecting import Collector, collecting

from chassis import tls
from chassis.errors import ErrorCode, LeylineError
from chassis.process import ConfigurationError
from chassis.settings import load
from chassis.spans import Tracing
from chassis.tracing import open_tracing
from leyline.v1 import policy_pb2, policy_pb2_grpc, registry_pb2, registry_pb2_grpc
from leyline.v1.snapshot_pb2 import StepId

INFO = "leyline.v1.PolicyService/GetPolicyInfo"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STEP = StepId(run_id="run", episode_index=3, step=7)
OF_STEP = {"leyline.run_id": "run", "leyline.episode": 3, "leyline.step": 7}


async def _info(_request: Any, _context: Any) -> policy_pb2.GetPolicyInfoResponse:
    return policy_pb2.GetPolicyInfoResponse(policy_version="p-1")


async def _refuses(_request: Any, _context: Any) -> policy_pb2.GetPolicyInfoResponse:
    raise LeylineError(ErrorCode.POLICY_VERSION_NOT_FOUND, policy_version="v7")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never says anything."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody() -> str:
    """An address on which nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def _get_info(channel: grpc.aio.Channel, **options: Any) -> Any:
    stub = policy_pb2_grpc.PolicyServiceStub(channel)
    return stub.GetPolicyInfo(policy_pb2.GetPolicyInfoRequest(), **options)


async def test_a_unary_call_is_a_span_of_its_client_and_within_that_one_of_its_server(
    start: Any, collector: Collector
) -> None:
    _, channel = await start(
        {"GetPolicyInfo": _info}, trace_endpoint=collector.address, trace_ratio=1
    )
    await _get_info(channel)
    await collector.have(2)
    served, called = sorted(collector.spans, key=lambda span: span.began_ns, reverse=True)
    assert [(each.kind, each.name) for each in (called, served)] == [
        ("CLIENT", INFO),
        ("SERVER", INFO),
    ]
    assert served.trace == called.trace
    assert (called.parent, served.parent) == ("", called.span)
    for each in (called, served):
        assert each.service == "desk"
        assert each.facts == {
            "rpc.system.name": "grpc",
            "rpc.method": INFO,
            "rpc.response.status_code": "OK",
        }


async def test_a_refused_call_has_failed_under_its_code(start: Any, collector: Collector) -> None:
    _, channel = await start(
        {"GetPolicyInfo": _refuses}, trace_endpoint=collector.address, trace_ratio=1
    )
    with pytest.raises(grpc.aio.AioRpcError, match="v7"):
        await _get_info(channel)
    for each in await collector.have(2):
        assert each.failed
        assert each.facts["rpc.response.status_code"] == "NOT_FOUND"


async def test_who_may_not_call_can_have_no_span_either(
    start: Any, collector: Collector, tokens: Path
) -> None:
    server, _ = await start(
        {"GetPolicyInfo": _info}, trace_endpoint=collector.address, trace_ratio=1, tokens=tokens
    )
    sampled = ("traceparent", f"00-{TRACE}-{PARENT}-01")
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        for who in ("nobody", "trainer"):
            asked = _get_info(channel, metadata=(*bearer(who), sampled))
            assert await outcome(asked) == ("OK" if who == "trainer" else "UNAUTHENTICATED")
    (served,) = await collector.have(1)
    assert served.facts["rpc.response.status_code"] == "OK"


async def test_a_call_that_its_caller_gives_up_is_given_up_at_the_server_and_told_as_such(
    start: Any, collector: Collector
) -> None:
    began = asyncio.Event()

    async def never(_request: Any, _context: Any) -> Any:
        began.set()
        await asyncio.Event().wait()

    _, channel = await start(
        {"GetPolicyInfo": never}, trace_endpoint=collector.address, trace_ratio=1
    )
    call = _get_info(channel)
    waiting = asyncio.ensure_future(call)
    await began.wait()
    waiting.cancel()
    spans = await collector.told(
        "the server's", lambda spans: any(each.kind == "SERVER" for each in spans)
    )
    (served,) = [each for each in spans if each.kind == "SERVER"]
    assert served.facts["rpc.response.status_code"] == "CANCELLED"


async def test_a_caller_s_own_trace_is_gone_on_with_as_he_has_decided(
    start: Any, collector: Collector
) -> None:
    server, _ = await start(
        {"GetPolicyInfo": _info}, trace_endpoint=collector.address, trace_ratio=0
    )
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        for said in ("nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"):
            await _get_info(channel, metadata=(("traceparent", said),))
        await _get_info(channel, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),))
        await _get_info(channel)
    (served,) = await collector.have(1)
    assert (served.trace, served.parent, served.kind) == (TRACE, PARENT, "SERVER")


async def test_streams_and_health_have_no_spans(start: Any, collector: Collector) -> None:
    async def pieces(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield registry_pb2.DownloadPolicyResponse()

    _, channel = await start(
        {"DownloadPolicy": pieces, "GetPolicyInfo": _info},
        trace_endpoint=collector.address,
        trace_ratio=1,
    )
    registry = registry_pb2_grpc.PolicyRegistryServiceStub(channel)
    wanted = registry_pb2.DownloadPolicyRequest(policy_version="v1")
    assert [piece async for piece in registry.DownloadPolicy(wanted)]
    async with grpc.aio.insecure_channel(channel._target) as plain:
        await health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest())
    await _get_info(channel)
    assert {each.name for each in await collector.have(2)} == {INFO}


@asynccontextmanager
async def tracing_to(address: str, **flags: Any) -> AsyncIterator[Tracing]:
    """What traces everything, and has told it at the end of the block."""
    settings = load(DeskSettings, trace_endpoint=address, trace_ratio=1, **flags)
    tracing = open_tracing("desk", settings)
    assert tracing is not None
    yield tracing
    await asyncio.to_thread(tracing.close)


async def test_a_span_of_a_step_says_which_and_where_in_its_trace_it_is(
    collector: Collector,
) -> None:
    async with tracing_to(collector.address) as tracing:
        with tracing.step("step", STEP):
            tracing.add(action="WAIT", slot_id=None)
            outer = tracing.traceparent()
            with tracing.step("decide", STEP, "client"):
                inner = tracing.traceparent()
            assert outer is not None
            assert tracing.traceparent() == outer != inner
        assert tracing.traceparent() is None
        tracing.tell_step("store", STEP, "consumer", outer, began_ns=5, error="STALE_FENCE")
    decide, step, store = sorted(await collector.have(3), key=lambda span: span.name)
    assert step.parent == ""
    for each, kind in ((step, "INTERNAL"), (decide, "CLIENT"), (store, "CONSUMER")):
        assert each.kind == kind
        assert each.facts.items() >= OF_STEP.items()
    for each in (decide, store):
        assert (each.trace, each.parent) == (step.trace, step.span)
    assert step.facts["leyline.action"] == "WAIT"
    assert (store.began_ns, store.failed, decide.failed) == (5, True, False)


async def test_ids_are_neither_drawn_from_the_process_s_random_numbers_nor_repeated_with_them(
    collector: Collector,
) -> None:
    random.seed(7)
    undisturbed = random.random()
    async with tracing_to(collector.address) as tracing:
        for _ in range(2):
            random.seed(7)
            with tracing.step("step", STEP):
                pass
            assert random.random() == undisturbed
    one, other = await collector.have(2)
    assert one.trace != other.trace


@pytest.mark.parametrize("away", ["nobody", "silent"])
async def test_a_collector_that_is_away_holds_up_neither_calls_nor_the_end(
    start: Any, request: pytest.FixtureRequest, away: str
) -> None:
    endpoint = request.getfixturevalue(away)
    server, channel = await start({"GetPolicyInfo": _info}, trace_endpoint=endpoint, trace_ratio=1)
    for _ in range(20):
        await _get_info(channel, timeout=20)
    # More than there is room for; the library itself would wait half a minute for it.
    for _ in range(5000):
        with server.tracing.step("step", STEP):
            pass
    async with asyncio.timeout(25):
        await asyncio.to_thread(server.tracing.close)
    await _get_info(channel, timeout=20)


async def test_it_says_once_why_traces_are_lost_and_once_that_they_are_taken_again(
    nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    random.seed(7)
    undisturbed = random.random()
    random.seed(7)
    async with tracing_to(nobody) as tracing:
        with structlog.testing.capture_logs() as lines:
            await _traced(tracing, until=lambda: len(lines) == 1)
            assert lines[0]["event"] == "traces are lost"
            assert lines[0]["reason"].startswith("UNAVAILABLE")
            async with collecting(listen=nobody):
                await _traced(tracing, until=lambda: len(lines) == 2)
                assert lines[1]["event"] == "traces are taken again"
    assert not caplog.records, "the library says nothing of its own"
    assert random.random() == undisturbed


async def _traced(tracing: Tracing, until: Callable[[], bool]) -> None:
    """Trace steps until something holds."""
    while not until():
        with tracing.step("step", STEP):
            await asyncio.sleep(0.1)


async def test_over_tls_it_goes_to_a_collector_that_it_trusts_without_the_token(
    certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificates.other_ca.read_bytes())
    credentials = tls.server_credentials(certificates.chain, certificates.key, None)
    async with (
        collecting(credentials) as collector,
        tracing_to(collector.address, peer_ca=authority, peer_token=tmp_path / "token") as tracing,
    ):
        with structlog.testing.capture_logs() as lines:
            with tracing.step("distrusted", STEP):
                pass
            while not lines:  # noqa: ASYNC110 - it is in another thread that the span is sent
                await asyncio.sleep(0.05)
            # Certificates that are replaced are taken up, as anywhere else.
            authority.write_bytes(certificates.ca.read_bytes())
            with tracing.step("trusted", STEP):
                pass
            spans = await collector.have(1)
    assert [span.name for span in spans] == ["trusted"]
    assert [line["event"] for line in lines[:2]] == ["traces are lost", "credentials read"]
    assert "authorization" not in dict(collector.metadata)


async def test_what_is_told_on_this_machine_goes_through_no_proxy(
    collector: Collector, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for unset in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(unset, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{silent}")
    async with tracing_to(collector.address) as tracing:
        with tracing.step("step", STEP):
            pass
        await collector.have(1)


def test_a_certificate_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    settings = load(DeskSettings, trace_endpoint="127.0.0.1:1", peer_ca=tmp_path / "nowhere.pem")
    with pytest.raises(ConfigurationError, match=r"nowhere\.pem cannot be read"):
        open_tracing("desk", settings)


def test_traces_go_to_another_machine_in_plain_text_only_where_that_is_allowed() -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(DeskSettings, trace_endpoint="collector.example:4317")
    assert "LEYLINE_DESK_TRACE_ENDPOINT=collector.example:4317" in str(refused.value)
    assert "LEYLINE_DESK_PEER_CA" in str(refused.value)
    for allowed in ({"insecure": True}, {"peer_ca": Path("ca.pem")}):
        settings = load(DeskSettings, trace_endpoint="collector.example:4317", **allowed)
        assert str(settings.trace_endpoint) == "collector.example:4317"
    with pytest.raises(ConfigurationError, match="must be HOST:PORT"):
        load(DeskSettings, trace_endpoint="unix:/run/collector.sock")


async def test_a_library_that_is_disabled_by_its_own_variable_keeps_no_call_from_anything(
    start: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    server, channel = await start(
        {"GetPolicyInfo": _info}, trace_endpoint=collector.address, trace_ratio=1
    )
    await _get_info(channel)
    with server.tracing.step("step", STEP):
        assert server.tracing.traceparent() is None


def test_where_there_is_no_endpoint_nothing_is_traced() -> None:
    assert open_tracing("desk", load(DeskSettings)) is None
