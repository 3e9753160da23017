"""A policy that stands between Kasmina and Tamiyo, and lets one step pass at a time.

Arms of a benchmark take turns, interval by interval, so that what else the machine does hits all of
them alike. A trainer that has asked for a decision stands still until it is let go: asked to wait,
by Tamiyo's own policy, or told what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from leyline.v1.decision_pb2 import (
    SELECTION_MODE_GREEDY,
    ActionType,
    Decision,
    DecisionQuery,
)
from leyline.v1.policy_pb2 import (
    DecideRequest,
    DecideResponse,
    GetPolicyInfoRequest,
    GetPolicyInfoResponse,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.policy_pb2_grpc import PolicyServiceServicer, PolicyServiceStub

Context = grpc.aio.ServicerContext[Any, Any]
Act = tuple[ActionType.ValueType, str]
"""An action and its slot."""


@dataclass
class _Door:
    """Where one run stands."""

    asked: asyncio.Queue[DecisionQuery] = field(default_factory=asyncio.Queue)
    told: asyncio.Queue[Act | None] = field(default_factory=asyncio.Queue)


class Gate(PolicyServiceServicer):
    """Serves Tamiyo's policy, when the benchmark lets it."""

    def __init__(self, tamiyo: grpc.aio.Channel) -> None:
        self._tamiyo = PolicyServiceStub(tamiyo)
        self._doors: dict[str, _Door] = {}

    async def arrival(self, run_id: str) -> DecisionQuery:
        """Waits until the run asks for its next decision, and leaves it standing there."""
        return await self._door(run_id).asked.get()

    def let_go(self, run_id: str, act: Act | None = None) -> None:
        """Lets a run that has arrived go on, with Tamiyo's decision or with this one."""
        self._door(run_id).told.put_nowait(act)

    async def GetPolicyInfo(
        self, request: GetPolicyInfoRequest, context: Context
    ) -> GetPolicyInfoResponse:
        """Says what Tamiyo says."""
        return await self._tamiyo.GetPolicyInfo(request)

    async def Decide(self, request: DecideRequest, context: Context) -> DecideResponse:
        """Decides as Tamiyo does, at once."""
        return await self._tamiyo.Decide(request)

    async def StreamDecisions(
        self, requests: AsyncIterator[StreamDecisionsRequest], context: Context
    ) -> AsyncIterator[StreamDecisionsResponse]:
        """Decides for one episode."""
        upstream = self._tamiyo.StreamDecisions()
        async for request in requests:
            door = self._door(request.query.snapshot.step_id.run_id)
            door.asked.put_nowait(request.query)
            act = await door.told.get()
            if act is None:
                await upstream.write(request)
                response = await upstream.read()
                assert isinstance(response, StreamDecisionsResponse), "Tamiyo ended the stream"
                yield response
            else:
                yield _response(request.query, act)

    def _door(self, run_id: str) -> _Door:
        return self._doors.setdefault(run_id, _Door())


def _response(query: DecisionQuery, act: Act) -> StreamDecisionsResponse:
    action_type, slot_id = act
    step_id = query.snapshot.step_id
    return StreamDecisionsResponse(
        step_id=step_id,
        decision=Decision(
            decision_id=f"{step_id.run_id}-{step_id.step}",
            action_type=action_type,
            slot_id=slot_id,
            policy_version=query.policy_version or "wait",
            mode=SELECTION_MODE_GREEDY,
            type_log_prob=0.0,
            slot_log_prob=0.0,
            log_prob=0.0,
        ),
    )
