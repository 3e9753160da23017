"""The implementation under test, as the checks talk to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any, TypeVar

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from leyline.channel import NO_CREDENTIALS, Credentials, plain_text
from leyline.error import ServiceError, from_rpc_error, from_status
from leyline.identity import sampling_seed
from leyline.rules import violations
from leyline.v1.decision_pb2 import (
    SELECTION_MODE_SAMPLED,
    Decision,
    DecisionQuery,
    SelectionMode,
)
from leyline.v1.policy_pb2 import (
    DecideRequest,
    DecideResponse,
    GetPolicyInfoRequest,
    GetPolicyInfoResponse,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from leyline.v1.snapshot_pb2 import STAGE_DORMANT, MultiSlotSnapshot, SlotReading

Content = TypeVar("Content", bound=Message)

SERVICE = "leyline.v1.PolicyService"
CALL_TIMEOUT_S = 10.0
STREAM_TIMEOUT_S = 60.0
"""A stream may be a thousand queries long, and the policy a slow one."""
_CONNECT_S = 5.0
# What grpc.aio puts in place of the status of a server that ends a stream while it is written to,
# where a write fails after the status has come: https://github.com/grpc/grpc/issues/36066.
_STATUS_LOST = "Internal error from Core"
_ATTEMPTS = 10
_OPTIONS = (
    # What a test sends too much of must be refused by the server, not by this client.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Failed(Exception):
    """The implementation does not do what the case asks for. The text says what it did instead."""


class Skipped(Exception):
    """The case cannot be run here, or does not apply. The text says why."""


class Unreachable(Exception):
    """There is nothing to test."""


@dataclass(frozen=True)
class Target:
    """An implementation, and what the tester has told about it.

    Attributes:
        address: `HOST:PORT` or `unix:/absolute/path`.
        credentials: for TLS; the token is apart, because cases change it.
        token: bearer token that calls carry. None: none is needed.
        restart_command: shell command that asks the server to end (SIGTERM), starts it again at
            the same address, and returns. None: such cases are skipped.
        stream_timeout_s: how long a stream may take that is asked up to a thousand queries,
            above 0.
        info: what the implementation said of itself.
    """

    address: str
    credentials: Credentials = NO_CREDENTIALS
    token: str | None = None
    restart_command: str | None = None
    stream_timeout_s: float = STREAM_TIMEOUT_S
    info: GetPolicyInfoResponse = field(default_factory=GetPolicyInfoResponse)

    async def introduced(self) -> Target:
        """Return the target with its `info`, once it has been heard.

        Raises:
            Unreachable: it does not answer GetPolicyInfo, or by no rule of the contract.
        """
        async with self.connect() as connection:
            try:
                await asyncio.wait_for(connection.channel.channel_ready(), _CONNECT_S)
                info = await connection.policy_info()
            except TimeoutError:
                raise Unreachable(f"no server at {self.address} within {_CONNECT_S:g} s") from None
            except ServiceError as error:
                raise Unreachable(f"GetPolicyInfo at {self.address} fails: {error}") from None
        broken = violations(info)
        if broken:
            raise Unreachable(
                f"GetPolicyInfo at {self.address} breaks the contract, so nothing else can be "
                f"asked: {broken[0].field}: {broken[0].description}"
            )
        return replace(self, info=info)

    @asynccontextmanager
    async def connect(
        self, *, secure: bool = True, with_token: bool = True
    ) -> AsyncIterator[Connection]:
        """Give a connection of its own: nothing is shared with any other, not even TCP.

        Args:
            secure: False speaks plain text to a server that has a certificate, without the token.
            with_token: False leaves the token out.

        Raises:
            CredentialsError: a file cannot be used, or the token would leave this machine in plain
                text.
        """
        token = self.token if with_token and secure else None
        # Channels of equal arguments share their connections otherwise.
        options = (*_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        if self.credentials.ca is None or not secure:
            plain = plain_text(self.address, with_token=token is not None)
            channel = grpc.aio.insecure_channel(self.address, options=(*options, *plain))
        else:
            credentials = self.credentials.of_tls()
            channel = grpc.aio.secure_channel(self.address, credentials, options=options)
        metadata: tuple[tuple[str, str], ...] = ()
        if token is not None:
            metadata = (("authorization", f"Bearer {token}"),)
        async with channel:
            yield Connection(self, channel, metadata)

    def query(
        self,
        snapshot: MultiSlotSnapshot,
        *,
        mode: SelectionMode.ValueType = SELECTION_MODE_SAMPLED,
        seed: int | None = None,
    ) -> DecisionQuery:
        """Return a query under the implementation's own observation spec."""
        step = snapshot.step_id
        if seed is None:
            seed = sampling_seed(7, step.episode_index, step.step)
        return DecisionQuery(
            snapshot=snapshot,
            spec_fingerprint=self.info.spec_fingerprint,
            sampling_seed=seed,
            mode=mode,
        )

    def snapshot(
        self, step: int = 0, *, episode: int = 0, run: str = "conformance"
    ) -> MultiSlotSnapshot:
        """Return a valid snapshot of as many slots as the implementation decides for; 3 for any."""
        return self.fitting(_example(), step=step, episode=episode, run=run)

    def fitting(
        self, snapshot: MultiSlotSnapshot, *, step: int, episode: int = 0, run: str = "conformance"
    ) -> MultiSlotSnapshot:
        """Return a snapshot as that of a certain step, with as many slots as are decided for."""
        fitting = MultiSlotSnapshot()
        fitting.CopyFrom(snapshot)
        fitting.step_id.run_id, fitting.step_id.episode_index = run, episode
        fitting.step_id.step, fitting.epoch = step, step
        if self.info.slots.WhichOneof("slots") == "exactly":
            resize(fitting, self.info.slots.exactly)
        return fitting


@dataclass(frozen=True)
class Connection:
    """One connection to the implementation. Errors of calls are `ServiceError`s."""

    target: Target
    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]

    async def policy_info(self) -> GetPolicyInfoResponse:
        """Ask who decides."""
        call = PolicyServiceStub(self.channel).GetPolicyInfo
        info: GetPolicyInfoResponse = await self._heard(
            call(GetPolicyInfoRequest(), **self._terms(CALL_TIMEOUT_S))
        )
        return info

    async def decide(self, query: DecisionQuery, timeout_s: float = CALL_TIMEOUT_S) -> Decision:
        """Ask once."""
        return await self.decide_request(DecideRequest(query=query), timeout_s)

    async def decide_request(
        self, request: DecideRequest, timeout_s: float = CALL_TIMEOUT_S
    ) -> Decision:
        """Ask once, by a request that may be anything."""
        call = PolicyServiceStub(self.channel).Decide
        answer: DecideResponse = await self._heard(call(request, **self._terms(timeout_s)))
        return answer.decision

    async def stream(self, queries: Iterable[DecisionQuery]) -> list[StreamDecisionsResponse]:
        """Send queries on one stream without waiting for answers, half-close, hear it to its
        end."""
        asked = [StreamDecisionsRequest(query=query) for query in queries]
        call = PolicyServiceStub(self.channel).StreamDecisions
        left = _ATTEMPTS
        while True:
            left -= 1
            terms = self._terms(self.target.stream_timeout_s)
            try:
                answers: list[StreamDecisionsResponse] = await self._heard(
                    _all(call(iter(asked), **terms))
                )
                return answers
            except ServiceError as error:
                if error.message != _STATUS_LOST or not left:
                    raise

    def open_stream(self, timeout_s: float | None = None) -> Any:
        """Return a stream that is written to and read from by hand.

        Args:
            timeout_s: None: as long as the target's streams may take.
        """
        if timeout_s is None:
            timeout_s = self.target.stream_timeout_s
        return PolicyServiceStub(self.channel).StreamDecisions(**self._terms(timeout_s))

    async def health(self, service: str) -> str:
        """Ask for SERVING or NOT_SERVING."""
        request = health_pb2.HealthCheckRequest(service=service)
        call = health_pb2_grpc.HealthStub(self.channel).Check
        answer = await self._heard(call(request, **self._terms(CALL_TIMEOUT_S)))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def _heard(self, answer: Any) -> Any:
        try:
            return await answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.target.address) from None

    def _terms(self, timeout_s: float) -> dict[str, Any]:
        return {"timeout": timeout_s, "metadata": self.metadata}


async def _all(
    answers: AsyncIterable[StreamDecisionsResponse],
) -> list[StreamDecisionsResponse]:
    return [answer async for answer in answers]


def decision_of(answer: StreamDecisionsResponse) -> Decision:
    """Return the decision of a stream's answer.

    Raises:
        ServiceError: it is an error.
        Failed: it is neither.
    """
    outcome = answer.WhichOneof("outcome")
    if outcome == "error":
        raise from_status(answer.error)
    if outcome is None:
        raise Failed("an answer on the stream has neither a decision nor an error")
    return answer.decision


def resize(snapshot: MultiSlotSnapshot, slots: int) -> None:
    """Drop slots, or append dormant ones behind the deepest, until there are so many."""
    del snapshot.slots[slots:]
    ids = {slot.slot_id for slot in snapshot.slots}
    depth = max(slot.depth for slot in snapshot.slots) + 1
    while len(snapshot.slots) < slots:
        slot_id = f"more-{depth}"
        assert slot_id not in ids
        snapshot.slots.append(
            SlotReading(slot_id=slot_id, depth=depth, stage=STAGE_DORMANT, has_seed=False)
        )
        depth += 1


def parsed(kind: type[Content], content: dict[str, Any]) -> Content:
    """Return a message from its JSON form in a case."""
    return json_format.ParseDict(content, kind())


def _example() -> MultiSlotSnapshot:
    text = (
        files("leyline.conformance") / "testdata/snapshots/three-slots-ordinary.json"
    ).read_text(encoding="utf-8")
    return parsed(MultiSlotSnapshot, json.loads(text)["snapshot"])
