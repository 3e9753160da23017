"""Durable ingest: Simic's stream of transitions, beside SQLite itself with the same rows.

Both write groups of 64 rows, each on disk before the next is begun, and take turns within a second,
because what a disk takes for a sync changes from second to second.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc.aio
from tests.benchmarks.ingest_load import write_messages
from tests.benchmarks.report import Measurement
from tests.simic import simulated
from tests.simic.running import Client, SimicProcess

from leyline.v1.experience_pb2 import ExperienceItem, StreamTransitionsRequest

ITEMS_A_MESSAGE = 64
MESSAGES_A_TURN = 15
WARM_UP_TURNS = 3
HORIZON = 32
"""Two episodes fill a message."""
Row = tuple[Any, ...]


async def ingesting(rounds: int) -> dict[str, Measurement]:
    """The row about ingest, from so many pairs of turns."""
    turns = rounds + WARM_UP_TURNS
    count = turns * MESSAGES_A_TURN
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        messages = [_message(number) for number in range(count)]
        write_messages(folder / "messages", messages)
        simic = SimicProcess(folder)
        address = await simic.start()
        await _begin_episodes(address, count * ITEMS_A_MESSAGE // HORIZON)
        ours, theirs = [], []
        async with _load(address, folder / "messages") as load:
            with closing(_raw(folder)) as raw:
                for turn in range(turns):
                    seconds = await load.turn()
                    stored = _rows(folder, turn)
                    theirs.append(len(stored) / _insert(raw, stored))
                    ours.append(len(stored) / seconds)
        await simic.stop()
    return {"ingest": Measurement(tuple(ours[WARM_UP_TURNS:]), tuple(theirs[WARM_UP_TURNS:]))}


def _message(number: int) -> bytes:
    """The message of that number, with all of its episodes' steps."""
    episodes = ITEMS_A_MESSAGE // HORIZON
    items = [
        ExperienceItem(
            sequence=number * ITEMS_A_MESSAGE + episode * HORIZON + step + 1,
            fence=1,
            transition=simulated.transition("bench", number * episodes + episode, step, HORIZON),
        )
        for episode in range(episodes)
        for step in range(HORIZON)
    ]
    return StreamTransitionsRequest(items=items).SerializeToString()


async def _begin_episodes(address: str, episodes: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        client = Client(channel)
        for index in range(episodes):
            await client.experience.BeginEpisode(simulated.begin("bench", index, HORIZON))


class _Load:
    """The sender, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def turn(self) -> float:
        """Lets it send the next messages; how long that took, in seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        printed = await self._process.stdout.readline()
        if not printed:
            raise RuntimeError(f"the sender ended with {await self._process.wait()}")
        return float(printed)


@asynccontextmanager
async def _load(address: str, messages: Path) -> AsyncIterator[_Load]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.ingest_load"),
        *(address, str(messages), str(MESSAGES_A_TURN)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        yield _Load(process)
    finally:
        process.stdin.close()
        await process.wait()


def _database(folder: Path) -> Path:
    return folder / "state/simic.sqlite3"


def _raw(folder: Path) -> sqlite3.Connection:
    """A database with Simic's two tables of experience, its episodes, and its way to be durable."""
    raw = sqlite3.connect(folder / "raw.sqlite3", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        raw.execute(f"PRAGMA {pragma}")
    with closing(sqlite3.connect(_database(folder))) as simic:
        tables = simic.execute(
            "SELECT sql FROM sqlite_master WHERE tbl_name IN ('episodes', 'transitions')"
            " AND sql IS NOT NULL"
        )
        for (statement,) in tables:
            raw.execute(statement)
        episodes = simic.execute("SELECT * FROM episodes").fetchall()
    raw.execute("BEGIN")
    raw.executemany(f"INSERT INTO episodes VALUES ({_marks(episodes)})", episodes)
    raw.execute("COMMIT")
    return raw


def _rows(folder: Path, turn: int) -> list[Row]:
    """What Simic has stored in a turn."""
    first = turn * MESSAGES_A_TURN * ITEMS_A_MESSAGE
    with closing(sqlite3.connect(_database(folder))) as simic:
        rows = simic.execute("SELECT * FROM transitions LIMIT -1 OFFSET ?", (first,)).fetchall()
    if len(rows) != MESSAGES_A_TURN * ITEMS_A_MESSAGE:
        raise RuntimeError(f"{len(rows)} transitions were stored in a turn")
    return rows


def _insert(raw: sqlite3.Connection, rows: Sequence[Row]) -> float:
    """Inserts rows, a commit for each 64; how long that took, in seconds."""
    statement = f"INSERT INTO transitions VALUES ({_marks(rows)})"
    started = time.perf_counter()
    for first in range(0, len(rows), ITEMS_A_MESSAGE):
        raw.execute("BEGIN IMMEDIATE")
        raw.executemany(statement, rows[first : first + ITEMS_A_MESSAGE])
        raw.execute("COMMIT")
    return time.perf_counter() - started


def _marks(rows: Sequence[Row]) -> str:
    return ", ".join("?" * len(rows[0]))
