"""The networks that episodes leave, as callers get them: evaluated, or as files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from chassis.errors import ErrorCode, LeylineError, Violation
from chassis.logging import bind_call
from kasmina.checkpoint import CheckpointError
from kasmina.data.errors import DatasetCorrupt, DatasetError, DatasetNotFound
from kasmina.runs import run_spec
from kasmina.runs.disk import DiskFull, writing
from kasmina.runs.episode_log import EpisodeRecord
from kasmina.runs.journal import Journal
from kasmina.runs.run_log import RunRecord
from kasmina.runs.state_directory import StateDirectory
from kasmina.settings import KasminaSettings
from kasmina.training.evaluation import Evaluation, evaluate
from kasmina.training.onnx_file import NotConvertible, convert
from leyline.v1.trainer_pb2 import (
    NETWORK_FORMAT_ONNX,
    SPLIT_TEST,
    DownloadNetworkResponse,
    NetworkFormat,
    Split,
)
from leyline.v1.transition_pb2 import TERMINATION_HORIZON, Termination

_PIECE_BYTES = 256 * 1024
_NAMED = 16  # digits of a network's SHA-256 in the name of what was made of it

Result = TypeVar("Result")


@dataclass(frozen=True)
class NetworkFile:
    """A file that callers may have."""

    path: Path
    size: int
    sha256: str

    async def pieces(self, offset: int) -> AsyncIterator[DownloadNetworkResponse]:
        """The file from an offset on. At its very end there is one empty piece, which still tells
        size and SHA-256.
        """
        with await asyncio.to_thread(self.path.open, "rb") as file:
            file.seek(offset)
            while True:
                data = await asyncio.to_thread(file.read, _PIECE_BYTES)
                yield DownloadNetworkResponse(
                    offset=offset, data=data, total_size=self.size, sha256=self.sha256
                )
                offset += len(data)
                if offset >= self.size or not data:
                    return


class FinalNetworks:
    """Of all runs of a service."""

    def __init__(self, settings: KasminaSettings, state: StateDirectory, journal: Journal) -> None:
        self._settings = settings
        self._state = state
        self._journal = journal
        # One of each at a time, whatever callers lose patience: an evaluation holds a whole data
        # set in memory, and a conversion uses what torch has once a process.
        self._evaluations = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self._conversions = ThreadPoolExecutor(1, thread_name_prefix="conversion")

    async def evaluate(
        self, run: RunRecord, episode_index: int, split: Split.ValueType
    ) -> Evaluation:
        """Classifies a split with an episode's network. Raises LeylineError."""
        episode = await self._episode(run, episode_index)
        settings = run_spec.dataset_settings(run.spec, self._settings.data, self._settings.cache)
        path = self._state.network(run.run_id, episode_index)
        work = partial(
            evaluate,
            path,
            settings,
            on_test_split=split == SPLIT_TEST,
            device=self._settings.device,
        )
        try:
            return await self._worked(self._evaluations, work, episode)
        except DatasetNotFound as error:
            raise run_spec.not_found(error) from error
        except DatasetCorrupt as error:
            raise run_spec.corrupt(error, run.spec.dataset.name) from error
        except DatasetError as error:
            raise _unusable(episode, str(error)) from error

    async def file(
        self, run: RunRecord, episode_index: int, form: NetworkFormat.ValueType, offset: int
    ) -> NetworkFile:
        """An episode's network as a file, in which `offset` lies. Raises LeylineError."""
        episode = await self._episode(run, episode_index)
        assert episode.network_sha256 is not None
        path = self._state.network(run.run_id, episode_index)
        if form == NETWORK_FORMAT_ONNX:
            work = partial(_as_onnx, path, episode.network_sha256)
            found = await self._worked(self._conversions, work, episode)
        else:
            found = NetworkFile(path, episode.network_size or 0, episode.network_sha256)
        if offset > found.size:
            described = f"must not exceed the file's {found.size} bytes"
            violation = Violation("offset", described)
            raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation])
        return found

    async def _episode(self, run: RunRecord, episode_index: int) -> EpisodeRecord:
        bind_call(episode=episode_index)
        episode = await asyncio.to_thread(self._journal.episodes.get, run.run_id, episode_index)
        if episode is None:
            raise LeylineError(
                ErrorCode.EPISODE_NOT_FOUND, run_id=run.run_id, episode_index=episode_index
            )
        if episode.network_sha256 is None:
            raise _unusable(episode, _why_none(episode))
        return episode

    async def _worked(
        self, executor: ThreadPoolExecutor, work: Callable[[], Result], episode: EpisodeRecord
    ) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except DiskFull as full:
            raise LeylineError(ErrorCode.DISK_FULL, path=str(full.path)) from full
        except (CheckpointError, NotConvertible) as error:
            raise _unusable(episode, str(error)) from error


def _as_onnx(source: Path, sha256: str) -> NetworkFile:
    """The network converted, once. What was made of it lies beside it and goes with it."""
    path = source.with_name(f"{source.stem}-{sha256[:_NAMED]}.onnx")
    if not path.exists():
        with writing(path):
            convert(source, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return NetworkFile(path, path.stat().st_size, digest)


def _why_none(episode: EpisodeRecord) -> str:
    if not episode.termination:
        return f"there is none before the horizon, and {episode.steps} steps are done"
    if episode.termination == TERMINATION_HORIZON:
        return "a simulated episode leaves none"
    ended = Termination.Name(episode.termination).removeprefix("TERMINATION_")
    return f"the episode did not come to its horizon, but ended {ended}"


def _unusable(episode: EpisodeRecord, problem: str) -> LeylineError:
    return LeylineError(
        ErrorCode.NETWORK_UNUSABLE,
        run_id=episode.run_id,
        episode_index=episode.episode_index,
        problem=problem,
    )
