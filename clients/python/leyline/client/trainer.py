"""Kasmina's runs."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from leyline.client.connection import CALL_TIMEOUT_S, Client
from leyline.client.download import OnProgress, download
from leyline.client.drive import DrivenEpisode
from leyline.client.patience import Patience
from leyline.v1.trainer_pb2 import (
    NETWORK_FORMAT_SAFETENSORS,
    SPLIT_TEST,
    CancelRunRequest,
    DownloadNetworkRequest,
    EvaluateRunRequest,
    EvaluateRunResponse,
    GetRunRequest,
    ListRunsRequest,
    NetworkFormat,
    Run,
    RunSpec,
    Split,
    StartRunRequest,
    WatchRunRequest,
    WatchRunResponse,
)
from leyline.v1.trainer_pb2_grpc import TrainerServiceStub

_READING_TIMEOUT_S = 4 * CALL_TIMEOUT_S  # whether a data set can be read is looked at meanwhile
_EVALUATION_TIMEOUT_S = 3600.0


class Trainer(Client):
    """Kasmina's runs."""

    def _open(self, channel: grpc.aio.Channel) -> None:
        self._stub = TrainerServiceStub(channel)

    async def start(self, spec: RunSpec, run_id: str = "") -> Run:
        """Queue a run. Starting it again under the same name returns the run that there is."""
        request = StartRunRequest(run_id=run_id, spec=spec)
        answer = await self._call(self._stub.StartRun(request, timeout=_READING_TIMEOUT_S))
        return answer.run

    async def get(self, run_id: str) -> Run:
        """Return a run."""
        request = GetRunRequest(run_id=run_id)
        return (await self._call(self._stub.GetRun(request, timeout=CALL_TIMEOUT_S))).run

    async def page(self, size: int = 0, token: str = "") -> tuple[list[Run], str]:
        """Return so many runs, newest first, and the token of the next page; empty on the last.

        Args:
            size: at most so many, up to 1000; 0 leaves it to the trainer.
            token: from the page before; empty: the first page.
        """
        request = ListRunsRequest(page_size=size, page_token=token)
        page = await self._call(self._stub.ListRuns(request, timeout=CALL_TIMEOUT_S))
        return list(page.runs), page.next_page_token

    async def list(self) -> AsyncIterator[Run]:
        """Yield all runs, newest first."""
        token = ""
        while True:
            runs, token = await self.page(token=token)
            for run in runs:
                yield run
            if not token:
                return

    async def cancel(self, run_id: str, reason: str = "") -> Run:
        """End a run after the interval that it is in."""
        request = CancelRunRequest(run_id=run_id, reason=reason)
        return (await self._call(self._stub.CancelRun(request, timeout=CALL_TIMEOUT_S))).run

    def watch(self, run_id: str, after: int = 0) -> AsyncIterator[WatchRunResponse]:
        """Yield what happens in a run until it ends, each event once, over breaks of connection."""
        return self._watch(
            lambda seen: self._stub.WatchRun(WatchRunRequest(run_id=run_id, after_sequence=seen)),
            after,
        )

    async def evaluate(
        self, run_id: str, episode_index: int, split: Split.ValueType = SPLIT_TEST
    ) -> EvaluateRunResponse:
        """Classify a split with an episode's final network. Nothing else reads the test split."""
        request = EvaluateRunRequest(run_id=run_id, episode_index=episode_index, split=split)
        return await self._call(self._stub.EvaluateRun(request, timeout=_EVALUATION_TIMEOUT_S))

    async def download(
        self,
        run_id: str,
        episode_index: int,
        path: Path,
        form: NetworkFormat.ValueType = NETWORK_FORMAT_SAFETENSORS,
        on_progress: OnProgress | None = None,
    ) -> str:
        """Fetch an episode's final network into a file, which is there whole or not at all.

        Returns the file's SHA-256 in hexadecimal. What a broken download left beside the file is
        gone on with, now or another time.

        Raises:
            ServiceError: the trainer does not have it, or is away too long.
            DownloadCorrupt: what came does not have the SHA-256 that it should have.
            OSError: the file cannot be written.
        """
        return await download(
            lambda offset: self._stream(
                self._stub.DownloadNetwork(
                    DownloadNetworkRequest(
                        run_id=run_id, episode_index=episode_index, offset=offset, format=form
                    )
                )
            ),
            path,
            Patience(self._on_break),
            on_progress,
        )

    def drive(self, spec: RunSpec, run_id: str = "", episode_index: int = 0) -> DrivenEpisode:
        """Decide an episode oneself; see `DrivenEpisode`.

        Args:
            spec: what to run; its policy is not used.
            run_id: a name for the run; the same name, specification and episode again goes on with
                the episode. Empty: a new one is made.
            episode_index: which episode: the first of the run that has not ended.
        """
        name = run_id or f"drive-{uuid.uuid4().hex[:12]}"
        patience = Patience(self._on_break)
        return DrivenEpisode(
            self._stub.DriveEpisode, self.address, patience, spec, name, episode_index
        )
