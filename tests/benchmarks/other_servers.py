"""Decisions per second of Tamiyo beside the same model behind MLServer and behind Ray Serve.

Each of them has an environment of its own, which `make bench` makes, with the versions of
requirements/lock.txt wherever both need the same package. Each serves the same artifact with
Tamiyo's own code for it (`served_model`), and is set as was measured to be fastest: see
docs/findings/other-servers.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from tests.benchmarks.decisions import STREAMS, Server, keep_version, started
from tests.benchmarks.report import Measurement

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Other:
    """A server of somebody else's.

    Attributes:
        name: of its environment under build/.
        serve: the module that serves, in that environment.
        load: the module that puts load on it, there too.
    """

    name: str
    serve: str
    load: str

    @property
    def python(self) -> str:
        return str(ROOT / f"build/venv-{self.name}/bin/python")


OTHERS = (
    Other("mlserver", "tests.benchmarks.served_by_mlserver", "tests.benchmarks.mlserver_load"),
    Other("ray", "tests.benchmarks.served_by_ray", "tests.benchmarks.decision_load"),
)


def ray_settings(port: int) -> dict[str, str]:
    """What Ray reads in the environment."""
    return {
        # Ray's own switch: a replica answers on a port of its own, in the loop of its gRPC server.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(port + 1),
        "RAY_USAGE_STATS_ENABLED": "0",
        # With it, Ray leaves a token in the user's home.
        "RAY_AUTH_MODE": "disabled",
        # Its processes start elsewhere.
        "PYTHONPATH": str(ROOT),
    }


def check_environments() -> None:
    """Ends the program where a server is not installed: its row must not be missing silently."""
    missing = [other.python for other in OTHERS if not Path(other.python).exists()]
    if missing:
        sys.exit(f"not there: {', '.join(missing)}; `make bench` installs the servers")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def served(other: Other, directory: Path) -> AsyncIterator[Server]:
    """Runs one of the others while the block lasts."""
    keep_version(directory)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(other.python, "-m", other.serve, str(directory), str(port), str(free_port())),
        stdout=asyncio.subprocess.PIPE,
        stderr=(directory / "stderr").open("wb"),
        env=os.environ | ray_settings(port),
    )
    assert process.stdout is not None
    try:
        while (line := await process.stdout.readline()) != b"ready\n":
            if not line:
                raise RuntimeError(f"{other.name}: {(directory / 'stderr').read_text()}")
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address) as channel:
            await channel.channel_ready()
        yield Server(address, process.pid, (other.python, "-m", other.load))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def beside_others(rounds: int) -> dict[str, Measurement]:
    """Every row about other servers, from so many interleaved rounds; in each the servers run one
    after the other, all new: Ray's processes have work to do even where nobody asks.
    """
    tamiyo: list[float] = []
    others: dict[str, list[float]] = {other.name: [] for other in OTHERS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            address = f"127.0.0.1:{free_port()}"
            async with started("tamiyo", Path(scratch), address) as server:
                tamiyo.append((await server.loaded(STREAMS))["per_second"])
        for other in OTHERS:
            with tempfile.TemporaryDirectory() as scratch:
                async with served(other, Path(scratch)) as server:
                    others[other.name].append((await server.loaded(STREAMS))["per_second"])
    fastest = map(max, *others.values())
    return {
        "decisions_beside_servers": Measurement(tuple(tamiyo), tuple(fastest)),
        "decisions_beside_mlserver": Measurement(tuple(tamiyo), tuple(others["mlserver"])),
        "decisions_beside_ray": Measurement(tuple(tamiyo), tuple(others["ray"])),
    }
