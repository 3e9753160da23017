"""ExperienceService: between the wire and the experience store."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from chassis.drain import Drain
from chassis.errors import ErrorCode, LeylineError, Violation
from chassis.logging import bind_call
from chassis.status import to_status
from leyline.v1.experience_pb2 import (
    BackUpRequest,
    BackUpResponse,
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    ExperienceItem,
    GetIngestCursorRequest,
    GetIngestCursorResponse,
    GetStatisticsRequest,
    GetStatisticsResponse,
    ListEpisodesRequest,
    ListEpisodesResponse,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
    RecordTransitionsRequest,
    RecordTransitionsResponse,
    RejectedItem,
    StreamTransitionsRequest,
    StreamTransitionsResponse,
)
from leyline.v1.experience_pb2_grpc import ExperienceServiceServicer
from simic.database.backup import Backups
from simic.experience.ahead import answered_in_order
from simic.experience.ingest import Ingest
from simic.experience.integrity import Integrity
from simic.experience.reading import ExperienceReader
from simic.experience.store import ExperienceStore, Rejection

PIECE_BYTES = 256 * 1024
"""Of a backup: well below the 4 MiB that a gRPC message may have."""
MESSAGES_AHEAD = 4
"""Messages of one stream that are under way at once; a sender feels it as back-pressure."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ExperienceServicer(ExperienceServiceServicer):
    """Serves one store."""

    def __init__(
        self,
        store: ExperienceStore,
        reader: ExperienceReader,
        ingest: Ingest,
        backups: Backups,
        integrity: Integrity,
        drain: Drain,
    ) -> None:
        """Serve ``store`` and what ``reader`` finds in it; ``ingest`` must be running."""
        self._store = store
        self._reader = reader
        self._ingest = ingest
        self._backups = backups
        self._integrity = integrity
        self._drain = drain

    async def BeginEpisode(
        self, request: BeginEpisodeRequest, context: Context
    ) -> BeginEpisodeResponse:
        """Begin an episode, or begin it again; not where the call ends before that."""
        bind_call(run_id=request.run_id, episode=request.episode_index)
        given_up = threading.Event()
        try:
            return await asyncio.to_thread(self._store.begin, request, given_up.is_set)
        finally:
            given_up.set()

    async def StreamTransitions(
        self, request_iterator: AsyncIterator[StreamTransitionsRequest], context: Context
    ) -> AsyncIterator[StreamTransitionsResponse]:
        """Record message after message; each is answered once it is on disk.

        While one waits for the disk, the next ones are read and checked.
        """
        last = 0

        async def record(request: StreamTransitionsRequest) -> StreamTransitionsResponse:
            nonlocal last
            sequence = last = _growing(request.items, last)
            rejected = await self._ingest.record(request.items)
            return StreamTransitionsResponse(
                acknowledged_sequence=sequence, rejected=map(_rejected, rejected)
            )

        answers = answered_in_order(request_iterator, record, MESSAGES_AHEAD)
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def RecordTransitions(
        self, request: RecordTransitionsRequest, context: Context
    ) -> RecordTransitionsResponse:
        """Record one message."""
        last = _growing(request.items, 0)
        rejected = await self._ingest.record(request.items)
        return RecordTransitionsResponse(
            acknowledged_sequence=last, rejected=map(_rejected, rejected)
        )

    async def GetIngestCursor(
        self, request: GetIngestCursorRequest, context: Context
    ) -> GetIngestCursorResponse:
        """Say how much of an episode is stored."""
        bind_call(run_id=request.run_id, episode=request.episode_index)
        return await asyncio.to_thread(self._store.cursor, request.run_id, request.episode_index)

    async def ReadEpisodes(
        self, request: ReadEpisodesRequest, context: Context
    ) -> AsyncIterator[ReadEpisodesResponse]:
        """Stream what is stored, a page at a time."""
        bind_call(run_id=request.run_id)
        pages = self._reader.read(request)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            for record in page:
                yield record
            with self._drain.interrupting():
                # A reader may take hours; a drain must not wait for it.
                await asyncio.sleep(0)

    async def ListEpisodes(
        self, request: ListEpisodesRequest, context: Context
    ) -> ListEpisodesResponse:
        """List episodes, newest first."""
        bind_call(run_id=request.run_id)
        return await asyncio.to_thread(self._reader.page, request)

    async def GetStatistics(
        self, request: GetStatisticsRequest, context: Context
    ) -> GetStatisticsResponse:
        """Count what is stored."""
        bind_call(run_id=request.run_id)
        counts = await asyncio.to_thread(self._reader.statistics, request.run_id)
        counts.integrity = self._integrity.state
        return counts

    async def BackUp(
        self, request: BackUpRequest, context: Context
    ) -> AsyncIterator[BackUpResponse]:
        """Copy everything, then stream the copy."""
        with self._backups.begin() as backup:
            with self._drain.interrupting():
                size = await asyncio.to_thread(backup.make)
            digest = hashlib.sha256()
            for offset in range(0, size, PIECE_BYTES):
                data = await asyncio.to_thread(backup.read, offset, PIECE_BYTES)
                await asyncio.to_thread(digest.update, data)
                last = offset + len(data) == size
                yield BackUpResponse(
                    offset=offset,
                    data=data,
                    total_size=size,
                    sha256=digest.hexdigest() if last else "",
                )
                with self._drain.interrupting():
                    await asyncio.sleep(0)


def _growing(items: Sequence[ExperienceItem], last: int) -> int:
    """The highest sequence of ``items``, given the highest before them.

    Raises:
        LeylineError: INVALID_ARGUMENT where they do not grow: an acknowledgement up to a sequence
            would mean nothing.
    """
    for index, item in enumerate(items):
        # 0 is refused with the item, by the contract's own rule.
        if item.sequence and item.sequence <= last:
            described = f"must be greater than {last}, the one before it"
            violation = Violation(f"items[{index}].sequence", described)
            raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation])
        last = max(last, item.sequence)
    return last


def _rejected(rejection: Rejection) -> RejectedItem:
    return RejectedItem(sequence=rejection.sequence, error=to_status(rejection.error))
