"""The policy server in Go, asked by a trainer, and beside the one in Python."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.conformance import restart
from tests.integration.go import ROOT, build, needs_go
from tests.integration.stack import LEYLINE, Stack, eventually, free_port
from tests.scraping import OPENMETRICS, scraped
from tests.tamiyo.queries import query

from chassis.status import RemoteError, from_rpc_error, from_status
from leyline.client import Trainer
from leyline.observation import EXTENDED_SPEC
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.policy_pb2 import DecideRequest, GetPolicyInfoRequest, StreamDecisionsRequest
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from leyline.v1.trainer_pb2 import RUN_STATE_COMPLETED, HostSpec, RunSpec

EPISODES, HORIZON = 4, 30
SERVICE = "leyline.v1.PolicyService"

pytestmark = [needs_go, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server, built."""
    return build("services/tamiyo_go", tmp_path_factory.mktemp("go"))


@contextlib.contextmanager
def serving(program: Path, directory: Path, *flags: str) -> Iterator[str]:
    """Where the server listens. It ends well when it is told to."""
    port_file, log = directory / "go.address", directory / "go.log"
    command = [str(program), "--listen", "127.0.0.1:0", "--port-file", str(port_file), *flags]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            while not port_file.exists():
                assert process.poll() is None, log.read_text()
            yield port_file.read_text().strip()
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(20)
    assert status == 0, log.read_text()


@pytest.fixture
def address(program: Path, tmp_path: Path) -> Iterator[str]:
    """Where it listens."""
    with serving(program, tmp_path) as address:
        yield address


async def test_a_run_is_decided_by_the_go_server_by_changing_one_setting(
    stack: Stack, address: str
) -> None:
    stack.decides_at = address
    await stack.up("simic", "kasmina")
    spec = RunSpec(host=HostSpec(name="simulator"), episodes=EPISODES, seed=3)
    async with Trainer(stack.addresses["kasmina"]) as trainer:
        run = await trainer.start(spec, "by-go")
        decided = [
            event.step_decided
            async for event in trainer.watch(run.run_id)
            if event.HasField("step_decided")
        ]
        assert (await trainer.get(run.run_id)).state == RUN_STATE_COMPLETED
    assert {step.decision.policy_version for step in decided} == {"heuristic-1"}
    await eventually(
        lambda: stack.count(stack.journal, "SELECT count(*) FROM outbox") == 0, "the outbox drains"
    )
    stored = stack.ask(
        stack.store,
        """SELECT decider, policy_version, count(*) FROM transitions
           GROUP BY decider, policy_version""",
        say=True,
    )
    assert stored == [(1, "heuristic-1", EPISODES * HORIZON)], "the policy decided every step"
    assert len({step.decision.action_type for step in decided}) > 2, "and something grew"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """The file of a server that knows a trainer, by the token `trainer`, and a policy, likewise."""
    path = tmp_path / "tokens"
    with path.open("w") as file:
        for scope in ("trainer", "policy"):
            file.write(f"a-{scope} {scope} sha256:{hashlib.sha256(scope.encode()).hexdigest()}\n")
    return path


async def test_the_go_server_passes_conformance_in_full(
    program: Path, tmp_path: Path, tokens: Path
) -> None:
    address, pid_file, port_file = f"127.0.0.1:{free_port()}", tmp_path / "pid", tmp_path / "port"
    server = [str(program), "--listen", address, "--port-file", str(port_file)]
    server += ["--tokens", str(tokens)]
    token = tmp_path / "token"
    token.write_text("trainer\n")
    again = [sys.executable, "-m", "tests.conformance.restart", str(pid_file), *server]
    restart.main(pid_file, server)
    try:
        await eventually(port_file.exists, "the server listens")
        suite = await asyncio.create_subprocess_exec(
            *(LEYLINE, "conformance", address, "--level", "full", "--json"),
            *("--restart-cmd", shlex.join(again), "--token-file", str(token)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        report = json.loads((await suite.communicate())[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
    failed = [case for case in report["cases"] if case["outcome"] == "failed"]
    assert not failed
    passed = {case["id"] for case in report["cases"] if case["outcome"] == "passed"}
    assert passed >= {
        *("operations.drain", "operations.restart", "streams.as-decide"),
        *("security.no-token", "security.wrong-token"),
    }


def _another_spec(asked: DecisionQuery) -> None:
    asked.spec_fingerprint = EXTENDED_SPEC.fingerprint


def _another_version(asked: DecisionQuery) -> None:
    asked.policy_version = "mlp-000000000000"


def _nan(asked: DecisionQuery) -> None:
    asked.snapshot.accuracy_history[0] = math.nan


def _no_stage(asked: DecisionQuery) -> None:
    asked.snapshot.slots[1].stage = 0  # type: ignore[assignment]
    asked.snapshot.slots[2].alpha = 7


def _same_slot_twice(asked: DecisionQuery) -> None:
    asked.snapshot.slots[1].slot_id = asked.snapshot.slots[0].slot_id


def _no_snapshot(asked: DecisionQuery) -> None:
    asked.ClearField("snapshot")
    asked.mode = 0  # type: ignore[assignment]


SPOILT = [_another_spec, _another_version, _nan, _no_stage, _same_slot_twice, _no_snapshot]


def refused(policy: PolicyServiceStub, change: Callable[[DecisionQuery], None]) -> RemoteError:
    """What a query gets from Decide, which is what it gets on a stream."""
    asked = query(3)
    change(asked)
    called = (("x-request-id", "the-same"),)
    with pytest.raises(grpc.RpcError) as caught:
        policy.Decide(DecideRequest(query=asked), metadata=called)
    alone = from_rpc_error(caught.value)  # type: ignore[arg-type]
    stream = policy.StreamDecisions(iter([StreamDecisionsRequest(query=asked)]), metadata=called)
    # To its end: one that is left is cancelled, or has ended before.
    [answer] = stream
    assert from_status(answer.error) == alone
    return alone


async def test_the_servers_in_go_and_python_say_the_same(tmp_path: Path, address: str) -> None:
    python = Stack(tmp_path, policy="heuristic")
    with closing(python):
        await python.up("tamiyo")
        await asyncio.to_thread(compare, address, python.addresses["tamiyo"])


def compare(*addresses: str) -> None:
    """Asks both servers the same."""
    channels = [grpc.insecure_channel(address) for address in addresses]
    go, python = (PolicyServiceStub(channel) for channel in channels)
    infos = [policy.GetPolicyInfo(GetPolicyInfoRequest()) for policy in (go, python)]
    assert infos[0].implementation != infos[1].implementation
    for info in infos:
        info.ClearField("implementation")
    assert infos[0] == infos[1]
    for step in range(50):
        request = DecideRequest(query=query(step, slots=1 + step % 6))
        assert go.Decide(request) == python.Decide(request)
    for change in SPOILT:
        assert refused(go, change) == refused(python, change)
    for channel in channels:
        channel.close()


async def test_the_servers_in_go_and_python_turn_the_same_callers_away(
    tmp_path: Path, program: Path, tokens: Path
) -> None:
    python = Stack(tmp_path, policy="heuristic")
    with closing(python), serving(program, tmp_path, "--tokens", str(tokens)) as go:
        await python.up("tamiyo", LEYLINE_TAMIYO_TOKENS=str(tokens))
        for shown in (None, "Basic trainer", "Bearer another", "Bearer policy"):
            theirs = python.addresses["tamiyo"]
            said = [await asyncio.to_thread(turned_away, each, shown) for each in (go, theirs)]
            assert said[0] == said[1]


async def test_the_servers_in_go_and_python_tell_prometheus_the_same(
    tmp_path: Path, program: Path
) -> None:
    metrics = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    python = Stack(tmp_path, policy="heuristic")
    with closing(python), serving(program, tmp_path, "--metrics-listen", metrics[0]) as go:
        await python.up("tamiyo", LEYLINE_TAMIYO_METRICS_LISTEN=metrics[1])
        await asyncio.to_thread(compare, go, python.addresses["tamiyo"])
        told = [await counted(address) for address in metrics]
    # The one in Go has no shadow.
    shadow = {each for each in told[1] if each[0].startswith("leyline_shadow_decisions")}
    assert told[0] == {each: value for each, value in told[1].items() if each not in shadow}
    assert ("leyline_decisions_total", frozenset({("action_type", "CULL")})) in told[0]


Series = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels."""


async def counted(address: str) -> dict[Series, float | None]:
    """What a server shows of calls of the policy service and of decisions, once all have ended.
    None stands for what depends on the time that they took.
    """
    while True:
        page = (await scraped(address, accept=OPENMETRICS)).text
        shown = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            if sample.name.endswith(("_total", "_count"))
            else None
            for family in text_string_to_metric_families(page)  # type: ignore[no-untyped-call]
            if family.name.startswith(("grpc_server_", "leyline_"))
            for sample in family.samples
            if sample.labels.get("grpc_service", SERVICE) == SERVICE
        }
        started, handled = (
            sum(value or 0 for (name, _), value in shown.items() if name == wanted)
            for wanted in ("grpc_server_started_total", "grpc_server_handled_total")
        )
        if started == handled:
            return shown


def turned_away(address: str, shown: str | None) -> RemoteError:
    """What a caller is told who shows this."""
    called = (("x-request-id", "the-same"), *((("authorization", shown),) if shown else ()))
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        PolicyServiceStub(channel).GetPolicyInfo(GetPolicyInfoRequest(), metadata=called)
    return from_rpc_error(caught.value)  # type: ignore[arg-type]
