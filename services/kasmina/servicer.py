"""The trainer service on the wire: messages in, plain calls, messages out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import grpc

from chassis.drain import Drain
from chassis.errors import ErrorCode, LeylineError, Violation
from chassis.logging import bind_call
from kasmina.runs.admission import admit
from kasmina.runs.disk import Disk, DiskFull
from kasmina.runs.driven_episode import DrivenEpisode
from kasmina.runs.final_networks import FinalNetworks
from kasmina.runs.journal import Journal
from kasmina.runs.kin import Kin
from kasmina.runs.run_log import QueueFull, RunExists, RunRecord
from kasmina.runs.run_message import run_message
from kasmina.runs.state_directory import StateDirectory
from kasmina.runs.supervisor import Supervisor
from kasmina.settings import KasminaSettings
from leyline.indices import episode_indices, in_words
from leyline.v1.trainer_pb2 import (
    CancelRunRequest,
    CancelRunResponse,
    DownloadNetworkRequest,
    DownloadNetworkResponse,
    DriveEpisodeRequest,
    DriveEpisodeResponse,
    DriveEpisodeStart,
    EvaluateRunRequest,
    EvaluateRunResponse,
    GetRunRequest,
    GetRunResponse,
    ListRunsRequest,
    ListRunsResponse,
    RunSpec,
    StartRunRequest,
    StartRunResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from leyline.v1.trainer_pb2_grpc import TrainerServiceServicer

_DEFAULT_PAGE = 50
_TOKEN_DIGITS = 18  # what SQLite counts with

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
        self._networks = FinalNetworks(settings, state, journal)

    async def StartRun(self, request: StartRunRequest, context: Context) -> StartRunResponse:
        """Queues a run."""
        return StartRunResponse(run=run_message(await self.start(request)))

    async def start(self, request: StartRunRequest) -> RunRecord:
        """Queues a run, or finds the one that there is. Raises LeylineError."""
        return await self._start(request.run_id, request.spec, driven=False)

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
        self._supervisor.driven.announce(request.run_id)
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
        """Runs one episode for a caller who decides."""
        start = await self._opening(requests)
        record = await self._start_driven(start)
        with self._supervisor.driven.driven(record.run_id, start.episode_index) as run:
            episode = DrivenEpisode(self._journal, record, run, start.episode_index)
            async with aclosing(episode.play(requests)) as responses:
                async for response in self._drain.cut(responses):
                    yield response

    async def EvaluateRun(
        self, request: EvaluateRunRequest, context: Context
    ) -> EvaluateRunResponse:
        """Evaluates an episode's final network."""
        run = await self._run(request.run_id)
        facts = await self._networks.evaluate(run, request.episode_index, request.split)
        return EvaluateRunResponse(accuracy=facts.accuracy, loss=facts.loss, images=facts.images)

    async def DownloadNetwork(
        self, request: DownloadNetworkRequest, context: Context
    ) -> AsyncIterator[DownloadNetworkResponse]:
        """Streams an episode's final network, from an offset on."""
        run = await self._run(request.run_id)
        file = await self._networks.file(run, request.episode_index, request.format, request.offset)
        async for piece in self._drain.cut(file.pieces(request.offset)):
            yield piece

    async def _opening(self, requests: AsyncIterator[DriveEpisodeRequest]) -> DriveEpisodeStart:
        async for request in requests:
            if request.HasField("start"):
                bind_call(run_id=request.start.run_id, episode=request.start.episode_index)
                return request.start
            break
        raise _invalid("start", "must be the first message")

    async def _start_driven(self, start: DriveEpisodeStart) -> RunRecord:
        """The run whose episode is to be driven, queued where there is none of that name."""
        index, field = start.episode_index, "start.episode_index"
        known = await asyncio.to_thread(self._journal.runs.get, start.run_id)
        first = start.spec.first_episode
        if known is None and index != first:
            described = f"must be {first}, the first episode of a run that is yet to begin"
            raise _invalid(field, described)
        try:
            record = await self._start(start.run_id, start.spec, driven=True)
        except LeylineError as error:
            error.violations = tuple(
                replace(violation, field=f"start.{violation.field}")
                for violation in error.violations
            )
            raise
        indices = episode_indices(record.spec)
        if index not in indices:
            raise _invalid(field, f"must be an episode of the run, which has {in_words(indices)}")
        if indices.index(index) > record.episodes_ended:
            first = indices[record.episodes_ended]
            raise _invalid(field, f"must be {first}, the first episode that has not ended")
        return record

    async def _start(self, run_id: str, requested: RunSpec, *, driven: bool) -> RunRecord:
        """Queues a run, or finds the one that was asked for with the same words."""
        spec = await asyncio.to_thread(self._admitted, run_id, requested, driven)
        run_id = run_id or f"run-{uuid.uuid4().hex[:12]}"
        bind_call(run_id=run_id)
        create = partial(self._journal.runs.create, driven=driven)
        try:
            self._disk.require_room()
            record = await asyncio.to_thread(
                create, run_id, requested, spec, self._settings.queue_limit
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
        return record

    def _admitted(self, run_id: str, requested: RunSpec, driven: bool) -> RunSpec:
        """The specification with its defaults; that of a run which there is already is not looked
        at again, for what it refers to may be gone.
        """
        known = self._journal.runs.get(run_id) if run_id else None
        if known is not None:
            return known.spec
        return admit(requested, self._settings, Kin(self._journal, self._state), driven=driven)

    async def _run(self, run_id: str) -> RunRecord:
        bind_call(run_id=run_id)
        record = await asyncio.to_thread(self._journal.runs.get, run_id)
        if record is None:
            raise LeylineError(ErrorCode.RUN_NOT_FOUND, run_id=run_id)
        return record

    async def _events(self, run_id: str, after: int) -> AsyncIterator[WatchRunResponse]:
        while True:
            # The run is read before its events: one that has ended then has no event after those.
            record = await asyncio.to_thread(self._journal.runs.get, run_id)
            if record is None:
                return  # it ended, and was forgotten
            events = await asyncio.to_thread(self._journal.events.after, run_id, after)
            for event in events:
                yield event
                after = event.sequence
            if not events:
                if record.has_ended:
                    return
                await asyncio.sleep(self._settings.poll_interval_s)


def _invalid(field: str, description: str) -> LeylineError:
    return LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[Violation(field, description)])


def _page_start(token: str) -> int | None:
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) <= _TOKEN_DIGITS):
        raise _invalid("page_token", "must be the next_page_token of an earlier answer")
    return int(token)
