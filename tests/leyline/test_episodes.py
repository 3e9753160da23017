"""Episodes are read whole, each once, over breaks of connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tests.leyline.experience import made_episode

from leyline.channel import NO_CREDENTIALS
from leyline.client import Episode, Experience, patience
from leyline.error import ServiceError
from leyline.v1.experience_pb2 import (
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    ExperienceItem,
    GetIngestCursorRequest,
    GetIngestCursorResponse,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
    RecordTransitionsRequest,
    RecordTransitionsResponse,
)
from leyline.v1.experience_pb2_grpc import (
    ExperienceServiceServicer,
    add_ExperienceServiceServicer_to_server,
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)


class Store(ExperienceServiceServicer):
    """Has some episodes; each call breaks off after so many records more than the one before."""

    def __init__(self, episodes: Sequence[Episode], breaks_after: int | None = None) -> None:
        self.records = [record for episode in episodes for record in _records(episode)]
        self.breaks_after = breaks_after
        self.calls = 0

    async def ReadEpisodes(
        self, request: ReadEpisodesRequest, context: Any
    ) -> AsyncIterator[ReadEpisodesResponse]:
        self.calls += 1
        for sent, record in enumerate(self.records):
            if self.breaks_after is not None and sent == self.calls * self.breaks_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield record

    async def _breaks_once(self, context: Any) -> None:
        self.calls += 1
        if self.calls == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    async def BeginEpisode(
        self, request: BeginEpisodeRequest, context: Any
    ) -> BeginEpisodeResponse:
        await self._breaks_once(context)
        return BeginEpisodeResponse(fence=7)

    async def RecordTransitions(
        self, request: RecordTransitionsRequest, context: Any
    ) -> RecordTransitionsResponse:
        await self._breaks_once(context)
        return RecordTransitionsResponse(acknowledged_sequence=len(request.items))

    async def GetIngestCursor(
        self, request: GetIngestCursorRequest, context: Any
    ) -> GetIngestCursorResponse:
        await self._breaks_once(context)
        return GetIngestCursorResponse(next_step=3)


def _records(episode: Episode) -> list[ReadEpisodesResponse]:
    records = [ReadEpisodesResponse(head=episode.head)]
    records += [ReadEpisodesResponse(transition=step) for step in episode.steps]
    if episode.end is not None:
        records.append(ReadEpisodesResponse(end=episode.end))
    return records


@asynccontextmanager
async def experience_of(store: Store, breaks: list[str]) -> AsyncIterator[Experience]:
    server = grpc.aio.server()
    add_ExperienceServiceServicer_to_server(store, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        address = f"127.0.0.1:{port}"
        async with Experience(
            address, NO_CREDENTIALS, lambda error, _: breaks.append(error.code)
        ) as client:
            yield client
    finally:
        await server.stop(None)


async def test_a_reading_goes_on_after_each_break_with_every_episode_whole_and_once() -> None:
    shapes = [("b", 0, 4), ("b", 1, 2), ("a", 0, 3), ("a", 5, 0), ("c", 0, 6)]
    episodes = [
        made_episode(seed, steps, run_id=run, index=index)
        for seed, (run, index, steps) in enumerate(shapes)
    ]
    store, breaks = Store(episodes, breaks_after=5), list[str]()
    async with experience_of(store, breaks) as experience:
        read = [episode async for episode in experience.episodes(ReadEpisodesRequest())]
    assert read == episodes
    assert breaks == ["UNAVAILABLE"] * (store.calls - 1)
    assert store.calls > 3


async def test_a_service_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    async with experience_of(Store([made_episode(1, 9)], breaks_after=2), []) as experience:
        with pytest.raises(ServiceError, match="gone"):
            _ = [episode async for episode in experience.episodes(ReadEpisodesRequest())]


async def test_recording_waits_for_a_service_that_is_away() -> None:
    item = ExperienceItem(sequence=1, fence=1, transition=made_episode(1, 1).steps[0])
    breaks = list[str]()
    async with experience_of(Store([]), breaks) as experience:
        assert await experience.record([item]) == []
    async with experience_of(Store([]), breaks) as experience:
        begun = await experience.begin(BeginEpisodeRequest(run_id="run"))
        assert begun.fence == 7
    async with experience_of(Store([]), breaks) as experience:
        cursor = await experience.cursor("run", 0)
        assert cursor is not None
        assert cursor.next_step == 3
    assert breaks == ["UNAVAILABLE"] * 3
