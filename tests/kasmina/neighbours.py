"""A policy and an experience service for tests: real gRPC servers with rules that fit on a page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_status import rpc_status  # type: ignore[import-untyped]

from chassis.errors import ErrorCode, LeylineError
from chassis.status import to_status
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_CULL,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
    Decision,
    DecisionQuery,
)
from leyline.v1.experience_pb2 import (
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    ExperienceItem,
    GetIngestCursorRequest,
    GetIngestCursorResponse,
    GetStatisticsRequest,
    GetStatisticsResponse,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
    RecordTransitionsRequest,
    RecordTransitionsResponse,
    RejectedItem,
    StreamTransitionsRequest,
    StreamTransitionsResponse,
)
from leyline.v1.experience_pb2_grpc import (
    ExperienceServiceServicer,
    add_ExperienceServiceServicer_to_server,
)
from leyline.v1.policy_pb2 import (
    DecideRequest,
    DecideResponse,
    GetPolicyInfoRequest,
    GetPolicyInfoResponse,
    SlotRequirement,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.policy_pb2_grpc import PolicyServiceServicer, add_PolicyServiceServicer_to_server
from leyline.v1.snapshot_pb2 import StepId
from leyline.v1.transition_pb2 import EpisodeEnd, Transition

Context = grpc.aio.ServicerContext[Any, Any]
Episode = tuple[str, int]

VERSION = "coin-1"
_ACTIONS = (ACTION_TYPE_WAIT, ACTION_TYPE_GERMINATE, ACTION_TYPE_ADVANCE, ACTION_TYPE_CULL)
# Growing is likelier than not, so that short episodes have something in every stage.
_WEIGHTED = (0, 1, 1, 1, 2, 2, 2, 2, 2, 3)


def coin(query: DecisionQuery) -> Decision:
    """A decision that depends on the sampling seed and on nothing else."""
    seed = query.sampling_seed
    action = _ACTIONS[_WEIGHTED[seed % len(_WEIGHTED)]]
    slots = query.snapshot.slots
    decision = Decision(
        decision_id=f"coin-{seed}",
        action_type=action,
        policy_version=query.policy_version or VERSION,
        mode=SELECTION_MODE_SAMPLED,
        type_log_prob=-1.0,
        log_prob=-1.0,
    )
    if action != ACTION_TYPE_WAIT:
        decision.slot_id = slots[seed // 16 % len(slots)].slot_id
    return decision


def without_clocks(transition: Transition) -> Transition:
    """What happened, without when and how fast."""
    same = Transition()
    same.CopyFrom(transition)
    same.ClearField("completed_at")
    same.facts.ClearField("duration")
    return same


Answer = StreamDecisionsResponse | None


def answer(query: DecisionQuery, decision: Decision) -> StreamDecisionsResponse:
    """A decision in its place on a stream."""
    return StreamDecisionsResponse(step_id=query.snapshot.step_id, decision=decision)


def refusal(query: DecisionQuery, error: LeylineError) -> StreamDecisionsResponse:
    """An error in the place of a decision."""
    return StreamDecisionsResponse(step_id=query.snapshot.step_id, error=to_status(error))


@dataclass
class Policy(PolicyServiceServicer):
    """A policy that answers as `decide` says; None is no answer.

    Attributes:
        asked: every query, in order.
    """

    decide: Callable[[DecisionQuery], Answer] = lambda query: answer(query, coin(query))
    info: GetPolicyInfoResponse = field(
        default_factory=lambda: GetPolicyInfoResponse(
            policy="coin",
            policy_version=VERSION,
            spec_fingerprint=SEED_SPEC.fingerprint,
            spec_name="seed",
            slots=SlotRequirement(any=True),
            follows_registry=True,
            deterministic=True,
        )
    )
    asked: list[DecisionQuery] = field(default_factory=list)
    streams: int = 0

    async def GetPolicyInfo(
        self, request: GetPolicyInfoRequest, context: Context
    ) -> GetPolicyInfoResponse:
        """Says who decides."""
        return self.info

    async def Decide(self, request: DecideRequest, context: Context) -> DecideResponse:
        """Is not what a trainer asks with."""
        raise NotImplementedError

    async def StreamDecisions(
        self, requests: AsyncIterator[StreamDecisionsRequest], context: Context
    ) -> AsyncIterator[StreamDecisionsResponse]:
        """Decides for one episode."""
        self.streams += 1
        async for request in requests:
            self.asked.append(request.query)
            response = self.decide(request.query)
            if response is not None:
                yield response


@dataclass
class Experience(ExperienceServiceServicer):
    """An experience service in memory.

    Attributes:
        pin: the version that episodes are pinned to.
        evaluation_pair: what episodes are played for whose trainer offers that; greedily then.
        transitions: stored, by step.
        received: how often each item arrived.
        reject: an error for an item instead of storing it; None stores it.
        refuse: an error for an episode instead of beginning it; None begins it.
    """

    pin: str | None = None
    evaluation_pair: int | None = None
    transitions: dict[tuple[str, int, int], Transition] = field(default_factory=dict)
    ends: dict[Episode, EpisodeEnd] = field(default_factory=dict)
    fences: dict[Episode, int] = field(default_factory=dict)
    introductions: list[BeginEpisodeRequest] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    reject: Callable[[ExperienceItem], LeylineError | None] = lambda item: None
    refuse: Callable[[BeginEpisodeRequest], LeylineError | None] = lambda request: None

    async def BeginEpisode(
        self, request: BeginEpisodeRequest, context: Context
    ) -> BeginEpisodeResponse:
        """Begins an episode."""
        self.introductions.append(request)
        error = self.refuse(request)
        if error is not None:
            await context.abort_with_status(rpc_status.to_status(to_status(error)))
        episode = (request.run_id, request.episode_index)
        self.fences[episode] = self.fences.get(episode, 0) + 1
        response = BeginEpisodeResponse(
            fence=self.fences[episode], policy_version=self.pin, mode=request.mode
        )
        if request.offers_evaluation and self.evaluation_pair is not None:
            response.evaluation_pair = self.evaluation_pair
            response.mode = SELECTION_MODE_GREEDY
        return response

    async def StreamTransitions(
        self, requests: AsyncIterator[StreamTransitionsRequest], context: Context
    ) -> AsyncIterator[StreamTransitionsResponse]:
        """Stores what comes."""
        latest = 0
        async for request in requests:
            self.messages.append(len(request.items))
            response = StreamTransitionsResponse()
            for item in request.items:
                assert item.sequence > latest, "sequences must grow within a stream"
                latest = item.sequence
                error = self.reject(item) or self._record(item)
                if error is not None:
                    response.rejected.append(
                        RejectedItem(sequence=item.sequence, error=to_status(error))
                    )
            response.acknowledged_sequence = latest
            yield response

    async def RecordTransitions(
        self, request: RecordTransitionsRequest, context: Context
    ) -> RecordTransitionsResponse:
        """Is not what a trainer records with."""
        raise NotImplementedError

    async def GetIngestCursor(
        self, request: GetIngestCursorRequest, context: Context
    ) -> GetIngestCursorResponse:
        """Is not asked by a trainer."""
        raise NotImplementedError

    async def ReadEpisodes(
        self, request: ReadEpisodesRequest, context: Context
    ) -> AsyncIterator[ReadEpisodesResponse]:
        """Is not asked by a trainer."""
        if request.run_id:
            raise NotImplementedError
        yield ReadEpisodesResponse()

    async def GetStatistics(
        self, request: GetStatisticsRequest, context: Context
    ) -> GetStatisticsResponse:
        """Is not asked by a trainer."""
        raise NotImplementedError

    def _record(self, item: ExperienceItem) -> LeylineError | None:
        content = item.transition.step_id if item.HasField("transition") else item.episode_end
        episode = (content.run_id, content.episode_index)
        facts = {"run_id": episode[0], "episode_index": episode[1]}
        if episode not in self.fences:
            return LeylineError(ErrorCode.EPISODE_NOT_BEGUN, **facts)  # type: ignore[arg-type]
        if item.fence != self.fences[episode]:
            return LeylineError(ErrorCode.STALE_FENCE, fence=item.fence, **facts)  # type: ignore[arg-type]
        if item.HasField("episode_end"):
            self.ends[episode] = item.episode_end
            return None
        step = (*episode, item.transition.step_id.step)
        stored = self.transitions.setdefault(step, item.transition)
        if without_clocks(stored) != without_clocks(item.transition):
            return LeylineError(ErrorCode.TRANSITION_CONFLICT, step=step[2], **facts)  # type: ignore[arg-type]
        return None

    def episode(self, run_id: str, episode_index: int) -> list[Transition]:
        """The stored transitions of an episode, in order."""
        steps = sorted(key for key in self.transitions if key[:2] == (run_id, episode_index))
        return [self.transitions[step] for step in steps]


@asynccontextmanager
async def serving(
    *servicers: Policy | Experience, address: str = "127.0.0.1:0"
) -> AsyncIterator[str]:
    """Serves them all at one address, which is given back."""
    server = grpc.aio.server()
    for servicer in servicers:
        if isinstance(servicer, Policy):
            add_PolicyServiceServicer_to_server(servicer, server)
        else:
            add_ExperienceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def until(holds: Callable[[], bool], timeout_s: float = 200.0) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.02)


def not_ready(request: BeginEpisodeRequest) -> LeylineError:
    """The answer of a service whose learner has not made the episode's version."""
    return LeylineError(
        ErrorCode.VERSION_NOT_READY,
        run_id=request.run_id,
        episode_index=request.episode_index,
        update=7,
    )


def step_id(run_id: str, episode_index: int, step: int) -> StepId:
    """Names a step."""
    return StepId(run_id=run_id, episode_index=episode_index, step=step)
