"""The suite passes what keeps the contract, and finds what does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trustme
from tests.conformance import restart
from tests.conformance.implementation import Implementation, served
from tests.conformance.mutants import MUTANTS, THREE_SLOTS, TOKEN, Mutant
from tests.tamiyo.networks import Network
from tests.tamiyo.registry_server import RegistryServer
from tests.tamiyo.running import running, serves

from leyline.channel import Credentials
from leyline.cli.application import run
from leyline.conformance import (
    Case,
    Level,
    Outcome,
    Result,
    Target,
    Unreachable,
    load_cases,
    run_cases,
)
from leyline.conformance.checks import CHECKS

CASES = {case.id: case for case in load_cases()}
IN_PROCESS = [mutant for mutant in MUTANTS if not mutant.case.startswith("operations.")]
AS_PROCESS = [mutant for mutant in MUTANTS if mutant.case.startswith("operations.")]


async def results(target: Target, cases: Sequence[Case] | None = None) -> dict[str, Result]:
    target = await is_up(target)
    chosen = list(CASES.values()) if cases is None else cases
    return {result.case.id: result async for result in run_cases(target, chosen)}


async def is_up(target: Target) -> Target:
    """Wait until a process that was just started answers."""
    while True:
        try:
            return await target.introduced()
        except Unreachable:
            await asyncio.sleep(0.1)


def failures(ran: dict[str, Result]) -> dict[str, str]:
    return {name: it.message for name, it in ran.items() if it.outcome is Outcome.FAILED}


def skipped(ran: dict[str, Result]) -> set[str]:
    return {name for name, it in ran.items() if it.outcome is Outcome.SKIPPED}


@contextmanager
def process(directory: Path, *command: str) -> Iterator[Target]:
    """Run a server, with a command that starts it again where it was: a port could be taken."""
    address = f"unix:{directory}/socket"
    pid_file = directory / "pid"
    started = [sys.executable, "-m", *(part.replace("ADDRESS", address) for part in command)]
    again = [sys.executable, "-m", "tests.conformance.restart", str(pid_file), *started]
    restart.main(pid_file, started)
    try:
        yield Target(address, restart_command=shlex.join(again))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        pid_file.unlink()


@asynccontextmanager
async def implementation(mutant: Mutant) -> AsyncIterator[Target]:
    """Serve what is broken, as what it says that it is."""
    async with served(mutant.kind(**mutant.settings)) as (address, _):
        # By it mutants are known that never answer.
        token = mutant.settings.get("token")
        yield Target(address, token=token, stream_timeout_s=10)


def test_every_case_has_its_check_and_every_check_its_case() -> None:
    assert {case.check for case in CASES.values()} == set(CHECKS)
    assert len(CASES) == len(load_cases())
    assert {case.level for case in CASES.values()} == {"core", "full"}
    assert all(case.level == "core" for case in load_cases(Level.CORE))


@pytest.mark.parametrize("settings", [{}, THREE_SLOTS, TOKEN], ids=["any", "three", "token"])
async def test_an_implementation_that_keeps_the_contract_passes(
    settings: dict[str, object],
) -> None:
    async with implementation(Mutant(Implementation, "", settings)) as target:
        ran = await results(target)
    assert not failures(ran)
    left_out = {"security.plain-text", "operations.drain", "operations.restart"}
    if settings is not TOKEN:
        left_out |= {"security.no-token", "security.wrong-token"}
    if settings is THREE_SLOTS:
        left_out |= {name for name in CASES if name.startswith(("snapshots.one", "snapshots.six"))}
    else:
        left_out.add("handshake.another-number-of-slots")
    assert skipped(ran) == left_out


@pytest.mark.parametrize("mutant", IN_PROCESS, ids=lambda mutant: mutant.kind.__name__)
async def test_a_mutant_fails_on_the_case_that_is_meant_for_it(mutant: Mutant) -> None:
    async with implementation(mutant) as target:
        ran = await results(target, [CASES[mutant.case]])
    assert failures(ran), f"{mutant.kind.__doc__} passed {mutant.case}"


@pytest.mark.parametrize("mutant", AS_PROCESS, ids=lambda mutant: mutant.kind.__name__)
async def test_a_process_that_is_a_mutant_fails_on_the_case_that_is_meant_for_it(
    tmp_path: Path, mutant: Mutant
) -> None:
    module = "tests.conformance.implementation"
    with process(tmp_path, module, mutant.kind.__name__, "ADDRESS") as target:
        ran = await results(target, [CASES[mutant.case]])
        assert failures(ran), f"{mutant.kind.__doc__} passed {mutant.case}"
    with process(tmp_path, module, Implementation.__name__, "ADDRESS") as target:
        ran = await results(target, [CASES[mutant.case]])
        assert not failures(ran) | dict.fromkeys(skipped(ran))


@pytest.mark.parametrize("policy", ["wait", "random", "heuristic"])
async def test_tamiyo_passes_in_full(tmp_path: Path, policy: str) -> None:
    flags = ("--policy", policy, "--listen", "ADDRESS")
    with process(tmp_path, "tamiyo.service", *flags) as target:
        ran = await results(target)
    assert not failures(ran)
    assert {name for name in skipped(ran) if name.startswith("operations.")} == set()


async def test_tamiyo_passes_with_a_learned_policy(tmp_path: Path) -> None:
    version = Network(seed=1).version()
    async with RegistryServer() as registry:
        await registry.activate(version)
        async with running(tmp_path, registry=registry.parsed_address) as channel:
            await serves(channel, version.name)
            address = (tmp_path / "address").read_text().strip()
            ran = await results(Target(address))
    assert not failures(ran)
    for name in ("handshake.another-number-of-slots", "decisions.greedy", "decisions.distribution"):
        assert ran[name].outcome is Outcome.PASSED


async def test_tamiyo_with_a_certificate_refuses_plain_text(tmp_path: Path) -> None:
    authority, ca = trustme.CA(), tmp_path / "ca.pem"
    leaf = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(ca))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    secured = {"tls_certificate": tmp_path / "chain.pem", "tls_key": tmp_path / "key.pem"}
    async with running(tmp_path, policy="wait", **secured):
        address = (tmp_path / "address").read_text().strip()
        ran = await results(Target(address, Credentials(ca)))
    assert not failures(ran)
    assert ran["security.plain-text"].outcome is Outcome.PASSED


async def test_where_nobody_answers_there_is_nothing_to_test() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1\b"):
        await Target("127.0.0.1:1").introduced()


async def test_the_command_reports_for_people_for_programs_and_for_ci(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    junit = tmp_path / "report.xml"
    with process(tmp_path, "tests.conformance.implementation", "NotTheSum", "ADDRESS") as target:
        await is_up(target)
        command = ["conformance", target.address, "--case", "streams"]
        assert await asyncio.to_thread(run, [*command, "--junit", str(junit)]) == 1
        told = capfd.readouterr().out
        assert "FAILED streams.order" in told
        assert "log P(type) and log P(slot | type) add up to" in told
        suite = ElementTree.parse(junit).getroot()
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert await asyncio.to_thread(run, [*command, "--json"]) == 1
        report = json.loads(capfd.readouterr().out)
        assert {case["id"] for case in report["cases"]} >= {"streams.order", "streams.half-close"}
        assert report["failed"] >= 1
        assert (
            await asyncio.to_thread(run, ["conformance", target.address, "--case", "handshake"])
            == 0
        )


@pytest.mark.parametrize("content", [b"", b"two lines\nof it", b"\xff\xfe", b"a token~\x7f"])
def test_a_file_that_holds_no_token_is_refused_before_anything_is_asked(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_bytes(content)
    command = ["conformance", "127.0.0.1:1", "--token-file", str(tmp_path / "token")]
    assert run(command) == 2
    assert "token: holds no bearer token on one line" in capfd.readouterr().err
