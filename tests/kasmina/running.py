"""Kasmina as a process of its own, for tests that kill it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from leyline.document import write
from leyline.v1.trainer_pb2 import (
    PRECISION_FP32,
    DatasetSpec,
    GetRunRequest,
    GrowthSpec,
    HostSpec,
    Run,
    RunSpec,
    StartRunRequest,
    TrainingSpec,
    WatchRunRequest,
    WatchRunResponse,
)
from leyline.v1.trainer_pb2_grpc import TrainerServiceStub

if TYPE_CHECKING:
    from leyline.v1.trainer_pb2_grpc import TrainerServiceAsyncStub


def small_spec(horizon: int = 6, episodes: int = 1, seed: int = 7) -> RunSpec:
    """Digits on a tiny host: some hundredths of a second an interval."""
    return RunSpec(
        host=HostSpec(channels=[4, 6, 8]),
        dataset=DatasetSpec(name="digits", training_images=200, validation_images=100),
        training=TrainingSpec(horizon=horizon, batch_size=50, precision=PRECISION_FP32),
        growth=GrowthSpec(blend_intervals=1),
        episodes=episodes,
        seed=seed,
    )


def simulated_spec(horizon: int = 4, episodes: int = 1, seed: int = 7) -> RunSpec:
    """The simulator: a worker's time goes into its start."""
    return RunSpec(
        host=HostSpec(name="simulator"),
        training=TrainingSpec(horizon=horizon),
        episodes=episodes,
        seed=seed,
    )


@dataclass
class Kasmina:
    """A running service."""

    process: Process
    stub: TrainerServiceAsyncStub
    channel: grpc.aio.Channel

    async def start_run(self, run_id: str, spec: RunSpec) -> Run:
        """Queues a run."""
        response = await self.stub.StartRun(StartRunRequest(run_id=run_id, spec=spec))
        return response.run

    async def run(self, run_id: str) -> Run:
        """How far it is."""
        return (await self.stub.GetRun(GetRunRequest(run_id=run_id))).run

    async def watch(self, run_id: str, after: int = 0) -> AsyncIterator[WatchRunResponse]:
        """Its events."""
        async for event in self.stub.WatchRun(WatchRunRequest(run_id=run_id, after_sequence=after)):
            yield event

    async def finish(self, run_id: str) -> list[WatchRunResponse]:
        """All its events, once it has ended."""
        return [event async for event in self.watch(run_id)]

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def kasmina(
    folder: Path,
    policy: str,
    experience: str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Kasmina]:
    """A service whose state is in `folder`; what is there already, it goes on with."""
    port_file = folder / "address"
    port_file.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kasmina.service",
        *("--listen", "127.0.0.1:0", "--port-file", str(port_file)),
        *("--state-dir", str(folder / "state"), "--policy", f"default={policy}"),
        *("--experience", experience),
        env={**os.environ, **(environment or {})},
    )
    try:
        async with asyncio.timeout(200):
            while not port_file.exists():
                assert process.returncode is None, "Kasmina ended instead of starting"
                await asyncio.sleep(0.02)
        async with grpc.aio.insecure_channel(port_file.read_text().strip()) as channel:
            yield Kasmina(process, TrainerServiceStub(channel), channel)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


class SingleRuns:
    """Services that each play one run, called `single`, and end with it.

    Each step waits until it is stored as experience.
    """

    def __init__(self) -> None:
        """None has been started yet."""
        self._started: list[Process] = []

    async def start(
        self, folder: Path, neighbours: str, spec: RunSpec, *arguments: str, **environment: str
    ) -> Process:
        """Starts one whose state is in `folder`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kasmina.service",
            *("--listen", "127.0.0.1:0", "--state-dir", str(folder / "state")),
            *("--policy", f"default={neighbours}", "--experience", neighbours),
            *("--run", str(_written(spec, folder)), "--id", "single", *arguments),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "LEYLINE_KASMINA_WAIT_FOR_EXPERIENCE": "true", **environment},
        )
        self._started.append(process)
        return process

    async def play(
        self, folder: Path, neighbours: str, spec: RunSpec, *arguments: str, **environment: str
    ) -> tuple[int, str]:
        """Starts one; its exit code and what it said, once it has ended."""
        return await ended(await self.start(folder, neighbours, spec, *arguments, **environment))

    async def close(self) -> None:
        """Ends what a test that failed has left."""
        for process in self._started:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _written(spec: RunSpec, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "run.yaml"
    file.write_text(write(spec))
    return file


async def ended(process: Process) -> tuple[int, str]:
    """The exit code of a process, once it has ended, and what it said."""
    _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()
