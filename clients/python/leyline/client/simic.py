"""Simic: stored experience, policy versions, and the trainings that make them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import grpc

from leyline.client.backup import OnProgress, save
from leyline.client.connection import CALL_TIMEOUT_S, Client
from leyline.client.episodes import Episode, read_episodes
from leyline.client.patience import Patience
from leyline.error import ServiceError
from leyline.v1.experience_pb2 import (
    BackUpRequest,
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    EpisodeSummary,
    ExperienceItem,
    GetIngestCursorRequest,
    GetIngestCursorResponse,
    GetStatisticsRequest,
    GetStatisticsResponse,
    ListEpisodesRequest,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
    RecordTransitionsRequest,
    RejectedItem,
)
from leyline.v1.experience_pb2_grpc import ExperienceServiceStub
from leyline.v1.learner_pb2 import (
    GetTrainingRequest,
    StartTrainingRequest,
    StopTrainingRequest,
    Training,
    TrainingPlan,
    WatchTrainingRequest,
    WatchTrainingResponse,
)
from leyline.v1.learner_pb2_grpc import LearnerServiceStub
from leyline.v1.registry_pb2 import (
    ActivatePolicyRequest,
    ActivatePolicyResponse,
    ArtifactChunk,
    CollectGarbageRequest,
    CollectGarbageResponse,
    GetPolicyRequest,
    GetPolicyResponse,
    ListPoliciesRequest,
    PolicyManifest,
    RegisterPolicyRequest,
    RegisterPolicyResponse,
    RollBackPolicyRequest,
    RollBackPolicyResponse,
)
from leyline.v1.registry_pb2_grpc import PolicyRegistryServiceStub

_CHUNK_BYTES = 256 * 1024
_UPLOAD_TIMEOUT_S = 600.0
"""For 64 MiB, which is what an artifact may have, at 1 Mbit/s."""
_COLLECTION_TIMEOUT_S = 600.0


class Experience(Client):
    """Simic's stored experience."""

    def _open(self, channel: grpc.aio.Channel) -> None:
        self._stub = ExperienceServiceStub(channel)

    async def statistics(self, run_id: str = "") -> GetStatisticsResponse:
        """Count what is stored, of one run or of all."""
        request = GetStatisticsRequest(run_id=run_id)
        return await self._call(self._stub.GetStatistics(request, timeout=CALL_TIMEOUT_S))

    async def page(self, request: ListEpisodesRequest) -> tuple[list[EpisodeSummary], str]:
        """Return some episodes without their steps, newest first, and the token of the next page.

        An empty token goes with the last one.
        """
        answer = await self._call(self._stub.ListEpisodes(request, timeout=CALL_TIMEOUT_S))
        return list(answer.episodes), answer.next_page_token

    def read(self, request: ReadEpisodesRequest) -> AsyncIterator[ReadEpisodesResponse]:
        """Yield heads, steps and ends of episodes, in order."""
        return self._stream(self._stub.ReadEpisodes(request))

    async def episodes(self, request: ReadEpisodesRequest) -> AsyncIterator[Episode]:
        """Yield the selected episodes in order, over breaks of connection. Each is whole: where a
        version is asked for, those of which it decided a step, with the others' steps.
        """
        selected = read_episodes(lambda: self.read(request), Patience(self._on_break))
        async for episode in selected:
            if request.policy_version and len(episode.steps) < episode.head.steps:
                whole = await self.episode(*episode.key)
                if whole is None:
                    continue  # it was deleted meanwhile
                episode = whole
            yield episode

    async def episode(self, run_id: str, episode_index: int) -> Episode | None:
        """Return one episode; None where there is none."""
        request = ReadEpisodesRequest(run_id=run_id, first_episode=episode_index, max_episodes=1)
        found = read_episodes(lambda: self.read(request), Patience(self._on_break))
        async for episode in found:
            if episode.key == (run_id, episode_index):
                return episode
        return None

    async def cursor(self, run_id: str, episode_index: int) -> GetIngestCursorResponse | None:
        """Return how much of an episode is stored; None where it never began."""
        request = GetIngestCursorRequest(run_id=run_id, episode_index=episode_index)
        try:
            return await self._patiently(
                lambda: self._stub.GetIngestCursor(request, timeout=CALL_TIMEOUT_S)
            )
        except ServiceError as error:
            if error.reason == "EPISODE_NOT_FOUND":
                return None
            raise

    async def begin(self, request: BeginEpisodeRequest) -> BeginEpisodeResponse:
        """Begin an episode, or begin it again: the fence in the answer is above all before."""
        return await self._patiently(
            lambda: self._stub.BeginEpisode(request, timeout=CALL_TIMEOUT_S)
        )

    async def record(self, items: Sequence[ExperienceItem]) -> Sequence[RejectedItem]:
        """Return once items are on disk, with those that were refused.

        Args:
            items: 1 to 256, in order of their sequences; 4 MB at most.
        """
        request = RecordTransitionsRequest(items=items)
        answer = await self._patiently(
            lambda: self._stub.RecordTransitions(request, timeout=CALL_TIMEOUT_S)
        )
        return answer.rejected

    async def back_up(
        self, path: Path, *, overwrite: bool = False, on_progress: OnProgress | None = None
    ) -> str:
        """Fetch a copy of everything that Simic keeps, as it is now, into a file.

        The file, a SQLite database, is there whole or not at all. Simic first makes the copy and
        then sends it. Returns the file's SHA-256 in hexadecimal.

        Args:
            path: where to write it.
            overwrite: whether a file that is there may be replaced.
            on_progress: told of each piece that has come.

        Raises:
            ServiceError: Simic has no room for the copy, is not there or went away, or what came is
                broken.
            FileExistsError: there is such a file already, or another backup is being written to it.
            OSError: the file cannot be written.
        """
        return await save(
            lambda: self._stream(self._stub.BackUp(BackUpRequest())),
            path,
            overwrite=overwrite,
            on_progress=on_progress,
        )


class Registry(Client):
    """Simic's policy versions."""

    def _open(self, channel: grpc.aio.Channel) -> None:
        self._stub = PolicyRegistryServiceStub(channel)

    async def list(self) -> AsyncIterator[tuple[PolicyManifest, bool]]:
        """Yield all versions, newest first, each with whether it is the active one."""
        token = ""
        while True:
            request = ListPoliciesRequest(page_token=token)
            page = await self._call(self._stub.ListPolicies(request, timeout=CALL_TIMEOUT_S))
            for manifest in page.policies:
                yield manifest, manifest.policy_version == page.active_version
            token = page.next_page_token
            if not token:
                return

    async def get(self, policy_version: str = "") -> GetPolicyResponse:
        """Return a version, or the active one."""
        request = GetPolicyRequest(policy_version=policy_version)
        return await self._call(self._stub.GetPolicy(request, timeout=CALL_TIMEOUT_S))

    async def register(self, manifest: PolicyManifest, artifact: bytes) -> RegisterPolicyResponse:
        """Register a version. One that is there already is returned as it is, with its own
        manifest.

        Args:
            manifest: all about it but its bytes.
            artifact: the bytes, at most 64 MiB.
        """
        request = _upload(manifest, artifact)
        return await self._call(self._stub.RegisterPolicy(request, timeout=_UPLOAD_TIMEOUT_S))

    async def activate(
        self, policy_version: str, reason: str = "", *, force: bool = False
    ) -> ActivatePolicyResponse:
        """Make a version the active one, by force even where it does not decide for episodes that
        are being played.
        """
        request = ActivatePolicyRequest(policy_version=policy_version, reason=reason, force=force)
        return await self._call(self._stub.ActivatePolicy(request, timeout=CALL_TIMEOUT_S))

    async def roll_back(self, reason: str = "") -> RollBackPolicyResponse:
        """Make the version active that was so before the active one."""
        request = RollBackPolicyRequest(reason=reason)
        return await self._call(self._stub.RollBackPolicy(request, timeout=CALL_TIMEOUT_S))

    async def collect_garbage(
        self, keep_newest: int = 0, *, dry_run: bool = False
    ) -> CollectGarbageResponse:
        """Delete the artifacts of versions that nothing needs, or only say which.

        Args:
            keep_newest: so many of the newest versions stay; 0 leaves it to the registry.
            dry_run: delete nothing.
        """
        request = CollectGarbageRequest(keep_newest=keep_newest, dry_run=dry_run)
        return await self._call(self._stub.CollectGarbage(request, timeout=_COLLECTION_TIMEOUT_S))


def _upload(manifest: PolicyManifest, artifact: bytes) -> Iterator[RegisterPolicyRequest]:
    yield RegisterPolicyRequest(manifest=manifest)
    for offset in range(0, len(artifact), _CHUNK_BYTES):
        chunk = ArtifactChunk(offset=offset, data=artifact[offset : offset + _CHUNK_BYTES])
        yield RegisterPolicyRequest(chunk=chunk)


class Learner(Client):
    """Simic's trainings."""

    def _open(self, channel: grpc.aio.Channel) -> None:
        self._stub = LearnerServiceStub(channel)

    async def start(self, plan: TrainingPlan, training_id: str = "") -> Training:
        """Start a training."""
        request = StartTrainingRequest(training_id=training_id, plan=plan)
        answer = await self._call(self._stub.StartTraining(request, timeout=CALL_TIMEOUT_S))
        return answer.training

    async def get(self, training_id: str = "") -> Training:
        """Return a training, or the newest one."""
        request = GetTrainingRequest(training_id=training_id)
        return (await self._call(self._stub.GetTraining(request, timeout=CALL_TIMEOUT_S))).training

    async def stop(self, training_id: str) -> Training:
        """End a training after the update that it is in."""
        request = StopTrainingRequest(training_id=training_id)
        answer = await self._call(self._stub.StopTraining(request, timeout=CALL_TIMEOUT_S))
        return answer.training

    def watch(self, training_id: str, after: int = 0) -> AsyncIterator[WatchTrainingResponse]:
        """Yield the updates of a training until it ends, over breaks of connection."""
        return self._watch(
            lambda seen: self._stub.WatchTraining(
                WatchTrainingRequest(training_id=training_id, after_sequence=seen)
            ),
            after,
        )
