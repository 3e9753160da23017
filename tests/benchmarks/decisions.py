"""Decisions per second and their latency: Tamiyo with a learned policy beside servers that decide
nothing, in turns, over the same kind of socket and with the same messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from tests.benchmarks.decision_load import METHOD, episode
from tests.benchmarks.report import Measurement
from tests.benchmarks.turns import cpu_seconds
from tests.processes import memory_mib

from leyline.observation import SEED_SPEC
from leyline.v1.registry_pb2 import TrainingSummary
from simic.learning.mlp import MlpNetwork
from simic.learning.network import Layout
from simic.learning.version import learned_version
from tamiyo.cache import ArtifactCache

STREAMS = 64
SECONDS = 3.0
SLOTS = 3
IDLE_STREAMS = 1000
IDLE_SECONDS = 5.0
SETTLE_S = 1.0
Load = dict[str, float]

SERVERS = ("tamiyo", "constant", "echo")


@dataclass(frozen=True)
class Server:
    """One of the servers, as a process."""

    address: str
    pid: int
    load: tuple[str, ...] = (sys.executable, "-m", "tests.benchmarks.decision_load")

    async def loaded(self, streams: int) -> Load:
        """Puts load on it from a process of its own."""
        load = await asyncio.create_subprocess_exec(
            *(*self.load, self.address, "--streams", str(streams), "--seconds", str(SECONDS)),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await load.communicate()
        if load.returncode:
            raise RuntimeError(f"the load on {self.address} ended with {load.returncode}")
        result: Load = json.loads(printed)
        return result


def keep_version(state_dir: Path) -> None:
    """Leaves a fresh network of the learner's as the active version, as after a restart."""
    network = MlpNetwork(Layout.of(SEED_SPEC), SLOTS, seed=1)
    version = learned_version(network, SEED_SPEC, "", TrainingSummary(), b"")
    cache = ArtifactCache(state_dir, 1)
    cache.write(version.manifest, version.artifact, set())
    cache.remember_active(version.manifest.policy_version)


def command(server: str, directory: Path, address: str) -> list[str]:
    """What starts a server."""
    if server != "tamiyo":
        return [sys.executable, "-m", "tests.benchmarks.decision_servers", server, address]
    nobody = f"unix:{directory}/registry"
    flags = ["--listen", address, "--state-dir", str(directory / "state"), "--registry", nobody]
    return [sys.executable, "-m", "tamiyo.service", *flags, "--log-level", "error"]


@contextlib.asynccontextmanager
async def started(
    server: str, directory: Path, address: str | None = None
) -> AsyncIterator[Server]:
    """Runs a server while the block lasts, at a Unix socket unless it is told where."""
    if server == "tamiyo":
        keep_version(directory / "state")
    address = address or f"unix:{directory}/{server}"
    process = await asyncio.create_subprocess_exec(*command(server, directory, address))
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            await channel.channel_ready()
        yield Server(address, process.pid)
    finally:
        process.terminate()
        await process.wait()


async def deciding(rounds: int) -> dict[str, Measurement]:
    """Every row about decisions, from so many interleaved rounds; every round has new servers,
    because where a process's memory happens to lie is worth a tenth of its speed.
    """
    many: dict[str, list[Load]] = {server: [] for server in SERVERS}
    alone: dict[str, list[Load]] = {server: [] for server in SERVERS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            async with contextlib.AsyncExitStack() as stack:
                servers = {
                    server: await stack.enter_async_context(started(server, Path(scratch)))
                    for server in SERVERS
                }
                for name, server in servers.items():
                    many[name].append(await server.loaded(STREAMS))
                    alone[name].append(await server.loaded(1))

    def compared(loads: dict[str, list[Load]], one: str, other: str, what: str) -> Measurement:
        return Measurement(
            tuple(load[what] for load in loads[one]), tuple(load[what] for load in loads[other])
        )

    return {
        "decisions": compared(many, "tamiyo", "constant", "per_second"),
        "decisions_p99": compared(many, "tamiyo", "constant", "p99_ms"),
        "decision_alone_p50": compared(alone, "tamiyo", "constant", "p50_ms"),
        "constant_decisions": compared(many, "constant", "echo", "per_second"),
        "constant_p99": compared(many, "constant", "echo", "p99_ms"),
        "constant_alone_p50": compared(alone, "constant", "echo", "p50_ms"),
    }


async def idle(rounds: int) -> dict[str, Measurement]:
    """What open streams cost on which nobody asks; every round has a new server."""
    memory: list[tuple[float, float]] = []
    cpu: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            async with started("tamiyo", Path(scratch)) as server:
                async with asked_once(server, 1):
                    one = memory_mib(server.pid)
                async with asked_once(server, IDLE_STREAMS):
                    memory.append((memory_mib(server.pid), one))
                    before = cpu_seconds(server.pid)
                    await asyncio.sleep(IDLE_SECONDS)
                    cpu.append(cpu_seconds(server.pid) - before)
    return {
        "idle_streams_memory": Measurement(
            tuple(thousand for thousand, _ in memory), tuple(one for _, one in memory)
        ),
        "idle_streams_cpu": Measurement(tuple(cpu), (IDLE_SECONDS,) * len(cpu)),
    }


@contextlib.asynccontextmanager
async def asked_once(server: Server, streams: int) -> AsyncIterator[None]:
    """Holds streams open, on each of which there has been one decision."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        calls = []
        for number in range(streams):
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)()
            await call.write(episode(number)[0])
            await call.read()
            calls.append(call)
        await asyncio.sleep(SETTLE_S)
        yield
        for call in calls:
            await call.done_writing()
