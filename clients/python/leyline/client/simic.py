"""Simic: stored experience, policy versions, and the trainings that make them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc

from leyline.client.backup import OnProgress, save
from leyline.client.connection import CALL_TIMEOUT_S, Client
from leyline.v1.experience_pb2 import (
    BackUpRequest,
    EpisodeSummary,
    GetStatisticsRequest,
    GetStatisticsResponse,
    ListEpisodesRequest,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
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
    ArtifactChunk,
    GetPolicyRequest,
    GetPolicyResponse,
    ListPoliciesRequest,
    PolicyManifest,
    RegisterPolicyRequest,
    RegisterPolicyResponse,
)
from leyline.v1.registry_pb2_grpc import PolicyRegistryServiceStub

_CHUNK_BYTES = 256 * 1024
_UPLOAD_TIMEOUT_S = 600.0
"""For 64 MiB, which is what an artifact may have, at 1 Mbit/s."""


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

    async def activate(self, policy_version: str, reason: str = "") -> str:
        """Make a version the active one; returns the one that was."""
        request = ActivatePolicyRequest(policy_version=policy_version, reason=reason)
        answer = await self._call(self._stub.ActivatePolicy(request, timeout=CALL_TIMEOUT_S))
        return answer.previous_version


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
