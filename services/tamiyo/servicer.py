"""The contract's PolicyService over a policy's versions: thin, and nothing in it decides."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc.aio

from chassis.interceptor import checks_itself, known
from chassis.logging import REQUEST_ID, bind_call, bound_fact
from chassis.status import to_status
from chassis.validation import check
from leyline.v1.decision_pb2 import Decision, DecisionQuery
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.policy_pb2 import (
    DecideRequest,
    DecideResponse,
    GetPolicyInfoRequest,
    GetPolicyInfoResponse,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.policy_pb2_grpc import PolicyServiceServicer
from tamiyo.batch import DecisionBatcher
from tamiyo.metrics import PolicyMetrics
from tamiyo.policy import admit, slot_requirement
from tamiyo.shadow import Shadow
from tamiyo.versions import PolicyVersions

if TYPE_CHECKING:
    from chassis.spans import Tracing

SERVICE = "leyline.v1.PolicyService"
IMPLEMENTATION = f"tamiyo {version('leyline-growth')}"

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Introduction:
    """What a server says of its policy besides the version.

    Attributes:
        name: the policy's name.
        spec: the observation spec that is announced while there is no version to decide.
        implementation: what serves it, for people.
        deterministic: whether the same query to the same version always gets the same decision.
    """

    name: str
    spec: ObservationSpec
    implementation: str = IMPLEMENTATION
    deterministic: bool = True


class PolicyServicer(PolicyServiceServicer):
    """Says who decides, and decides."""

    def __init__(
        self,
        introduction: Introduction,
        versions: PolicyVersions,
        batcher: DecisionBatcher,
        metrics: PolicyMetrics,
        shadow: Shadow | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Serve a policy.

        Args:
            introduction: who it is.
            versions: what decides.
            batcher: when and together with what.
            metrics: counts decisions.
            shadow: is asked the same afterwards.
            tracing: is told of decisions in traces that came with their queries.
        """
        self._introduction = introduction
        self._versions = versions
        self._batcher = batcher
        self._metrics = metrics
        self._shadow = shadow
        self._tracing = tracing

    async def GetPolicyInfo(
        self, request: GetPolicyInfoRequest, context: Context
    ) -> GetPolicyInfoResponse:
        """Describe the default version."""
        policy = self._versions.default
        introduction = self._introduction
        spec = introduction.spec if policy is None else policy.spec
        return GetPolicyInfoResponse(
            policy=introduction.name,
            implementation=introduction.implementation,
            policy_version="" if policy is None else policy.version,
            spec_fingerprint=spec.fingerprint,
            spec_name=spec.name,
            slots=slot_requirement(None if policy is None else policy.slots),
            follows_registry=self._versions.follows_registry,
            deterministic=introduction.deterministic,
        )

    async def Decide(self, request: DecideRequest, context: Context) -> DecideResponse:
        """Decide once."""
        with self._batcher.call():
            try:
                return DecideResponse(decision=await self._decide(request.query))
            except Exception as error:
                self._metrics.failed(error)
                raise

    @checks_itself
    async def StreamDecisions(
        self, request_iterator: AsyncIterator[StreamDecisionsRequest], context: Context
    ) -> AsyncIterator[StreamDecisionsResponse]:
        """Decide query after query; what is wrong with one is said in its place."""
        with self._batcher.call():
            async for request in request_iterator:
                yield await self._answer(request)

    async def _answer(self, request: StreamDecisionsRequest) -> StreamDecisionsResponse:
        query = request.query
        response = StreamDecisionsResponse()
        if query.snapshot.HasField("step_id"):
            response.step_id.CopyFrom(query.snapshot.step_id)
        try:
            if request.HasField("query"):
                check(query, within="query")
            else:
                check(DecideRequest())
            if request.HasField("traceparent"):
                check(request)
            if self._tracing is None or not request.HasField("traceparent"):
                response.decision.CopyFrom(await self._decide(query))
            else:
                response.decision.CopyFrom(
                    await self._decide_traced(query, request.traceparent, self._tracing)
                )
        except Exception as error:
            # A policy of somebody's own may raise anything: that must not cost the episode.
            self._metrics.failed(error)
            response.error.CopyFrom(to_status(known(error), bound_fact(REQUEST_ID)))
        return response

    async def _decide_traced(
        self, query: DecisionQuery, traceparent: str, tracing: Tracing
    ) -> Decision:
        with tracing.step("decide", query.snapshot.step_id, "server", traceparent):
            decision = await self._decide(query)
            tracing.add(policy_version=decision.policy_version)
            return decision

    async def _decide(self, query: DecisionQuery) -> Decision:
        """Decide on a valid query."""
        began = time.perf_counter()
        try:
            pinned = query.policy_version if query.HasField("policy_version") else None
            policy = await self._versions.resolve(pinned)
            admit(policy, query)
            decision = await self._batcher.decide(policy, query)
        except Exception:
            # Only where there is something to say: it is a part of every decision's time.
            step = query.snapshot.step_id
            bind_call(run_id=step.run_id, episode=step.episode_index)
            raise
        self._metrics.decided(decision, time.perf_counter() - began)
        if self._shadow is not None:
            self._shadow.ask(query, decision)
        return decision
