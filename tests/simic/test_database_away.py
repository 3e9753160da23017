"""A PostgreSQL server that goes away under a service, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest
from tests.postgres import Cluster, Postgres, postgres
from tests.scraping import scraped
from tests.simic.episodes import Script
from tests.simic.running import Client, SimicProcess, eventually, running
from tests.simic.test_experience_service import failure, send, stored
from tests.simic.test_learner import learners, play, start, training, updated

from chassis.address import Address
from chassis.errors import ErrorCode
from chassis.status import from_rpc_error
from leyline.supervision import free_address
from leyline.v1.experience_pb2 import (
    GetIngestCursorRequest,
    RecordTransitionsRequest,
    StreamTransitionsRequest,
)
from leyline.v1.registry_pb2 import WatchPoliciesRequest

AWAY = ErrorCode.DATABASE_UNAVAILABLE


@pytest.fixture(scope="module")
def mortal() -> Iterator[Postgres]:
    """A server that may be killed."""
    with postgres(sync=False) as server:
        yield server


@pytest.fixture
def server(mortal: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """The same, alive, with a database for every Simic that the test runs."""
    url = Cluster(mortal.url("postgres")).create()
    monkeypatch.setenv("LEYLINE_SIMIC_DATABASE_URL", url)
    yield mortal
    if not mortal.runs:
        mortal.start()


async def test_while_the_server_is_away_calls_may_be_tried_again_and_then_they_succeed(
    server: Postgres, tmp_path: Path
) -> None:
    script = Script(accuracies=[0.1] * 31)
    items = script.items()
    more = asyncio.Event()

    async def requests() -> AsyncIterator[StreamTransitionsRequest]:
        yield StreamTransitionsRequest(items=items[:10])
        await more.wait()
        yield StreamTransitionsRequest(items=items[10:])

    address = free_address()
    async with running(tmp_path, metrics_listen=Address.parse(address)) as client:
        await client.experience.BeginEpisode(script.begin())
        stream = client.experience.StreamTransitions(requests())
        watch = client.registry.WatchPolicies(WatchPoliciesRequest())
        watching = asyncio.ensure_future(watch.read())
        await stream.read()
        server.kill()
        more.set()
        cursor = GetIngestCursorRequest(run_id="run")
        for call in (
            client.experience.GetIngestCursor(cursor),
            client.experience.RecordTransitions(RecordTransitionsRequest(items=items)),
            stream.read(),
            watching,
        ):
            error = from_rpc_error(await failure(call))
            assert error.error_code is AWAY
            assert error.is_retryable
        shown = await scraped(address)
        assert shown.value("leyline_database_up") == 0
        assert shown.value("leyline_commit_items_sum") == 10

        server.start()
        assert (await client.experience.GetIngestCursor(cursor)).next_step == 10
        assert await send(client, items, 7) == []
        assert await stored(client) == script.transitions()


async def test_a_training_goes_on_with_the_same_learner(server: Postgres, tmp_path: Path) -> None:
    simic = SimicProcess(tmp_path)
    async with grpc.aio.insecure_channel(await simic.start()) as channel:
        client = Client(channel)
        await start(client, max_updates=2)
        await play(client, 0, 2)
        await updated(client, 1)
        for _ in range(2):
            server.kill()
            await asyncio.sleep(1)
            server.start()
        await play(client, 2, 2)
        await updated(client, 2)
        assert len(learners(tmp_path)) == 1
        assert (await training(client)).episodes == 4
    assert await simic.stop() == 0


async def test_a_service_that_starts_before_its_database_waits_for_it(
    server: Postgres, tmp_path: Path
) -> None:
    server.kill()
    simic = SimicProcess(tmp_path)
    starting = asyncio.create_task(simic.start())

    async def waits() -> bool:
        return "waiting for the database" in simic.log()

    await eventually(waits)
    server.start()
    async with grpc.aio.insecure_channel(await starting) as channel:
        await Client(channel).experience.BeginEpisode(Script().begin())
    assert await simic.stop() == 0


async def test_a_service_whose_database_does_not_come_says_why_it_ends(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.kill()
    monkeypatch.setenv("LEYLINE_SIMIC_DATABASE_WAIT_S", "0")
    simic = SimicProcess(tmp_path)
    assert await simic.run() == 1
    last = simic.log().splitlines()[-1]
    assert "error: the database of this service cannot be reached: " in last
    assert "Connection refused" in last
