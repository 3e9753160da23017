from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tests.simic.disk import FullDisk, FullServer
from tests.simic.episodes import Script, in_messages
from tests.simic.running import Client, SimicProcess, running

from chassis.errors import ErrorCode
from chassis.status import from_rpc_error, from_status
from leyline.v1.experience_pb2 import (
    BeginEpisodeRequest,
    ExperienceItem,
    GetIngestCursorRequest,
    GetStatisticsRequest,
    ReadEpisodesRequest,
    RecordTransitionsRequest,
    RejectedItem,
    StreamTransitionsRequest,
    StreamTransitionsResponse,
)
from leyline.v1.transition_pb2 import Transition
from simic.database.database import Database
from simic.experience.store import ExperienceStore

pytestmark = pytest.mark.usefixtures("served")


async def send(client: Client, items: Sequence[ExperienceItem], size: int) -> list[RejectedItem]:
    """Send items on one stream, and wait for the last acknowledgement."""

    async def requests() -> AsyncIterator[StreamTransitionsRequest]:
        for message in in_messages(items, size):
            yield StreamTransitionsRequest(items=message)

    rejected: list[RejectedItem] = []
    acknowledged = 0
    async for response in client.experience.StreamTransitions(requests()):
        assert response.acknowledged_sequence > acknowledged
        acknowledged = response.acknowledged_sequence
        rejected += response.rejected
    assert acknowledged == items[-1].sequence
    return rejected


async def stored(client: Client) -> list[Transition]:
    return [
        record.transition
        async for record in client.experience.ReadEpisodes(ReadEpisodesRequest())
        if record.HasField("transition")
    ]


async def failure(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_beginning_that_was_given_up_is_not_carried_out_later(
    tmp_path: Path, served: str
) -> None:
    simic, database, begin = SimicProcess(tmp_path), Database(served), Script().begin()
    async with grpc.aio.insecure_channel(await simic.start()) as channel:
        experience = Client(channel).experience
        with database.write():
            given_up = await failure(experience.BeginEpisode(begin, timeout=0.5))
            assert given_up.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            again = experience.BeginEpisode(begin)
            # Answered without the database; by then, the first call is known to be over.
            await failure(experience.BeginEpisode(BeginEpisodeRequest()))
        assert (await again).fence == 1
    assert await simic.stop() == 0
    assert ExperienceStore(database).cursor("run", 0).fence == 1
    database.close()


async def test_many_streams_at_once_store_every_step_once(tmp_path: Path) -> None:
    scripts = [Script(index=index, accuracies=[0.1] * 31) for index in range(12)]
    async with running(tmp_path) as client:
        for script in scripts:
            await client.experience.BeginEpisode(script.begin())
        sent = [send(client, script.items(), size) for script in scripts for size in (1, 7, 64)]
        rejected = await asyncio.gather(*sent)
        assert list(itertools.chain(*rejected)) == []
        expected = [step for script in scripts for step in script.transitions()]
        assert await stored(client) == expected
        counts = await client.experience.GetStatistics(GetStatisticsRequest())
        assert (counts.episodes_ended, counts.transitions) == (12, 360)


async def test_a_stream_goes_on_behind_a_rejected_item(tmp_path: Path) -> None:
    script = Script()
    items = script.items()
    items[1].transition.snapshot.slots[0].alpha = 7
    async with running(tmp_path) as client:
        await client.experience.BeginEpisode(script.begin())
        [rejected] = await send(client, items, 1)
        assert rejected.sequence == 2
        error = from_status(rejected.error)
        assert error.error_code is ErrorCode.INVALID_ARGUMENT
        broken = {violation.field for violation in error.violations}
        assert "transition.snapshot.slots[0].alpha" in broken
        steps = [transition.step_id.step for transition in await stored(client)]
        assert steps == [0, 2]


async def test_sequences_that_do_not_grow_end_the_call(tmp_path: Path) -> None:
    items = Script().items()
    items[2].sequence = items[1].sequence
    async with running(tmp_path) as client:
        request = RecordTransitionsRequest(items=items)
        error = from_rpc_error(await failure(client.experience.RecordTransitions(request)))
    assert error.error_code is ErrorCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == ["items[2].sequence"]


async def test_a_request_without_its_fields_names_them(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        call = client.experience.BeginEpisode(BeginEpisodeRequest(run_id="no spaces please"))
        error = from_rpc_error(await failure(call))
    assert {violation.field for violation in error.violations} >= {
        "run_id",
        "mode",
        "slots",
        "spec_fingerprint",
    }


async def test_a_full_disk_loses_nothing_and_the_sender_goes_on_when_there_is_room(
    tmp_path: Path, full_disk: FullDisk | FullServer
) -> None:
    script = Script(accuracies=[0.1] * 61)
    async with running(tmp_path) as client:
        await client.experience.BeginEpisode(script.begin())
        request = RecordTransitionsRequest(items=script.items())
        with full_disk as disk:
            error = from_rpc_error(await failure(client.experience.RecordTransitions(request)))
            assert error.error_code is ErrorCode.DISK_FULL
            assert error.is_retryable
            assert await stored(client) == []
            disk.make_room()
            response = await client.experience.RecordTransitions(request)
        assert response.acknowledged_sequence == 61
        assert await stored(client) == script.transitions()


async def test_a_killed_simic_has_everything_that_it_acknowledged(tmp_path: Path) -> None:
    script = Script(accuracies=[0.1] * 401)
    items = script.items()
    simic = SimicProcess(tmp_path)
    acknowledged = 0

    async def requests() -> AsyncIterator[StreamTransitionsRequest]:
        for message in in_messages(items, 3):
            yield StreamTransitionsRequest(items=message)

    async with grpc.aio.insecure_channel(await simic.start()) as channel:
        client = Client(channel)
        await client.experience.BeginEpisode(script.begin())
        call = client.experience.StreamTransitions(requests())
        while acknowledged < 100:
            response = await call.read()
            assert isinstance(response, StreamTransitionsResponse)
            acknowledged = response.acknowledged_sequence
        await simic.kill()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE

    async with grpc.aio.insecure_channel(await simic.start()) as channel:
        client = Client(channel)
        begun = await client.experience.BeginEpisode(script.begin())
        assert begun.fence == 2
        assert acknowledged <= begun.next_step < 401
        assert await stored(client) == script.transitions()[: begun.next_step]
        # The sender goes on from its own last acknowledgement; what is stored already is harmless.
        rest = script.items(fence=begun.fence)[acknowledged:]
        assert await send(client, rest, 64) == []
        assert await stored(client) == script.transitions()
        cursor = await client.experience.GetIngestCursor(GetIngestCursorRequest(run_id="run"))
        assert cursor.next_step == 400
    assert await simic.stop() == 0


async def test_a_second_simic_on_the_same_directory_says_who_has_it(tmp_path: Path) -> None:
    first, second = SimicProcess(tmp_path), SimicProcess(tmp_path)
    await first.start()
    with pytest.raises(AssertionError, match="ended before it listened"):
        await second.start()
    assert await second.stop() == 1
    assert f"in use by another Simic (process {first.pid})" in (tmp_path / "log").read_text()
    await first.stop()
