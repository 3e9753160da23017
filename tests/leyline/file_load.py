"""What an export and an import take, by the number of steps: python -m tests.leyline.file_load

The service here makes its experience up while it is read, and forgets what is recorded, so that
what is measured is the command: its time, its largest resident memory, and the size of its file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc  # type: ignore[import-untyped]
from tests.leyline.experience import made_episode

from leyline.client import Episode
from leyline.files.importing import rename
from leyline.v1.experience_pb2 import (
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    GetStatisticsRequest,
    GetStatisticsResponse,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
    RecordTransitionsRequest,
    RecordTransitionsResponse,
)
from leyline.v1.experience_pb2_grpc import (
    ExperienceServiceServicer,
    add_ExperienceServiceServicer_to_server,
)

HORIZON = 24
EPISODES_A_RUN = 1000
FILES = ("load.parquet", "leyline/load-v0")


class Endless(ExperienceServiceServicer):
    """Has as many steps as it is told, in runs of a thousand episodes."""

    def __init__(self) -> None:
        self.steps = 0

    async def GetStatistics(
        self, request: GetStatisticsRequest, context: Any
    ) -> GetStatisticsResponse:
        return GetStatisticsResponse(transitions=self.steps)

    async def ReadEpisodes(
        self, request: ReadEpisodesRequest, context: Any
    ) -> AsyncIterator[ReadEpisodesResponse]:
        for episode in self._episodes():
            yield ReadEpisodesResponse(head=episode.head)
            for step in episode.steps:
                yield ReadEpisodesResponse(transition=step)
            yield ReadEpisodesResponse(end=episode.end)

    def _episodes(self) -> Iterator[Episode]:
        patterns = [made_episode(seed, HORIZON) for seed in range(50)]
        for number in range(self.steps // HORIZON):
            run, index = divmod(number, EPISODES_A_RUN)
            episode = patterns[number % len(patterns)]
            rename(episode, f"run-{run:05}")
            episode.head.episode_index = index
            assert episode.end is not None
            episode.end.episode_index = index
            for step in episode.steps:
                for step_id in (step.step_id, step.snapshot.step_id, step.next_snapshot.step_id):
                    step_id.episode_index = index
            yield episode

    async def BeginEpisode(
        self, request: BeginEpisodeRequest, context: Any
    ) -> BeginEpisodeResponse:
        return BeginEpisodeResponse(fence=1)

    async def RecordTransitions(
        self, request: RecordTransitionsRequest, context: Any
    ) -> RecordTransitionsResponse:
        return RecordTransitionsResponse(acknowledged_sequence=len(request.items))


def measure(folder: Path, address: str, *arguments: str) -> tuple[float, float]:
    """Run a command in a folder; its seconds, and its largest resident memory in MB."""
    began = time.monotonic()
    command = [sys.executable, "-m", "leyline.cli", "experience", *arguments, "--simic", address]
    environment = {**os.environ, "MINARI_DATASETS_PATH": str(folder)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.monotonic() - began, usage.ru_maxrss / 1024


async def run(steps: list[int], files: list[str]) -> None:
    store, server = Endless(), grpc.aio.server()
    add_ExperienceServiceServicer_to_server(store, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    print(f"{'command':26} {'steps':>9} {'seconds':>8} {'steps/s':>8} {'MB':>6} {'bytes/step':>10}")
    for count in steps:
        store.steps = count // HORIZON * HORIZON
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in files:
                for command in ("export", "import"):
                    took, memory = await asyncio.to_thread(measure, folder, address, command, file)
                    size = sum(_sizes(folder / file))
                    print(
                        f"{command + ' ' + file:26} {store.steps:9} {took:8.1f} "
                        f"{store.steps / took:8.0f} {memory:6.0f} {size / store.steps:10.0f}",
                        flush=True,
                    )
    await server.stop(None)


def _sizes(path: Path) -> Iterator[int]:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            yield file.stat().st_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--files", nargs="+", default=FILES)
    given = parser.parse_args()
    asyncio.run(run(given.steps, given.files))
