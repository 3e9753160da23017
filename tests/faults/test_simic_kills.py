"""SIGKILL Simic, and PostgreSQL under it, again and again while transitions stream in: nothing that
was acknowledged is lost, nothing is stored twice.

LEYLINE_KILLS says how often (`make kill-simic`: 200), LEYLINE_FAULTS_SEED at which instants.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import grpc.aio
import pytest
from tests.faults.sending import HORIZON, Sender, Service
from tests.postgres import Postgres, connect, postgres
from tests.simic import simulated
from tests.simic.running import Client, SimicProcess

from leyline.v1.experience_pb2 import ReadEpisodesRequest, ReadEpisodesResponse
from leyline.v1.transition_pb2 import EpisodeEnd, Transition

KILLS = int(os.environ.get("LEYLINE_KILLS", "5"))
SEED = int(os.environ.get("LEYLINE_FAULTS_SEED", "1"))
SENDERS = 4
LONGEST_LIFE_S = 1.0

ORPHANS = """
SELECT count(*) FROM transitions LEFT JOIN episodes ON episodes.id = episode_id WHERE id IS NULL
"""


class Story:
    """What happened, for whoever reads the test's output."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._restarts: list[float] = []

    @contextlib.contextmanager
    def restart(self) -> Iterator[None]:
        """Time the service's way from its start to SERVING."""
        started = time.monotonic()
        yield
        self._restarts.append(time.monotonic() - started)

    def tell(self, senders: Sequence[Sender]) -> None:
        """Print it."""
        episodes = sum(sender.ended for sender in senders)
        sent = sum(sender.sent for sender in senders)
        reasons = sorted(set().union(*(sender.refusals for sender in senders)))
        print(f"\n{self._what}: {KILLS} kills, seed {SEED}, {SENDERS} senders")
        print(
            f"  {episodes} episodes of {HORIZON} steps acknowledged; {sent} items sent for these "
            f"{episodes * (HORIZON + 1)}; told: {reasons}"
        )
        if self._restarts:
            print(
                f"  from start to SERVING, {len(self._restarts)} times: "
                f"median {statistics.median(self._restarts):.2f} s, "
                f"longest {max(self._restarts):.2f} s"
            )


async def kill_again_and_again(
    simic: SimicProcess, service: Service, story: Story, server: Postgres | None
) -> None:
    """Kill, and start again what was killed: Simic; or its database server; or both."""
    draw = random.Random(SEED)
    victims: list[tuple[bool, bool]] = [(True, False)]
    if server is not None:
        victims += [(False, True), (True, True)]
    for kill in range(KILLS):
        await asyncio.sleep(draw.uniform(0, LONGEST_LIFE_S))
        kills_simic, kills_server = victims[kill % len(victims)]
        if kills_simic:
            await simic.kill()
        if kills_server:
            assert server is not None
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        if kills_simic:
            with story.restart():
                service.address = await simic.start()


async def endure(folder: Path, what: str, server: Postgres | None = None) -> None:
    """The whole story, over the database that the environment names."""
    simic, service, story = SimicProcess(folder), Service(), Story(what)
    service.address = await simic.start()
    senders = [
        Sender(f"run-{number}", service, random.Random(SEED * 1000 + number))
        for number in range(SENDERS)
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for sender in senders:
                group.create_task(sender.send())
            await kill_again_and_again(simic, service, story, server)
            for sender in senders:
                sender.stopping.set()
        async with grpc.aio.insecure_channel(service.address) as channel:
            for sender in senders:
                await everything_is_stored_once(Client(channel), sender)
        assert await simic.stop() == 0
    finally:
        await simic.kill()
    story.tell(senders)


async def everything_is_stored_once(client: Client, sender: Sender) -> None:
    """Every step and every end of a run, in order, as it was sent."""
    assert sender.ended > 0
    expected = what_was_sent(sender)
    record: ReadEpisodesResponse
    async for record in client.experience.ReadEpisodes(ReadEpisodesRequest(run_id=sender.run)):
        if record.HasField("head"):
            assert record.head.steps == HORIZON
        else:
            assert (record.transition if record.HasField("transition") else record.end) == next(
                expected
            )
    assert next(expected, None) is None


def what_was_sent(sender: Sender) -> Iterator[Transition | EpisodeEnd]:
    """Steps and ends of a sender's episodes, in order."""
    for index in range(sender.ended):
        for step in range(HORIZON):
            yield simulated.transition(sender.run, index, step, HORIZON)
        yield simulated.end(sender.run, index, HORIZON)


async def test_killed_at_random_instants_simic_loses_nothing_on_sqlite(tmp_path: Path) -> None:
    await endure(tmp_path, "SQLite")
    with closing(sqlite3.connect(tmp_path / "state/simic.sqlite3")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_killed_at_random_instants_simic_loses_nothing_on_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres(sync=True) as server:
        url = server.url("postgres")
        monkeypatch.setenv("LEYLINE_SIMIC_DATABASE_URL", url)
        await endure(tmp_path, "PostgreSQL", server)
        with connect(url) as connection:
            # Every row is read, and every key once more by the index that is made anew.
            orphans = connection.execute(ORPHANS).fetchone()
            connection.execute("REINDEX DATABASE postgres")
        assert orphans == (0,)
        server.stop()
        server.check()
