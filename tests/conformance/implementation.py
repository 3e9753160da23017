"""A policy server that keeps the contract, small enough to be broken in one place at a time."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import grpc
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from chassis.drain import Drain
from chassis.errors import ErrorCode, LeylineError
from chassis.health import Health
from chassis.status import DETAILS_KEY, to_status
from chassis.validation import check
from leyline.observation import SEED_SPEC, slot_order
from leyline.v1.decision_pb2 import Decision, DecisionQuery
from leyline.v1.policy_pb2 import (
    DecideRequest,
    DecideResponse,
    GetPolicyInfoRequest,
    GetPolicyInfoResponse,
    SlotRequirement,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.policy_pb2_grpc import (
    PolicyServiceServicer,
    add_PolicyServiceServicer_to_server,
)
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from tamiyo.sampling import ACTION_TYPES, choose

SERVICE = "leyline.v1.PolicyService"
Context = grpc.aio.ServicerContext[Any, Any]


class Implementation(PolicyServiceServicer):
    """Decides by a distribution that depends on the snapshot, for a number of slots.

    Attributes:
        slots: how many it decides for; None for any.
        token: what callers must bring; None: nothing.
    """

    name: ClassVar[str] = "implementation"
    services: ClassVar[tuple[str, ...]] = (SERVICE,)
    reflected: ClassVar[tuple[str, ...]] = (SERVICE, reflection.SERVICE_NAME)
    options: ClassVar[tuple[tuple[str, int], ...]] = ()

    def __init__(self, slots: int | None = None, token: str | None = None) -> None:
        self.slots = slots
        self.token = token
        self.drain = Drain()

    async def GetPolicyInfo(
        self, request: GetPolicyInfoRequest, context: Context
    ) -> GetPolicyInfoResponse:
        try:
            self.let_in(context)
        except LeylineError as error:
            await abort(context, self.status_of(error))
        return self.info()

    async def Decide(self, request: DecideRequest, context: Context) -> DecideResponse:
        try:
            self.let_in(context)
            return DecideResponse(decision=await self.decide(self.asked(request)))
        except LeylineError as error:
            await abort(context, self.status_of(error))
            raise AssertionError from error

    async def StreamDecisions(
        self, request_iterator: AsyncIterator[StreamDecisionsRequest], context: Context
    ) -> AsyncIterator[StreamDecisionsResponse]:
        try:
            self.let_in(context)
            async for request in self.drain.cut(request_iterator):
                yield await self.answer(request)
        except LeylineError as error:
            await abort(context, self.status_of(error))

    async def answer(self, request: StreamDecisionsRequest) -> StreamDecisionsResponse:
        response = StreamDecisionsResponse()
        if request.query.snapshot.HasField("step_id"):
            response.step_id.CopyFrom(request.query.snapshot.step_id)
        try:
            response.decision.CopyFrom(await self.decide(self.asked(request)))
        except LeylineError as error:
            response.error.CopyFrom(self.status_of(error))
        return response

    def asked(self, request: DecideRequest | StreamDecisionsRequest) -> DecisionQuery:
        if not request.HasField("query"):
            check(DecideRequest())
        return request.query

    def info(self) -> GetPolicyInfoResponse:
        return GetPolicyInfoResponse(
            policy=self.name,
            implementation=f"{self.name} for tests",
            policy_version=f"{self.name}-1",
            spec_fingerprint=SEED_SPEC.fingerprint,
            spec_name=SEED_SPEC.name,
            slots=SlotRequirement(any=True)
            if self.slots is None
            else SlotRequirement(exactly=self.slots),
            deterministic=True,
        )

    def let_in(self, context: Context) -> None:
        if self.token is not None:
            brought = dict(context.invocation_metadata() or ()).get("authorization")
            if not self.knows(str(brought)):
                raise Unauthenticated

    def knows(self, authorization: str) -> bool:
        return authorization == f"Bearer {self.token}"

    async def decide(self, query: DecisionQuery) -> Decision:
        self.validate(query)
        self.admit(query)
        return self.sign(query, self.draw(query))

    def validate(self, query: DecisionQuery) -> None:
        check(query, within="query")

    def admit(self, query: DecisionQuery) -> None:
        if query.spec_fingerprint != self.info().spec_fingerprint:
            raise LeylineError(
                ErrorCode.FINGERPRINT_MISMATCH,
                given=query.spec_fingerprint,
                expected=SEED_SPEC.fingerprint,
                spec_name="seed",
                policy_version=self.info().policy_version,
            )
        if self.slots not in (None, len(query.snapshot.slots)):
            raise LeylineError(
                ErrorCode.SLOT_COUNT_MISMATCH,
                given=len(query.snapshot.slots),
                expected=self.slots,
                policy_version=self.info().policy_version,
            )
        if query.HasField("policy_version") and query.policy_version != f"{self.name}-1":
            raise LeylineError(
                ErrorCode.POLICY_VERSION_NOT_FOUND, policy_version=query.policy_version
            )

    def draw(self, query: DecisionQuery) -> Decision:
        slots = self.order(query.snapshot)
        choice = choose(
            [1.0, *(math.sin(query.snapshot.step_id.step + place) for place in range(3))],
            [[0.3 * place for place in range(len(slots))] for _ in ACTION_TYPES],
            slots,
            sampling_seed=query.sampling_seed,
            mode=query.mode,
            temperature=query.temperature if query.HasField("temperature") else 1.0,
        )
        return Decision(
            action_type=choice.action_type,
            slot_id=choice.slot_id,
            mode=choice.mode,
            type_log_prob=choice.type_log_prob,
            slot_log_prob=choice.slot_log_prob,
            log_prob=(choice.type_log_prob or 0.0) + (choice.slot_log_prob or 0.0),
        )

    def order(self, snapshot: MultiSlotSnapshot) -> list[str]:
        return list(slot_order(snapshot))

    def sign(self, query: DecisionQuery, decision: Decision) -> Decision:
        decision.policy_version = f"{self.name}-1"
        step = query.snapshot.step_id.SerializeToString(deterministic=True)
        decision.decision_id = hashlib.sha256(step).hexdigest()[:16]
        return decision

    def status_of(self, error: LeylineError) -> status_pb2.Status:
        if isinstance(error, Unauthenticated):
            return status_pb2.Status(code=16, message="who are you?")
        return to_status(error)

    async def end(self, server: grpc.aio.Server) -> None:
        """What it does when it is asked to end."""
        self.drain.begin()
        await server.stop(5.0)


class Unauthenticated(LeylineError):
    """The catalogue has no such error yet."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.INVALID_ARGUMENT)


async def abort(context: Context, status: status_pb2.Status) -> None:
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, status.message, details)


@asynccontextmanager
async def served(
    implementation: Implementation, address: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    """Serve on a free port while the block lasts; gives the address and the server."""
    server = grpc.aio.server(options=implementation.options)
    add_PolicyServiceServicer_to_server(implementation, server)
    health = Health(implementation.services)
    health.open()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(implementation.reflected, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(None)


async def serve_for_ever(implementation: Implementation, address: str) -> None:
    """Serve until SIGTERM."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    async with served(implementation, address) as (_, server):
        await asked.wait()
        await implementation.end(server)


if __name__ == "__main__":
    from tests.conformance.mutants import MUTANTS

    kind = next(
        (mutant.kind for mutant in MUTANTS if mutant.kind.__name__ == sys.argv[1]), Implementation
    )
    asyncio.run(serve_for_ever(kind(), sys.argv[2]))
    os._exit(0)
