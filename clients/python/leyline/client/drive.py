"""Episodes whose decisions are the caller's."""

from __future__ import annotations

from typing import Any, Self

import grpc

from leyline.client.patience import Patience
from leyline.error import ServiceError, from_rpc_error
from leyline.rules import violations
from leyline.v1.decision_pb2 import SELECTION_MODE_GREEDY, ActionType, Decision
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from leyline.v1.trainer_pb2 import (
    DriveEpisodeRequest,
    DriveEpisodeResponse,
    DriveEpisodeStart,
    RunSpec,
)
from leyline.v1.transition_pb2 import EpisodeEnd, Transition


class DrivenEpisode:
    """One episode: snapshots come, decisions go.

        async with trainer.drive(spec, "by-hand") as episode:
            async for snapshot in episode:
                episode.decide(ACTION_TYPE_GERMINATE, "slot-1")
        print(episode.end.termination)

    Each snapshot wants one decision before the next comes. A broken connection is made again, and
    the decision that was on its way is sent again: the trainer takes it once. Leaving the block
    early leaves the run PAUSED; whoever drives it under the same name goes on with it.
    """

    def __init__(
        self,
        stub: Any,
        address: str,
        patience: Patience,
        spec: RunSpec,
        run_id: str,
        episode_index: int,
    ) -> None:
        self.run_id = run_id
        self.transition: Transition | None = None
        """What the newest decision led to; None before the first."""
        self.end: EpisodeEnd | None = None
        """How the episode ended; None while it goes on."""
        self._stub = stub
        self._address = address
        self._patience = patience
        self._opening = DriveEpisodeStart(spec=spec, run_id=run_id, episode_index=episode_index)
        self._call: grpc.aio.StreamStreamCall[DriveEpisodeRequest, DriveEpisodeResponse] | None
        self._call = None
        self._has_driven = False
        self._snapshot: MultiSlotSnapshot | None = None
        self._decision: Decision | None = None
        self._is_asked = False  # whether the trainer waits for the decision on this stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._hang_up()

    def __aiter__(self) -> Self:
        return self

    def decide(self, action: ActionType.ValueType, slot_id: str | None = None) -> None:
        """Decide on the snapshot that came last. Raises ValueError as `answer` does."""
        self.answer(Decision(action_type=action, slot_id=slot_id, mode=SELECTION_MODE_GREEDY))

    def answer(self, decision: Decision) -> None:
        """Decide, and say more of it: its log-probability, say. A decision_id is made if it has
        none.

        Raises:
            ValueError: the decision breaks a rule of the contract, or no snapshot wants one.
        """
        if self._snapshot is None or self._decision is not None:
            raise ValueError("no snapshot waits for a decision: iterate first")
        complete = Decision()
        complete.CopyFrom(decision)
        step = self._snapshot.step_id
        complete.decision_id = decision.decision_id or f"caller-{step.episode_index}-{step.step}"
        broken = violations(complete)
        if broken:
            raise ValueError("; ".join(f"{rule.field}: {rule.description}" for rule in broken))
        self._decision = complete

    async def __anext__(self) -> MultiSlotSnapshot:
        if self._snapshot is not None and self._decision is None:
            raise ValueError(f"step {self._snapshot.step_id.step} waits for decide()")
        while self.end is None:
            try:
                answer = await self._exchange()
            except ServiceError as error:
                await self._after(error)
                continue
            self._patience.hears()
            self._has_driven = True
            if answer.HasField("transition"):
                self.transition = answer.transition
            elif answer.HasField("end"):
                self.end = answer.end
                self._hang_up()
            elif self._is_news(answer.snapshot):
                self._snapshot, self._decision = answer.snapshot, None
                return answer.snapshot
        raise StopAsyncIteration

    async def _exchange(self) -> DriveEpisodeResponse:
        """Send what is to be sent, and return what comes. Raises `ServiceError`."""
        try:
            if self._call is None:
                self._patience.calls()
                self._is_asked = False
                self._call = self._stub()
                await self._call.write(DriveEpisodeRequest(start=self._opening))
            elif self._is_asked:
                self._is_asked = False
                await self._call.write(DriveEpisodeRequest(decision=self._decision))
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._address) from None
        if not isinstance(answer, DriveEpisodeResponse):
            raise ServiceError("UNAVAILABLE", "", "the trainer ended the stream")
        return answer

    async def _after(self, error: ServiceError) -> None:
        """Wait until it makes sense to drive on. Raises `ServiceError` where it does not."""
        self._hang_up()
        if error.code == "INVALID_ARGUMENT" and self._decision is not None:
            # The episode waits for another decision on the same snapshot.
            self._decision, self._snapshot = None, None
        if error.reason == "EPISODE_DRIVEN" and self._has_driven:
            # By the stream of ours that broke, which the trainer has not noticed yet.
            error.retry_after_s = error.retry_after_s or 0.0
        await self._patience.after(error)

    def _is_news(self, snapshot: MultiSlotSnapshot) -> bool:
        """Whether nothing has been decided on a snapshot; else what was decided goes out again."""
        self._is_asked = True
        known = self._snapshot
        return known is None or self._decision is None or snapshot.step_id != known.step_id

    def _hang_up(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
