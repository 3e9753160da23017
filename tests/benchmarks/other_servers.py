"""Decisions per second of Tamiyo beside the same model behind MLServer and behind Ray Serve.

Each of them has an environment of its own, which `make bench` makes, with the versions of
requirements/lock.txt wherever both need the same package. Each serves the same artifact with
Tamiyo's own code for it (`served_model`), once as it comes, and once set as was measured to be
fastest: see docs/findings/other-servers.md.
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
        how: "plain", as it comes, or "tuned".
        serve: the module that serves, in that environment.
        load: the module that puts load on it, there too.
    """

    name: str
    how: str
    serve: str
    load: str

    @property
    def python(self) -> str:
        return str(ROOT / f"build/venv-{self.name}/bin/python")


_MLSERVER, _RAY = "tests.benchmarks.served_by_mlserver", "tests.benchmarks.served_by_ray"
PLAIN = (
    Other("mlserver", "plain", _MLSERVER, "tests.benchmarks.mlserver_calls"),
    Other("ray", "plain", _RAY, "tests.benchmarks.decision_load"),
)
TUNED = (
    Other("mlserver", "tuned", _MLSERVER, "tests.benchmarks.mlserver_load"),
    Other("ray", "tuned", _RAY, "tests.benchmarks.decision_load"),
)


def ray_settings(port: int, how: str) -> dict[str, str]:
    """What Ray reads in the environment."""
    tuned = {
        # Ray's own switch: a replica answers on a port of its own, in the loop of its gRPC server.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(port + 1),
    }
    return (tuned if how == "tuned" else {}) | {
        "RAY_USAGE_STATS_ENABLED": "0",
        # With it, Ray leaves a token in the user's home.
        "RAY_AUTH_MODE": "disabled",
        # Its processes start elsewhere.
        "PYTHONPATH": str(ROOT),
    }


def check_environments() -> None:
    """Ends the program where a server is not installed: its row must not be missing silently."""
    missing = [other.python for other in PLAIN if not Path(other.python).exists()]
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
        *(other.python, "-m", other.serve, str(directory), str(port), str(free_port()), other.how),
        stdout=asyncio.subprocess.PIPE,
        stderr=(directory / "stderr").open("wb"),
        env=os.environ | ray_settings(port, other.how),
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
    others: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            address = f"127.0.0.1:{free_port()}"
            async with started("tamiyo", Path(scratch), address) as server:
                tamiyo.append((await server.loaded(STREAMS))["per_second"])
        for other in PLAIN + TUNED:
            with tempfile.TemporaryDirectory() as scratch:
                async with served(other, Path(scratch)) as server:
                    speed = (await server.loaded(STREAMS))["per_second"]
            others.setdefault((other.name, other.how), []).append(speed)

    def beside(*speeds: list[float]) -> Measurement:
        return Measurement(tuple(tamiyo), tuple(map(max, *speeds) if speeds[1:] else speeds[0]))

    plain, tuned = (
        [others[name, how] for name in ("mlserver", "ray")] for how in ("plain", "tuned")
    )
    return {
        "decisions_beside_servers": beside(*plain),
        "decisions_beside_tuned_servers": beside(*tuned),
        "decisions_beside_mlserver": beside(plain[0]),
        "decisions_beside_ray": beside(plain[1]),
        "decisions_beside_tuned_mlserver": beside(tuned[0]),
        "decisions_beside_tuned_ray": beside(tuned[1]),
    }
