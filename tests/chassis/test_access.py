"""Who is let in: by token and scope, by certificate, and after either was replaced."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]
    reflection_pb2,
    reflection_pb2_grpc,
)
from tests.chassis.asking import ASK, METHODS, SCOPES, bearer, line, outcome
from tests.scraping import scraped

from chassis.access import Tokens
from chassis.channel import ChannelSettings, open_channel
from chassis.errors import ErrorCode, LeylineError
from chassis.process import ConfigurationError
from chassis.status import from_rpc_error
from leyline.channel import Credentials
from leyline.v1 import experience_pb2, experience_pb2_grpc, policy_pb2, policy_pb2_grpc


async def test_a_method_is_for_the_scopes_that_the_contract_says_and_for_operators(
    start: Any, tokens: Path
) -> None:
    _, channel = await start(METHODS, tokens=tokens)
    policy = policy_pb2_grpc.PolicyServiceStub(channel)
    experience = experience_pb2_grpc.ExperienceServiceStub(channel)
    asked = experience_pb2.GetStatisticsRequest()
    for scope in SCOPES:
        allowed = "OK" if scope != "policy" else "SCOPE_MISSING"
        assert await outcome(policy.GetPolicyInfo(ASK, metadata=bearer(scope))) == allowed
        allowed = "OK" if scope == "operator" else "SCOPE_MISSING"
        assert await outcome(experience.GetStatistics(asked, metadata=bearer(scope))) == allowed


async def test_whoever_shows_no_token_or_one_that_is_not_known_is_not_let_in(
    start: Any, tokens: Path
) -> None:
    _, channel = await start(METHODS, tokens=tokens)
    stub = policy_pb2_grpc.PolicyServiceStub(channel)
    for metadata in ((), bearer("another"), bearer(""), (("authorization", "Basic trainer"),)):
        assert await outcome(stub.GetPolicyInfo(ASK, metadata=metadata)) == "UNAUTHENTICATED"
    stream = stub.StreamDecisions(metadata=bearer("policy"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.read()
    error = from_rpc_error(refused.value)
    assert error.error_code is ErrorCode.SCOPE_MISSING
    assert error.message == (
        "/leyline.v1.PolicyService/StreamDecisions is not for the token of 'a-policy',"
        " whose scopes are: policy"
    )


def test_what_the_contract_does_not_know_is_for_operators(tokens: Path) -> None:
    known = Tokens(tokens)
    for method in ("/somebody.Else/Do", "/leyline.v1.PolicyService/NoSuchMethod"):
        assert known.admit(method, bearer("operator")) is not None
        for scope in ("trainer", "policy"):
            with pytest.raises(LeylineError) as refused:
                known.admit(method, bearer(scope))
            assert refused.value.code is ErrorCode.SCOPE_MISSING


async def test_who_was_refused_stands_in_the_log(
    start: Any, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, channel = await start(METHODS, tokens=tokens)
    stub = policy_pb2_grpc.PolicyServiceStub(channel)
    for metadata in (bearer("policy"), bearer("another"), ()):
        await outcome(stub.GetPolicyInfo(ASK, metadata=metadata))
    lines = [each for each in capsys.readouterr().out.splitlines() if " call " in each]
    assert len(lines) == 3
    assert all("peer=127.0.0.1" in each for each in lines)
    assert ["caller=a-policy" in each for each in lines] == [True, False, False]
    assert ["code=PERMISSION_DENIED" in each for each in lines] == [True, False, False]


async def test_health_needs_no_token_and_reflection_any(start: Any, tokens: Path) -> None:
    _, channel = await start(METHODS, tokens=tokens)
    request = health_pb2.HealthCheckRequest()
    assert await outcome(health_pb2_grpc.HealthStub(channel).Check(request)) == "OK"
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    assert await outcome(reflected().read()) == "UNAUTHENTICATED"
    assert await outcome(reflected(iter([asked]), metadata=bearer("policy")).read()) == "OK"


def replace(path: Path, text: str) -> None:
    """Put something else into a file."""
    path.write_text(text)


async def test_a_token_is_replaced_on_both_sides_without_a_restart(
    start: Any, tokens: Path, tmp_path: Path
) -> None:
    own = tmp_path / "token"
    replace(own, "trainer\n")
    _, channel = await start(METHODS, tokens=tokens, peer_token=own)
    stub = policy_pb2_grpc.PolicyServiceStub(channel)
    assert await outcome(stub.GetPolicyInfo(ASK)) == "OK"
    replace(tokens, line("trainer", "trainer", "the-next-one"))
    assert await outcome(stub.GetPolicyInfo(ASK)) == "UNAUTHENTICATED"
    replace(own, "the-next-one\n")
    assert await outcome(stub.GetPolicyInfo(ASK)) == "OK"


def test_a_file_that_is_broken_while_the_server_runs_changes_nothing(tokens: Path) -> None:
    known = Tokens(tokens)
    method = "/leyline.v1.PolicyService/Decide"
    tokens.write_text("half a li")
    assert known.admit(method, bearer("trainer")) is not None
    tokens.unlink()
    assert known.admit(method, bearer("trainer")) is not None
    tokens.write_text("")
    with pytest.raises(LeylineError):
        known.admit(method, bearer("trainer"))


@pytest.mark.parametrize(
    "written",
    [
        "alice operator",
        "alice operator sha256:12",
        f"alice king sha256:{'0' * 64}",
        f"alice sha256:{'0' * 64}",
        "operator",
    ],
)
def test_a_line_that_is_none_is_refused_at_the_start_by_its_number(
    tmp_path: Path, written: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# fine\n\n{written}\n")
    with pytest.raises(ConfigurationError, match=r"tokens, line 3: must be a name, scopes out of"):
        Tokens(path)


def test_tokens_that_are_not_there_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Tokens(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="nowhere cannot be read"):
        open_channel(ChannelSettings("127.0.0.1:1", Credentials(token=tmp_path / "nowhere")))


class Stack:
    """An authority and what it has signed, in files that another authority may overwrite."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.chain, self.key = (folder / name for name in ("ca", "chain", "key"))
        self.own_chain, self.own_key = folder / "own-chain", folder / "own-key"
        self.renew()

    def renew(self, *, server: bool = True, client: bool = True) -> None:
        """Sign everything anew."""
        authority = trustme.CA()
        issued: Callable[[str], trustme.LeafCert] = authority.issue_cert
        if server:
            leaf = issued("127.0.0.1")
            self.chain.write_bytes(leaf.cert_chain_pems[0].bytes())
            self.key.write_bytes(leaf.private_key_pem.bytes())
        if client:
            leaf = issued("client")
            self.own_chain.write_bytes(leaf.cert_chain_pems[0].bytes())
            self.own_key.write_bytes(leaf.private_key_pem.bytes())
        self.ca.write_bytes(authority.cert_pem.bytes())

    def channel(self, target: object) -> grpc.aio.Channel:
        return open_channel(
            ChannelSettings(str(target), Credentials(self.ca, self.own_chain, self.own_key))
        )


async def test_certificates_are_replaced_on_both_sides_without_a_restart(
    start: Any, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    server, first = await start(
        METHODS,
        tls_certificate=stack.chain,
        tls_key=stack.key,
        tls_client_ca=stack.ca,
        peer_ca=stack.ca,
        metrics_listen="127.0.0.1:0",
    )
    long_lived = policy_pb2_grpc.PolicyServiceStub(first).StreamDecisions()
    await long_lived.write(policy_pb2.StreamDecisionsRequest())
    await long_lived.read()
    old = stack.ca.read_bytes()
    stack.renew()
    # The same channel connects anew, with what the files hold now.
    assert await outcome(policy_pb2_grpc.PolicyServiceStub(first).GetPolicyInfo(ASK)) == "OK"
    await long_lived.write(policy_pb2.StreamDecisionsRequest())
    assert await long_lived.read() is not grpc.aio.EOF
    async with stack.channel(server.address) as later:
        assert await outcome(policy_pb2_grpc.PolicyServiceStub(later).GetPolicyInfo(ASK)) == "OK"
    context = ssl.create_default_context(cafile=str(stack.ca))
    context.load_cert_chain(stack.own_chain, stack.own_key)
    assert "process_open_fds" in (await scraped(server.metrics_address, context)).text
    stack.ca.write_bytes(old)
    await asyncio.sleep(0)
    async with stack.channel(server.address) as astray:
        call = policy_pb2_grpc.PolicyServiceStub(astray).GetPolicyInfo(ASK, timeout=5)
        assert await outcome(call) != "OK"


def test_what_is_wrong_with_a_file_is_logged_once_and_a_file_that_may_be_read_again_counts(
    tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Tokens(tokens)
    method = "/leyline.v1.PolicyService/Decide"
    kept = tokens.read_text()
    tokens.write_text("half a li")
    for _ in range(3):
        assert known.admit(method, bearer("trainer")) is not None
    assert capsys.readouterr().out.count("tokens not read") == 1
    tokens.write_text(kept)
    assert known.admit(method, bearer("trainer")) is not None
    assert "tokens read" in capsys.readouterr().out


async def test_a_token_with_a_blank_in_it_is_none(tmp_path: Path) -> None:
    own = tmp_path / "token"
    own.write_text("two words")
    with pytest.raises(ConfigurationError, match="holds no bearer token"):
        open_channel(ChannelSettings("127.0.0.1:1", Credentials(token=own)))
