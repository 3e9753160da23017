"""Tamiyo as a process of its own: signals, crashes, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from tests.tamiyo.networks import Network
from tests.tamiyo.queries import query
from tests.tamiyo.registry_server import RegistryServer
from tests.tamiyo.running import serves, until

from leyline.v1.policy_pb2 import DecideRequest
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from tamiyo.service import main


class Process:
    """A started Tamiyo."""

    def __init__(self, process: asyncio.subprocess.Process, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.channel = channel

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return await self.process.wait()


@asynccontextmanager
async def started(directory: Path, *flags: str) -> AsyncIterator[Process]:
    """Start a process; it is gone when the block is left."""
    port_file = directory / "address"
    port_file.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tamiyo.service", "--listen", "127.0.0.1:0", "--port-file", str(port_file)),
        *("--state-dir", str(directory / "state"), *flags),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until(lambda: port_file.exists() or process.returncode is not None)
        assert process.returncode is None
        async with grpc.aio.insecure_channel(port_file.read_text().strip()) as channel:
            yield Process(process, channel)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_killed_server_decides_again_the_same_though_the_registry_is_away(
    tmp_path: Path,
) -> None:
    version = Network(seed=1).version()
    request = DecideRequest(query=query(version=version.name))
    async with RegistryServer() as registry:
        await registry.activate(version)
        flags = ("--registry", registry.address)
        async with started(tmp_path, *flags) as tamiyo:
            await serves(tamiyo.channel, version.name)
            before = await PolicyServiceStub(tamiyo.channel).Decide(request)
            await until((tmp_path / "state" / "active").exists)
            assert await tamiyo.end(signal.SIGKILL) == -signal.SIGKILL
    async with started(tmp_path, *flags) as tamiyo:
        await serves(tamiyo.channel, version.name)
        assert await PolicyServiceStub(tamiyo.channel).Decide(request) == before
        assert await tamiyo.end(signal.SIGTERM) == 0


async def test_sigterm_ends_a_server_that_still_waits_for_its_first_version(tmp_path: Path) -> None:
    async with started(tmp_path, "--registry", "127.0.0.1:1") as tamiyo:
        assert await tamiyo.end(signal.SIGTERM) == 0


def failing(*flags: str) -> subprocess.CompletedProcess[str]:
    """Start a process that cannot start, and return how it ended."""
    command = [sys.executable, "-m", "tamiyo.service", "--listen", "127.0.0.1:0", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_unknown_policy_is_an_error_that_names_the_known_ones() -> None:
    ended = failing("--policy", "clairvoyant")
    assert ended.returncode == 2
    for word in ("--policy", "clairvoyant", "wait", "random", "heuristic", "learned"):
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_state_directory_that_cannot_be_made_is_an_error_that_says_what_to_do(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = failing("--state-dir", str(tmp_path / "file" / "state"))
    assert ended.returncode == 1
    assert str(tmp_path / "file" / "state") in ended.stderr
    assert "--state-dir" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "leyline serve tamiyo --policy heuristic" in capsys.readouterr().out


def test_the_service_needs_neither_torch_nor_the_tools_that_make_artifacts() -> None:
    check = (
        "import sys, tamiyo.imported, tamiyo.service; "
        "print(*{'torch', 'onnx', 'sqlalchemy'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, env=os.environ
    )
    assert found.stdout.strip() == ""


def test_what_runs_networks_reports_to_nobody(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import tamiyo.artifact"],
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    # Where it reports it keeps an id of the machine, or says that it cannot.
    assert not done.stderr
    assert not list(tmp_path.rglob("*"))
