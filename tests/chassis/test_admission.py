"""What becomes of a call before it is anybody's: no message, no token, or somebody else's token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.chassis.asking import ASK, METHODS, bearer, outcome

from chassis.callers import STRANGERS_WATCHES
from chassis.channel import ChannelSettings, open_channel
from leyline.channel import Credentials
from leyline.v1 import policy_pb2_grpc

SILENT = "/leyline.v1.PolicyService/GetPolicyInfo"
SILENT_CALL = {
    "grpc_type": "unary",
    "grpc_service": "leyline.v1.PolicyService",
    "grpc_method": "GetPolicyInfo",
}


def silent(channel: Any, metadata: Any = ()) -> Any:
    """A call of a unary method whose message never comes."""

    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    return channel.stream_unary(SILENT)(never(), metadata=metadata)


async def test_a_stranger_is_refused_before_his_message_has_come(start: Any, tokens: Path) -> None:
    _, channel = await start(METHODS, tokens=tokens)
    for metadata in ((), bearer("another")):
        async with asyncio.timeout(60):
            assert await outcome(silent(channel, metadata)) == "UNAUTHENTICATED"


async def test_a_call_whose_message_does_not_come_is_counted_and_ends(
    start: Any, tokens: Path
) -> None:
    server, channel = await start(
        METHODS, tokens=tokens, max_concurrent_rpcs_per_caller=1, default_deadline_s=1
    )
    waiting = asyncio.ensure_future(outcome(silent(channel, bearer("trainer"))))
    stub = policy_pb2_grpc.PolicyServiceStub(channel)
    health = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(60):
        while not server.metrics.get_sample_value("grpc_server_started_total", SILENT_CALL):
            await health.Check(health_pb2.HealthCheckRequest())
        said = await outcome(stub.GetPolicyInfo(ASK, metadata=bearer("trainer")))
        assert said == "TOO_MANY_CALLS_OF_CALLER"
        assert await outcome(stub.GetPolicyInfo(ASK, metadata=bearer("operator"))) == "OK"
        assert await waiting == "DEADLINE_EXCEEDED"
    assert await outcome(stub.GetPolicyInfo(ASK, metadata=bearer("trainer"))) == "OK"


async def test_a_call_that_ends_without_its_message_is_refused(start: Any) -> None:
    _, channel = await start(METHODS)
    async with asyncio.timeout(60):
        assert await outcome(channel.stream_unary(SILENT)(iter(()))) == "INVALID_ARGUMENT"


async def watching(channel: grpc.aio.Channel, metadata: Any = ()) -> tuple[str, Any]:
    """A watch of health, and whether it was let in."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), metadata=metadata
    )
    return await outcome(watch.read()), watch


async def test_watches_of_strangers_keep_nobody_out_who_has_a_token(
    start: Any, tokens: Path
) -> None:
    _, channel = await start(
        METHODS, tokens=tokens, max_concurrent_rpcs=2, max_concurrent_rpcs_per_caller=1
    )
    strangers = [await watching(channel) for _ in range(STRANGERS_WATCHES + 1)]
    said = [each for each, _ in strangers]
    assert said == ["OK"] * STRANGERS_WATCHES + ["TOO_MANY_CALLS_OF_CALLER"]
    stub = policy_pb2_grpc.PolicyServiceStub(channel)
    assert await outcome(stub.GetPolicyInfo(ASK, metadata=bearer("operator"))) == "OK"
    request = health_pb2.HealthCheckRequest()
    assert await outcome(health_pb2_grpc.HealthStub(channel).Check(request)) == "OK"
    # Whoever says who he is watches at his own expense.
    known, watch = await watching(channel, bearer("operator"))
    assert known == "OK"
    said_then = await outcome(stub.GetPolicyInfo(ASK, metadata=bearer("operator")))
    assert said_then == "TOO_MANY_CALLS_OF_CALLER"
    for each in (watch, *(watch for _, watch in strangers)):
        each.cancel()


class Pki:
    """An authority, and members whose certificates name them in one of two ways."""

    def __init__(self, folder: Path) -> None:
        self._authority, self._folder = trustme.CA(), folder
        self.ca = folder / "authority"
        self.ca.write_bytes(self._authority.cert_pem.bytes())
        self.chain, self.key = self.member("server", "127.0.0.1")

    def member(self, name: str, *alternatives: str, common: str | None = None) -> tuple[Path, Path]:
        leaf = self._authority.issue_cert(*alternatives, common_name=common)
        chain, key = self._folder / f"{name}-chain", self._folder / f"{name}-key"
        chain.write_bytes(leaf.cert_chain_pems[0].bytes())
        key.write_bytes(leaf.private_key_pem.bytes())
        return chain, key

    def shown(self, name: str, token: str, *alternatives: str, common: str | None = None) -> Any:
        """Credentials of somebody who shows a certificate and a token."""
        chain, key = self.member(name, *alternatives, common=common)
        file = self._folder / f"{name}-token"
        file.write_text(token)
        return Credentials(self.ca, chain, key, file)


async def test_a_token_is_taken_only_with_a_certificate_of_its_name(
    start: Any, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pki = Pki(tmp_path)
    server, _ = await start(
        METHODS,
        tokens=tokens,
        tls_certificate=pki.chain,
        tls_key=pki.key,
        tls_client_ca=pki.ca,
        peer_ca=pki.ca,
    )
    for shown, welcome in (
        (pki.shown("own", "trainer", "somewhere.org", common="a-trainer"), True),
        (pki.shown("modern", "trainer", "somewhere.org", "a-trainer"), True),
        (pki.shown("taken-over", "operator", common="a-policy"), False),
        (pki.shown("without-token", "operator", common="prometheus"), False),
        (pki.shown("two-names", "operator", "a-operator", common="a-policy"), False),
        (pki.shown("nameless", "operator", "10.0.0.7"), False),
    ):
        async with open_channel(ChannelSettings(str(server.address), shown)) as channel:
            said = await outcome(policy_pb2_grpc.PolicyServiceStub(channel).GetPolicyInfo(ASK))
            assert said == ("OK" if welcome else "UNAUTHENTICATED"), shown
            health = health_pb2_grpc.HealthStub(channel)
            assert await outcome(health.Check(health_pb2.HealthCheckRequest())) == "OK"
    [line] = [each for each in capsys.readouterr().out.splitlines() if "prometheus" in each]
    assert "caller=a-operator" in line
    assert "certificate=prometheus" in line
