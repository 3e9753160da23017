"""LearnerService: between the wire and the trainings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, TypeAlias

import grpc

from chassis.drain import Drain
from leyline.v1.learner_pb2 import (
    GetTrainingRequest,
    GetTrainingResponse,
    StartTrainingRequest,
    StartTrainingResponse,
    StopTrainingRequest,
    StopTrainingResponse,
    TrainingState,
    WatchTrainingRequest,
    WatchTrainingResponse,
)
from leyline.v1.learner_pb2_grpc import LearnerServiceServicer
from simic.bell import Bell
from simic.learning.training import TrainingStore
from simic.tail import follow

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class LearnerServicer(LearnerServiceServicer):
    """Serves the trainings of one store; the learner itself is another process."""

    def __init__(self, store: TrainingStore, started: Bell, poll_s: float, drain: Drain) -> None:
        """Serve ``store``, and ring ``started`` for the learner's supervisor."""
        self._store = store
        self._started = started
        self._poll_s = poll_s
        self._drain = drain

    async def StartTraining(
        self, request: StartTrainingRequest, context: Context
    ) -> StartTrainingResponse:
        """Start a training."""
        training = await asyncio.to_thread(self._store.start, request.training_id, request.plan)
        self._started.ring()
        return StartTrainingResponse(training=training)

    async def GetTraining(
        self, request: GetTrainingRequest, context: Context
    ) -> GetTrainingResponse:
        """Show a training."""
        training = await asyncio.to_thread(self._store.get, request.training_id)
        return GetTrainingResponse(training=training)

    async def StopTraining(
        self, request: StopTrainingRequest, context: Context
    ) -> StopTrainingResponse:
        """Ask a training to stop."""
        training = await asyncio.to_thread(self._store.request_stop, request.training_id)
        return StopTrainingResponse(training=training)

    async def WatchTraining(
        self, request: WatchTrainingRequest, context: Context
    ) -> AsyncIterator[WatchTrainingResponse]:
        """Stream the updates of a training, until it ends."""

        def ended() -> bool:
            training = self._store.get(request.training_id)
            return training.state != TrainingState.TRAINING_STATE_RUNNING

        async for update in follow(
            partial(self._store.updates, request.training_id),
            request.after_sequence,
            self._started,
            self._poll_s,
            self._drain,
            ended,
        ):
            yield update
