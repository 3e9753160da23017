"""Reading experience back: as the learner does, and through ReadEpisodes, beside SQLite itself."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import grpc.aio
from tests.benchmarks.report import Measurement
from tests.simic import filling, simulated
from tests.simic.running import SimicProcess

from leyline.v1.experience_pb2 import ReadEpisodesRequest
from leyline.v1.learner_pb2 import TrainingPlan
from simic.database.database import Database, sqlite_url
from simic.learning.lesson import Lessons
from simic.learning.training import TrainingStore

ROWS = 60_000
METHOD = "/leyline.v1.ExperienceService/ReadEpisodes"


EPISODES = 64
"""In a batch of the learner."""


async def reading(rounds: int, rows: int) -> dict[str, Measurement]:
    """The rows about reading, from so many rounds over so many transitions."""
    rows -= rows % simulated.HORIZON
    learner, stream, raw = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "state").mkdir()
        url = sqlite_url(folder / "state")
        await asyncio.to_thread(filling.fill, url, rows)
        # A database of its own for the training, which Simic's learner would take up.
        shutil.copytree(folder / "state", folder / "learner")
        learners = sqlite_url(folder / "learner")
        simic = SimicProcess(folder)
        address = await simic.start()
        try:
            for _ in range(rounds):
                raw.append(rows / _raw(folder, rows))
                learner.append(rows / _as_the_learner(learners, rows))
                stream.append(rows / await _streamed(address, rows))
            await simic.stop()
        finally:
            await simic.kill()
    return {
        "reading_to_learn": Measurement(tuple(learner), tuple(raw)),
        "reading_streamed": Measurement(tuple(stream), tuple(raw)),
    }


def _raw(folder: Path, rows: int) -> float:
    """Seconds for the payloads alone, in order of episode and step."""
    query = "SELECT payload FROM transitions ORDER BY episode_id, step"
    started = time.perf_counter()
    with closing(sqlite3.connect(folder / "state/simic.sqlite3")) as database:
        found = sum(1 for _ in database.execute(query))
    return _checked(time.perf_counter() - started, found, rows)


def _as_the_learner(url: str, rows: int) -> float:
    """Seconds for the learner's own way to batches of episodes."""
    database = Database(url)
    updates = rows // (EPISODES * simulated.HORIZON) + 1
    plan = TrainingPlan(
        experience="stored",
        run_id=filling.RUN,
        episodes_per_update=EPISODES,
        max_updates=updates,
    )
    TrainingStore(database).start("bench", plan)
    lessons = Lessons(database, "bench")
    started, found = time.perf_counter(), 0
    for number in range(1, updates + 1):
        found += sum(len(episode.steps) for episode in lessons.stored(number) or ())
    seconds = time.perf_counter() - started
    database.close()
    # The last batch is a whole one, too.
    return seconds * rows / found


async def _streamed(address: str, rows: int) -> float:
    """Seconds for everything through the service; the messages stay bytes here."""
    request = ReadEpisodesRequest(run_id=filling.RUN).SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        read: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(METHOD)
        started = time.perf_counter()
        found = 0
        async for _ in read(request):
            found += 1
    # A head and an end for each episode are among them.
    return _checked(time.perf_counter() - started, found - 2 * rows // simulated.HORIZON, rows)


def _checked(seconds: float, found: int, rows: int) -> float:
    if found != rows:
        raise RuntimeError(f"{found} of {rows} transitions were read")
    return seconds
