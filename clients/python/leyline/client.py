"""A client for each service: calls that raise readable errors, watches that go on after a break.

    async with Trainer("127.0.0.1:50051") as trainer:
        run = await trainer.start(RunSpec(dataset=DatasetSpec(name="digits"), episodes=3))
        async for event in trainer.watch(run.run_id):
            ...

Every call raises `leyline.error.ServiceError` where the service refuses it or is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from leyline.error import ServiceError, from_rpc_error
from leyline.v1.experience_pb2 import (
    GetStatisticsRequest,
    GetStatisticsResponse,
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
from leyline.v1.policy_pb2 import GetPolicyInfoRequest, GetPolicyInfoResponse
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from leyline.v1.registry_pb2 import (
    ActivatePolicyRequest,
    GetPolicyRequest,
    GetPolicyResponse,
    ListPoliciesRequest,
    PolicyManifest,
)
from leyline.v1.registry_pb2_grpc import PolicyRegistryServiceStub
from leyline.v1.trainer_pb2 import (
    CancelRunRequest,
    GetRunRequest,
    ListRunsRequest,
    Run,
    RunSpec,
    StartRunRequest,
    WatchRunRequest,
    WatchRunResponse,
)
from leyline.v1.trainer_pb2_grpc import TrainerServiceStub

CALL_TIMEOUT_S = 30.0
_PATIENCE_S = 60.0  # how long a watch waits for a service that is away
_RETRY_S = 0.5

Answer = TypeVar("Answer")


class _Event(Protocol):
    @property
    def sequence(self) -> int: ...


Event = TypeVar("Event", bound=_Event)


class Client:
    """A connection to one server. Use it as an asynchronous context."""

    def __init__(self, address: str, ca: Path | None = None) -> None:
        """Prepare a connection; it is made by the first call.

        Args:
            address: `HOST:PORT` or `unix:/absolute/path`.
            ca: PEM file with the certificates that the server's may be signed by. None: plain text.
        """
        self.address = address
        self._ca = ca

    async def __aenter__(self) -> Self:
        # A service that comes back is found within two seconds; gRPC's own longest wait is 120.
        options = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        if self._ca is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(self._ca.read_bytes())
            self._channel = grpc.aio.secure_channel(self.address, credentials, options=options)
        self._open(self._channel)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._channel.close()

    def _open(self, channel: grpc.aio.Channel) -> None:
        """Make the stubs that the client calls."""

    async def health(self, service: str = "") -> str:
        """Return SERVING or NOT_SERVING, for one of the server's services or for the whole."""
        request = health_pb2.HealthCheckRequest(service=service)
        stub = health_pb2_grpc.HealthStub(self._channel)
        answer = await self._call(stub.Check(request, timeout=CALL_TIMEOUT_S))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def _call(self, call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None

    async def _stream(self, call: AsyncIterable[Answer]) -> AsyncIterator[Answer]:
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None

    async def _watch(
        self, call: Callable[[int], AsyncIterable[Event]], after: int
    ) -> AsyncIterator[Event]:
        """Yield events after a sequence, each once, calling again after each break."""
        loop = asyncio.get_running_loop()
        reached = loop.time()
        while True:
            called = loop.time()
            try:
                async for event in self._stream(call(after)):
                    after, reached = event.sequence, loop.time()
                    yield event
                return
            except ServiceError as error:
                now = loop.time()
                if now - called > _PATIENCE_S:
                    reached = now  # a call that stood so long was with a service that is there
                if not error.is_transient or now - reached >= _PATIENCE_S:
                    raise
            await asyncio.sleep(_RETRY_S)


class Trainer(Client):
    """Kasmina's runs."""

    def _open(self, channel: grpc.aio.Channel) -> None:
        self._stub = TrainerServiceStub(channel)

    async def start(self, spec: RunSpec, run_id: str = "") -> Run:
        """Queue a run. Starting it again under the same name returns the run that there is."""
        request = StartRunRequest(run_id=run_id, spec=spec)
        # Long: whether the data set can be read is looked at before the answer.
        answer = await self._call(self._stub.StartRun(request, timeout=4 * CALL_TIMEOUT_S))
        return answer.run

    async def get(self, run_id: str) -> Run:
        """Return a run."""
        request = GetRunRequest(run_id=run_id)
        return (await self._call(self._stub.GetRun(request, timeout=CALL_TIMEOUT_S))).run

    async def list(self) -> AsyncIterator[Run]:
        """Yield all runs, newest first."""
        token = ""
        while True:
            request = ListRunsRequest(page_token=token)
            page = await self._call(self._stub.ListRuns(request, timeout=CALL_TIMEOUT_S))
            for run in page.runs:
                yield run
            token = page.next_page_token
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


class PolicyServer(Client):
    """Tamiyo, or any other policy."""

    def _open(self, channel: grpc.aio.Channel) -> None:
        self._stub = PolicyServiceStub(channel)

    async def info(self) -> GetPolicyInfoResponse:
        """Say who decides."""
        request = GetPolicyInfoRequest()
        return await self._call(self._stub.GetPolicyInfo(request, timeout=CALL_TIMEOUT_S))


class Experience(Client):
    """Simic's stored experience."""

    def _open(self, channel: grpc.aio.Channel) -> None:
        self._stub = ExperienceServiceStub(channel)

    async def statistics(self, run_id: str = "") -> GetStatisticsResponse:
        """Count what is stored, of one run or of all."""
        request = GetStatisticsRequest(run_id=run_id)
        return await self._call(self._stub.GetStatistics(request, timeout=CALL_TIMEOUT_S))

    def read(self, request: ReadEpisodesRequest) -> AsyncIterator[ReadEpisodesResponse]:
        """Yield heads, steps and ends of episodes, in order."""
        return self._stream(self._stub.ReadEpisodes(request))


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

    async def activate(self, policy_version: str, reason: str = "") -> str:
        """Make a version the active one; returns the one that was."""
        request = ActivatePolicyRequest(policy_version=policy_version, reason=reason)
        answer = await self._call(self._stub.ActivatePolicy(request, timeout=CALL_TIMEOUT_S))
        return answer.previous_version


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
