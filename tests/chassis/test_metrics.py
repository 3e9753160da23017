"""What Prometheus is told: calls by method and code, over HTTP or HTTPS, to whom it may be told."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import socketserver
import ssl
import urllib.error
from collections.abc import Iterator
from http.client import RemoteDisconnected
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from tests.chassis.certificates import Certificates
from tests.scraping import scraped

from chassis.errors import ErrorCode, LeylineError
from chassis.metrics import DiskMetrics
from chassis.process import AddressInUse, ConfigurationError
from chassis.server import Server
from chassis.settings import ServerSettings, load
from leyline.v1 import policy_pb2, policy_pb2_grpc

_ROOT = Path(__file__).parents[2]

GET_INFO = {
    "grpc_type": "unary",
    "grpc_service": "leyline.v1.PolicyService",
    "grpc_method": "GetPolicyInfo",
}


async def _info(_request: Any, _context: Any) -> policy_pb2.GetPolicyInfoResponse:
    return policy_pb2.GetPolicyInfoResponse(policy_version="p-1")


async def _refuses(_request: Any, _context: Any) -> policy_pb2.GetPolicyInfoResponse:
    raise LeylineError(ErrorCode.POLICY_NOT_READY, problem="none was registered")


async def test_calls_are_counted_by_method_and_code(start: Any) -> None:
    server, channel = await start({"GetPolicyInfo": _info}, metrics_listen="127.0.0.1:0")
    stub = policy_pb2_grpc.PolicyServiceStub(channel)
    for _ in range(3):
        await stub.GetPolicyInfo(policy_pb2.GetPolicyInfoRequest())
    shown = await scraped(server.metrics_address)
    assert shown.value("grpc_server_started_total", **GET_INFO) == 3
    assert shown.value("grpc_server_handled_total", **GET_INFO, grpc_code="OK") == 3
    assert shown.value("grpc_server_handling_seconds_count", **GET_INFO) == 3
    assert shown.value("process_open_fds") is not None


async def test_the_room_on_a_disk_is_shown_as_it_is_now(start: Any, tmp_path: Path) -> None:
    server, _ = await start({}, metrics_listen="127.0.0.1:0")
    server.show(DiskMetrics(tmp_path))
    shown = await scraped(server.metrics_address)
    size, free = (shown.value(f"leyline_disk_{what}_bytes") for what in ("size", "free"))
    disk = os.statvfs(tmp_path)
    assert size == disk.f_blocks * disk.f_frsize
    assert free is not None
    assert 0 < free <= size


async def test_a_refusal_is_counted_under_its_code(start: Any) -> None:
    server, channel = await start({"GetPolicyInfo": _refuses}, metrics_listen="127.0.0.1:0")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await policy_pb2_grpc.PolicyServiceStub(channel).GetPolicyInfo(
            policy_pb2.GetPolicyInfoRequest()
        )
    labels = {**GET_INFO, "grpc_code": refused.value.code().name}
    # It is counted once the client has been told.
    async with asyncio.timeout(60):
        while True:
            shown = await scraped(server.metrics_address)
            if shown.value("grpc_server_handled_total", **labels) == 1:
                return


class Broken(Collector):
    """Knows nothing when it is asked."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("leyline_half", "Shown by nobody.", value=1)
        raise ZeroDivisionError


async def test_what_cannot_be_found_out_is_missing_and_nothing_else(start: Any) -> None:
    server, _ = await start(metrics_listen="127.0.0.1:0")
    server.show(Broken())
    for _ in range(2):
        shown = await scraped(server.metrics_address)
        assert shown.value("leyline_half") is None
        assert shown.value("process_open_fds") is not None


async def test_there_is_one_page(start: Any) -> None:
    server, _ = await start(metrics_listen="127.0.0.1:0")
    for path, status in (("/", 404), ("/metrics", 200), ("/metrics?a=b", 200), ("/metrics/", 404)):
        assert await _status(server.metrics_address, path) == status


async def _status(address: Any, path: str) -> int:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


async def test_when_all_places_are_taken_further_scrapers_are_hung_up_on(start: Any) -> None:
    server, _ = await start(metrics_listen="127.0.0.1:0")
    address = server.metrics_address
    waiting = [await asyncio.open_connection(address.host, address.port) for _ in range(8)]
    with pytest.raises((urllib.error.URLError, ConnectionError, RemoteDisconnected)):
        await scraped(address)
    for _, writer in waiting:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(60):
        while not await _is_answered(address):
            pass


async def test_scrapers_that_say_nothing_keep_their_places_for_two_seconds(start: Any) -> None:
    server, _ = await start(metrics_listen="127.0.0.1:0")
    address = server.metrics_address
    silent = [await asyncio.open_connection(address.host, address.port) for _ in range(8)]
    async with asyncio.timeout(8):
        while not await _is_answered(address):
            pass
    for _, writer in silent:
        writer.close()


async def test_a_place_that_no_thread_was_to_be_had_for_is_free_again(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_no_thread(*_arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    server, _ = await start(metrics_listen="127.0.0.1:0")
    with monkeypatch.context() as patched:
        patched.setattr(socketserver.ThreadingMixIn, "process_request", start_no_thread)
        for _ in range(8):
            assert not await _is_answered(server.metrics_address)
    assert await _is_answered(server.metrics_address)


async def _is_answered(address: Any) -> bool:
    try:
        await scraped(address)
    except (urllib.error.URLError, ConnectionError, RemoteDisconnected):
        return False
    return True


async def test_nothing_is_shown_where_nobody_asked_for_it(start: Any) -> None:
    server, _ = await start()
    assert server.metrics_address is None


async def test_a_scraper_that_says_nothing_keeps_nobody_waiting(
    start: Any, certificates: Certificates
) -> None:
    server, _ = await start(
        metrics_listen="127.0.0.1:0",
        tls_certificate=certificates.chain,
        tls_key=certificates.key,
        peer_ca=certificates.ca,
    )
    trusting = ssl.create_default_context(cafile=str(certificates.ca))
    with socket.create_connection(("127.0.0.1", server.metrics_address.port)):
        assert "grpc_server_handled_total" in (await scraped(server.metrics_address, trusting)).text


async def test_where_clients_need_a_certificate_a_scraper_does_too(
    start: Any, certificates: Certificates
) -> None:
    server, _ = await start(
        metrics_listen="127.0.0.1:0",
        tls_certificate=certificates.chain,
        tls_key=certificates.key,
        tls_client_ca=certificates.ca,
        peer_ca=certificates.ca,
    )
    nameless = ssl.create_default_context(cafile=str(certificates.ca))
    with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
        await scraped(server.metrics_address, nameless)
    named = ssl.create_default_context(cafile=str(certificates.ca))
    named.load_cert_chain(certificates.chain, certificates.key)
    assert "grpc_server_handled_total" in (await scraped(server.metrics_address, named)).text


async def test_an_address_in_use_is_said_by_name(desk_settings: type[ServerSettings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=f"{taken}.*--metrics-listen"):
            await Server(load(desk_settings, metrics_listen=taken), []).start()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("0.0.0.0:9464", "would take plain text from other machines"),
        ("unix:/run/metrics", "must be HOST:PORT"),
        ("nonsense", "must be HOST:PORT"),
        ("127.0.0.1:50099", "is where gRPC listens"),
    ],
)
def test_an_unfit_address_is_refused(
    desk_settings: type[ServerSettings], wanted: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load(desk_settings, listen="127.0.0.1:50099", metrics_listen=wanted)


def test_every_metric_is_documented_and_nothing_else() -> None:
    services = _ROOT / "services"
    in_go = (each for each in services.rglob("*.go") if not each.stem.endswith("_test"))
    written = {
        name
        for source in (*services.rglob("*.py"), *in_go)
        for name in re.findall(r'"(leyline_[a-z_]+|grpc_server_[a-z_]+)"', source.read_text())
    }
    page = (_ROOT / "docs" / "metrics.md").read_text()
    documented = set(
        re.findall(r"^\| `(leyline_[a-z_]+|grpc_server_[a-z_]+)` \|", page, re.MULTILINE)
    )
    of_learner = {name for name in documented if name.startswith("leyline_learner_")}
    assert _families(documented - of_learner) == _families(written)


def _families(names: set[str]) -> set[str]:
    return {name.removesuffix("_total") for name in names}
