"""Implementations that serve wrongly: streams, limits, callers, their own end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tests.conformance.implementation import Context, Implementation, abort

from chassis.errors import LeylineError
from leyline.v1.decision_pb2 import (
    Decision,
    DecisionQuery,
)
from leyline.v1.policy_pb2 import (
    DecideRequest,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)


class Overtakes(Implementation):
    """Answers two queries at a time, the later one first."""

    async def StreamDecisions(
        self, request_iterator: AsyncIterator[StreamDecisionsRequest], context: Context
    ) -> AsyncIterator[StreamDecisionsResponse]:
        pair: list[StreamDecisionsResponse] = []
        async for request in request_iterator:
            pair.append(await self.answer(request))
            if len(pair) == 2:
                yield pair.pop()
                yield pair.pop()
        for response in pair:
            yield response


class StepsOfNobody(Implementation):
    """Does not say which step an answer is for."""

    async def answer(self, request: StreamDecisionsRequest) -> StreamDecisionsResponse:
        response = await super().answer(request)
        response.ClearField("step_id")
        return response


class NeverEnds(Implementation):
    """Keeps a stream open after its caller has half-closed it."""

    async def StreamDecisions(
        self, request_iterator: AsyncIterator[StreamDecisionsRequest], context: Context
    ) -> AsyncIterator[StreamDecisionsResponse]:
        async for response in super().StreamDecisions(request_iterator, context):
            yield response
        await asyncio.sleep(3600)


class EndsAtTheFirstError(Implementation):
    """Ends the stream where one query of it is bad."""

    async def StreamDecisions(
        self, request_iterator: AsyncIterator[StreamDecisionsRequest], context: Context
    ) -> AsyncIterator[StreamDecisionsResponse]:
        async for request in request_iterator:
            try:
                decision = await self.decide(request.query)
            except LeylineError as error:
                await abort(context, self.status_of(error))
            yield StreamDecisionsResponse(step_id=request.query.snapshot.step_id, decision=decision)


class ReadsWhatIsNotThere(Implementation):
    """Takes a message without a query for one whose query is empty."""

    def asked(self, request: DecideRequest | StreamDecisionsRequest) -> DecisionQuery:
        return request.query


class DecidesOtherwiseOnStreams(Implementation):
    """Has two ways to decide that have drifted apart."""

    async def answer(self, request: StreamDecisionsRequest) -> StreamDecisionsResponse:
        request.query.sampling_seed ^= 1
        return await super().answer(request)


class OneStreamAtATime(Implementation):
    """Lets streams wait for each other."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lock = asyncio.Lock()

    async def StreamDecisions(
        self, request_iterator: AsyncIterator[StreamDecisionsRequest], context: Context
    ) -> AsyncIterator[StreamDecisionsResponse]:
        async with self.lock:
            async for response in super().StreamDecisions(request_iterator, context):
                yield response


class DependsOnTheBatch(Implementation):
    """Draws otherwise where others ask at the same time."""

    crowd = 0

    async def decide(self, query: DecisionQuery) -> Decision:
        self.crowd += 1
        await asyncio.sleep(0.001)
        query.sampling_seed ^= self.crowd > 8
        try:
            return await super().decide(query)
        finally:
            self.crowd -= 1


class HangsWhenCancelled(Implementation):
    """Waits for callers that have gone, with what others need in its hand."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lock = asyncio.Lock()

    async def decide(self, query: DecisionQuery) -> Decision:
        await self.lock.acquire()
        await asyncio.sleep(0.001)
        decision = await super().decide(query)
        self.lock.release()
        return decision


class WorksForTheGone(Implementation):
    """Computes for every caller to the end, one after the other, whoever still waits."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lock = asyncio.Lock()

    async def decide(self, query: DecisionQuery) -> Decision:
        return await asyncio.shield(self._decide(query))

    async def _decide(self, query: DecisionQuery) -> Decision:
        async with self.lock:
            await asyncio.sleep(0.2)
            return await super().decide(query)


class SmallMessagesOnly(Implementation):
    """Takes less than the contract's largest snapshot."""

    options = (("grpc.max_receive_message_length", 4096),)


class TakesAnything(Implementation):
    """Takes messages of any size."""

    options = (("grpc.max_receive_message_length", -1),)


class NobodyAsksForTokens(Implementation):
    """Knows of a token, and lets everybody in."""

    def let_in(self, context: Context) -> None:
        pass


class AlmostTheToken(Implementation):
    """Compares the beginning of a token."""

    def knows(self, authorization: str) -> bool:
        return authorization[:10] == f"Bearer {self.token}"[:10]


class EndsAtOnce(Implementation):
    """Goes without a word."""

    async def end(self, server: grpc.aio.Server) -> None:
        os._exit(0)


class AnotherLife(Implementation):
    """Draws by when it was started."""

    started = time.time_ns()

    def draw(self, query: DecisionQuery) -> Decision:
        query.sampling_seed = (query.sampling_seed + self.started) % 2**64
        return super().draw(query)
