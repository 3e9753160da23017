"""Asking a policy service: one stream of questions an episode, each with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from chassis.errors import ErrorCode
from chassis.status import RemoteError, from_rpc_error, from_status
from chassis.validation import violations
from leyline.v1.decision_pb2 import Decision, DecisionQuery
from leyline.v1.policy_pb2 import (
    GetPolicyInfoRequest,
    GetPolicyInfoResponse,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from leyline.v1.snapshot_pb2 import StepId

if TYPE_CHECKING:
    from chassis.spans import Tracing
    from leyline.v1.policy_pb2_grpc import PolicyServiceAsyncStub

_NOT_TRANSIENT = frozenset(
    (ErrorCode.FINGERPRINT_MISMATCH.name, ErrorCode.SLOT_COUNT_MISMATCH.name)
)


class PolicyUnavailable(Exception):
    """The policy gave no decision that can be used; it may give one later. The message says why, to
    people.
    """


class PolicyRefused(Exception):
    """The policy cannot decide for this run, now or later. The message says why, to people."""


class PolicyClient:
    """A policy service, or several of one name. Used from one event loop."""

    def __init__(
        self,
        streams: grpc.aio.Channel,
        introductions: grpc.aio.Channel,
        tracing: Tracing | None = None,
    ) -> None:
        """Ask at the end of two channels to the same target.

        Where they lead to several servers, each channel takes them in turn for its calls. An
        episode is an introduction and a stream: over one channel the streams of all episodes would
        go to every second server.
        """
        self._stub = PolicyServiceStub(streams)
        self._introductions = PolicyServiceStub(introductions)
        self._tracing = tracing
        self._stream: _Stream | None = None

    async def info(self, timeout_s: float) -> GetPolicyInfoResponse:
        """Who decides. Raises `PolicyUnavailable` or `PolicyRefused`."""
        try:
            info: GetPolicyInfoResponse = await self._introductions.GetPolicyInfo(
                GetPolicyInfoRequest(), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise _trouble(from_rpc_error(error)) from error
        broken = violations(info)
        if broken:
            raise PolicyRefused(
                f"the policy describes itself wrongly: {broken[0].field} {broken[0].description}"
            )
        return info

    async def decide(self, query: DecisionQuery, timeout_s: float) -> Decision:
        """The policy's decision. Raises `PolicyUnavailable` or `PolicyRefused`.

        An answer that comes later is thrown away. A stream that broke is opened again once: the
        policy may have moved its clients to another replica.
        """
        request = StreamDecisionsRequest(query=query)
        if self._tracing is None:
            return await self._decided(request, timeout_s)
        with self._tracing.step("decide", query.snapshot.step_id, "client"):
            traceparent = self._tracing.traceparent()
            if traceparent is not None:
                request.traceparent = traceparent
            return await self._decided(request, timeout_s)

    async def _decided(self, request: StreamDecisionsRequest, timeout_s: float) -> Decision:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._ask(request)
        except TimeoutError:
            raise PolicyUnavailable(f"no answer within {timeout_s:g} s") from None
        if response.HasField("error"):
            raise _trouble(from_status(response.error))
        _check(response.decision, request.query)
        return response.decision

    async def close(self) -> None:
        """Ends the stream."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    async def _ask(self, request: StreamDecisionsRequest) -> StreamDecisionsResponse:
        if self._stream is not None and not self._stream.broken:
            try:
                return await self._stream.ask(request)
            except _StreamBroken:
                pass
        await self.close()
        self._stream = _Stream(self._stub)
        try:
            return await self._stream.ask(request)
        except _StreamBroken as broken:
            raise broken.trouble from broken


class _StreamBroken(Exception):
    def __init__(self, trouble: PolicyUnavailable | PolicyRefused) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


class _Stream:
    """One StreamDecisions call. Answers find their question by the step that they name."""

    def __init__(self, stub: PolicyServiceAsyncStub) -> None:
        self._questions: asyncio.Queue[StreamDecisionsRequest | None] = asyncio.Queue()
        self._waiting: tuple[StepId, asyncio.Future[StreamDecisionsResponse]] | None = None
        self._trouble: PolicyUnavailable | PolicyRefused | None = None
        self._call = stub.StreamDecisions(self._requests())
        self._reader = asyncio.create_task(self._read())

    @property
    def broken(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._trouble is not None

    async def ask(self, request: StreamDecisionsRequest) -> StreamDecisionsResponse:
        """The answer to `request`, whenever it comes. Raises `_StreamBroken`."""
        if self._trouble is not None:
            raise _StreamBroken(self._trouble)
        answer: asyncio.Future[StreamDecisionsResponse] = asyncio.get_running_loop().create_future()
        self._waiting = (request.query.snapshot.step_id, answer)
        self._questions.put_nowait(request)
        try:
            return await answer
        finally:
            self._waiting = None

    async def close(self) -> None:
        self._questions.put_nowait(None)
        self._call.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _requests(self) -> AsyncIterator[StreamDecisionsRequest]:
        while (question := await self._questions.get()) is not None:
            yield question

    async def _read(self) -> None:
        trouble: PolicyUnavailable | PolicyRefused
        try:
            async for response in self._call:
                self._deliver(response)
            trouble = PolicyUnavailable("the policy ended the stream")
        except grpc.aio.AioRpcError as error:
            trouble = _trouble(from_rpc_error(error))
        except asyncio.CancelledError:
            trouble = PolicyUnavailable("the stream was closed")
        self._trouble = trouble
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(_StreamBroken(trouble))

    def _deliver(self, response: StreamDecisionsResponse) -> None:
        """Hands the answer to whoever waits for it; an answer to an earlier question comes too late
        for anybody.
        """
        if self._waiting is None:
            return
        step_id, answer = self._waiting
        if response.step_id == step_id and not answer.done():
            answer.set_result(response)


def _trouble(error: RemoteError) -> PolicyUnavailable | PolicyRefused:
    if error.reason in _NOT_TRANSIENT:
        return PolicyRefused(f"the policy cannot decide for this run: {error}")
    return PolicyUnavailable(str(error))


def _check(decision: Decision, query: DecisionQuery) -> None:
    """Raises `PolicyUnavailable` for a decision that the contract forbids: it is no answer."""
    broken = violations(decision)
    if broken:
        rules = "; ".join(f"{rule.field or 'decision'}: {rule.description}" for rule in broken)
        raise PolicyUnavailable(f"the answer breaks the contract: {rules}")
    if not decision.HasField("policy_version"):
        raise PolicyUnavailable("the answer breaks the contract: it names no policy version")
    if query.HasField("policy_version") and decision.policy_version != query.policy_version:
        raise PolicyUnavailable(
            f"version {decision.policy_version} answered in place of {query.policy_version},"
            " which the episode is pinned to"
        )
