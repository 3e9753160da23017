"""A Simic that runs: in the test's own event loop, or as a process that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from chassis.address import Address
from leyline.v1.experience_pb2_grpc import ExperienceServiceStub
from leyline.v1.learner_pb2_grpc import LearnerServiceStub
from leyline.v1.registry_pb2_grpc import PolicyRegistryServiceStub
from simic.service import serve
from simic.settings import SimicSettings


class Client:
    """Stubs of the three services over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.experience = ExperienceServiceStub(channel)
        self.registry = PolicyRegistryServiceStub(channel)
        self.learner = LearnerServiceStub(channel)


@asynccontextmanager
async def running(directory: Path, **settings: Any) -> AsyncIterator[Client]:
    """Serve while the block lasts."""
    port_file = directory / "address"
    port_file.unlink(missing_ok=True)
    configured = SimicSettings(
        listen=Address.parse("127.0.0.1:0"),
        state_dir=directory / "state",
        port_file=port_file,
        drain_grace_s=5.0,
        **settings,
    )
    service = asyncio.create_task(serve(configured))
    try:
        address = await _address(port_file, service)
        async with grpc.aio.insecure_channel(address) as channel:
            yield Client(channel)
    finally:
        service.cancel()
        with suppress(asyncio.CancelledError):
            await service


class SimicProcess:
    """A Simic in a process of its own, on one state directory for all its lives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Start it, and wait until it serves; its address."""
        port_file = self.directory / "address"
        port_file.unlink(missing_ok=True)
        await self._execute("--listen", "127.0.0.1:0", "--port-file", str(port_file))
        assert self._process is not None
        ended = asyncio.create_task(self._process.wait())
        address = await _address(port_file, ended)
        ended.cancel()
        await _serving(address)
        return address

    async def restore(self, backup: Path) -> int:
        """Put a backup into its database; the exit code."""
        return await self.run("--restore", str(backup))

    async def run(self, *arguments: str) -> int:
        """Let it do what ends by itself; its exit code."""
        await self._execute(*arguments)
        assert self._process is not None
        return await self._process.wait()

    async def _execute(self, *arguments: str) -> None:
        code = "import sys; from simic.service import main; sys.exit(main(sys.argv[1:]))"
        state = ("--state-dir", str(self.directory / "state"))
        with (self.directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", code, *state, *arguments),
                stderr=log,
                env=os.environ | {"LEYLINE_SIMIC_LEARNER_RESTART_S": "0.1"},
            )

    def log(self) -> str:
        """What it has written in all its lives."""
        return _content(self.directory / "log")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """End it as an operator would; its exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        return await self._process.wait()


async def _address(port_file: Path, ended: asyncio.Task[Any]) -> str:
    while not (address := _content(port_file)):
        if ended.done():
            await ended
            raise AssertionError("Simic ended before it listened")
        await asyncio.sleep(0.02)
    return address


def _content(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


async def _serving(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def serves() -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(serves)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds; the test's own time limit is the only one."""
    while not await condition():  # noqa: ASYNC110 - what is waited for is in another process
        await asyncio.sleep(0.02)
