"""Calls to the experience service: beginning episodes, and recording what is in the outbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from chassis.status import RemoteError, from_rpc_error
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.experience_pb2 import (
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    ExperienceItem,
    RejectedItem,
    StreamTransitionsRequest,
    StreamTransitionsResponse,
)
from leyline.v1.experience_pb2_grpc import ExperienceServiceStub

if TYPE_CHECKING:
    from leyline.v1.experience_pb2_grpc import ExperienceServiceAsyncStub

ANSWER_S = 30.0
"""Seconds that an answer may take where somebody waits for it whatever it takes."""
FOR_GOOD = frozenset((grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION))
"""What BeginEpisode answers where asking again would not help. Anything else is tried again: an
episode that is laid aside is gone for the learner.
"""


@dataclass(frozen=True)
class EpisodeIntroduction:
    """What the experience service is told of an episode.

    Attributes:
        policy: name of the policy that decides; empty where it is not known.
        origin: what the episode is made of.
        offers_evaluation: whether it may become an episode of an evaluation.
    """

    run_id: str
    episode_index: int
    policy: str
    follows_registry: bool
    mode: SelectionMode.ValueType
    horizon: int
    slots: int
    spec_fingerprint: str
    origin: EpisodeOrigin
    offers_evaluation: bool = False


class ExperienceClient:
    """The experience service at the end of a channel. Used from one event loop.

    Every method raises `chassis.status.RemoteError` when the service is away or refuses.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ExperienceServiceStub(channel)

    async def begin_episode(
        self, episode: EpisodeIntroduction, timeout_s: float
    ) -> BeginEpisodeResponse:
        """Begins the episode, or begins it again with a higher fence."""
        request = BeginEpisodeRequest(
            run_id=episode.run_id,
            episode_index=episode.episode_index,
            policy=episode.policy,
            follows_registry=episode.follows_registry,
            mode=episode.mode,
            horizon=episode.horizon,
            slots=episode.slots,
            spec_fingerprint=episode.spec_fingerprint,
            origin=episode.origin,
            offers_evaluation=episode.offers_evaluation,
        )
        try:
            response: BeginEpisodeResponse = await self._stub.BeginEpisode(
                request, timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return response

    def record(self) -> RecordingStream:
        """A stream to record on."""
        return RecordingStream(self._stub)


class RecordingStream:
    """One StreamTransitions call: a message at a time, each waited for until it is dealt with."""

    def __init__(self, stub: ExperienceServiceAsyncStub) -> None:
        self._requests: asyncio.Queue[StreamTransitionsRequest | None] = asyncio.Queue()
        self._call = stub.StreamTransitions(self._outgoing())

    async def send(self, items: Sequence[ExperienceItem], timeout_s: float) -> list[RejectedItem]:
        """Returns when every item is committed or refused, with those that were refused.

        Raises `RemoteError`, or TimeoutError where the service takes the items and does not answer.
        """
        self._requests.put_nowait(StreamTransitionsRequest(items=items))
        rejected: list[RejectedItem] = []
        acknowledged = 0
        try:
            async with asyncio.timeout(timeout_s):
                while acknowledged < items[-1].sequence:
                    response = await self._call.read()
                    if not isinstance(response, StreamTransitionsResponse):
                        raise RemoteError(
                            grpc.StatusCode.UNAVAILABLE, "the experience service ended the stream"
                        )
                    rejected.extend(response.rejected)
                    acknowledged = response.acknowledged_sequence
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return rejected

    def close(self) -> None:
        """Ends the stream; what is not acknowledged is not taken as recorded."""
        self._requests.put_nowait(None)
        self._call.cancel()

    async def _outgoing(self) -> AsyncIterator[StreamTransitionsRequest]:
        while (request := await self._requests.get()) is not None:
            yield request
