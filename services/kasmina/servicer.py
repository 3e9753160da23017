"""The trainer service on the wire: messages in, plain calls, messages out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from chassis.drain import Drain
from chassis.errors import ErrorCode, LeylineError, Violation
from chassis.logging import bind_call
from kasmina.data.errors import DatasetCorrupt, DatasetNotFound
from kasmina.runs import run_spec
from kasmina.runs.disk import Disk, DiskFull
from kasmina.runs.episode_log import EpisodeRecord
from kasmina.runs.journal import Journal
from kasmina.runs.run_log import QueueFull, RunExists, RunRecord
from kasmina.runs.run_message import run_message
from kasmina.runs.state_directory import StateDirectory
from kasmina.runs.supervisor import Supervisor
from kasmina.settings import KasminaSettings
from kasmina.training.evaluation import evaluate
from leyline.v1.trainer_pb2 import (
    SPLIT_TEST,
    CancelRunRequest,
    CancelRunResponse,
    DownloadNetworkRequest,
    DownloadNetworkResponse,
    DriveEpisodeRequest,
    DriveEpisodeResponse,
    EvaluateRunRequest,
    EvaluateRunResponse,
    GetRunRequest,
    GetRunResponse,
    ListRunsRequest,
    ListRunsResponse,
    StartRunRequest,
    StartRunResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from leyline.v1.trainer_pb2_grpc import TrainerServiceServicer

_CHUNK_BYTES = 256 * 1024
_DEFAULT_PAGE = 50
_TOKEN_DIGITS = 18  # what SQLite counts with
_BAD_TOKEN = Violation("page_token", "must be the next_page_token of an earlier answer")

Context = grpc.aio.ServicerContext[Any, Any]


class TrainerServicer(TrainerServiceServicer):
    """Runs, as callers see them."""

    def __init__(
        self,
        settings: KasminaSettings,
        state: StateDirectory,
        journal: Journal,
        disk: Disk,
        supervisor: Supervisor,
        drain: Drain,
    ) -> None:
        self._settings = settings
        self._state = state
        self._journal = journal
        self._disk = disk
        self._supervisor = supervisor
        self._drain = drain
        # One at a time, whatever callers lose patience: each holds a whole data set in memory.
        self._evaluations = ThreadPoolExecutor(1, thread_name_prefix="evaluation")

    async def StartRun(self, request: StartRunRequest, context: Context) -> StartRunResponse:
        """Queues a run."""
        spec = run_spec.fill_in(request.spec, self._settings)
        await asyncio.to_thread(run_spec.check, spec, self._settings)
        run_id = request.run_id or f"run-{uuid.uuid4().hex[:12]}"
        bind_call(run_id=run_id)
        try:
            self._disk.require_room()
            record = await asyncio.to_thread(
                self._journal.runs.create, run_id, request.spec, spec, self._settings.queue_limit
            )
        except RunExists as error:
            raise LeylineError(ErrorCode.RUN_EXISTS, run_id=run_id) from error
        except QueueFull as error:
            limit = self._settings.queue_limit
            raise LeylineError(
                ErrorCode.QUEUE_FULL, queue="the queue of runs", limit=limit
            ) from error
        except DiskFull as full:
            raise LeylineError(ErrorCode.DISK_FULL, path=str(full.path)) from full
        self._supervisor.wake()
        return StartRunResponse(run=run_message(record))

    async def GetRun(self, request: GetRunRequest, context: Context) -> GetRunResponse:
        """Returns one run."""
        return GetRunResponse(run=run_message(await self._run(request.run_id)))

    async def ListRuns(self, request: ListRunsRequest, context: Context) -> ListRunsResponse:
        """Lists runs, newest first."""
        size = request.page_size or _DEFAULT_PAGE
        records = await asyncio.to_thread(
            self._journal.runs.page, _page_start(request.page_token), size + 1
        )
        page = records[:size]
        more = len(records) > size
        return ListRunsResponse(
            runs=[run_message(record) for record in page],
            next_page_token=str(page[-1].number) if more else "",
        )

    async def CancelRun(self, request: CancelRunRequest, context: Context) -> CancelRunResponse:
        """Ends a run after the interval that it is in."""
        await self._run(request.run_id)
        try:
            record = await asyncio.to_thread(
                self._journal.runs.request_cancel, request.run_id, request.reason
            )
        except DiskFull as full:
            raise LeylineError(ErrorCode.DISK_FULL, path=str(full.path)) from full
        return CancelRunResponse(run=run_message(record))

    async def WatchRun(
        self, request: WatchRunRequest, context: Context
    ) -> AsyncIterator[WatchRunResponse]:
        """Streams what happens in a run, and ends with it."""
        await self._run(request.run_id)
        events = self._events(request.run_id, request.after_sequence)
        async for event in self._drain.cut(events):
            yield event

    async def DriveEpisode(
        self, requests: AsyncIterator[DriveEpisodeRequest], context: Context
    ) -> AsyncIterator[DriveEpisodeResponse]:
        """Is not served yet: decisions come from a policy endpoint."""
        async for _ in requests:
            raise LeylineError(ErrorCode.METHOD_NOT_IMPLEMENTED, method="DriveEpisode")
        yield DriveEpisodeResponse()

    async def EvaluateRun(
        self, request: EvaluateRunRequest, context: Context
    ) -> EvaluateRunResponse:
        """Evaluates an episode's final network."""
        record = await self._run(request.run_id)
        await self._finished_episode(request.run_id, request.episode_index)
        settings = run_spec.dataset_settings(record.spec, self._settings.data, self._settings.cache)
        network = self._state.network(request.run_id, request.episode_index)
        try:
            facts = await asyncio.get_running_loop().run_in_executor(
                self._evaluations,
                partial(evaluate, network, settings, on_test_split=request.split == SPLIT_TEST),
            )
        except DatasetNotFound as error:
            raise run_spec.not_found(error) from error
        except DatasetCorrupt as error:
            raise run_spec.corrupt(error, record.spec.dataset.name) from error
        return EvaluateRunResponse(accuracy=facts.accuracy, loss=facts.loss, images=facts.images)

    async def DownloadNetwork(
        self, request: DownloadNetworkRequest, context: Context
    ) -> AsyncIterator[DownloadNetworkResponse]:
        """Streams an episode's final network, from an offset on."""
        await self._run(request.run_id)
        episode = await self._finished_episode(request.run_id, request.episode_index)
        path = self._state.network(request.run_id, request.episode_index)
        async for piece in self._drain.cut(_pieces(path, request.offset, episode)):
            yield piece

    async def _run(self, run_id: str) -> RunRecord:
        bind_call(run_id=run_id)
        record = await asyncio.to_thread(self._journal.runs.get, run_id)
        if record is None:
            raise LeylineError(ErrorCode.RUN_NOT_FOUND, run_id=run_id)
        return record

    async def _finished_episode(self, run_id: str, episode_index: int) -> EpisodeRecord:
        bind_call(episode=episode_index)
        episode = await asyncio.to_thread(self._journal.episodes.get, run_id, episode_index)
        if episode is None or episode.network_sha256 is None:
            raise LeylineError(
                ErrorCode.EPISODE_NOT_FOUND, run_id=run_id, episode_index=episode_index
            )
        return episode

    async def _events(self, run_id: str, after: int) -> AsyncIterator[WatchRunResponse]:
        while True:
            # The run is read before its events: one that has ended then has no event after those.
            record = await self._run(run_id)
            events = await asyncio.to_thread(self._journal.events.after, run_id, after)
            for event in events:
                yield event
                after = event.sequence
            if not events:
                if record.has_ended:
                    return
                await asyncio.sleep(self._settings.poll_interval_s)


async def _pieces(
    path: Path, offset: int, episode: EpisodeRecord
) -> AsyncIterator[DownloadNetworkResponse]:
    total = episode.network_size or 0
    with await asyncio.to_thread(path.open, "rb") as file:
        file.seek(offset)
        while data := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield DownloadNetworkResponse(
                offset=offset, data=data, total_size=total, sha256=episode.network_sha256 or ""
            )
            offset += len(data)


def _page_start(token: str) -> int | None:
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) <= _TOKEN_DIGITS):
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[_BAD_TOKEN])
    return int(token)
