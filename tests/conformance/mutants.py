"""Policies that are broken on purpose, each in one place, and the case that must notice."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import status_pb2
from tests.conformance.implementation import Context, Implementation, abort

from chassis.errors import LeylineError
from chassis.validation import check
from leyline.v1.decision_pb2 import (
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
    Decision,
    DecisionQuery,
)
from leyline.v1.policy_pb2 import (
    DecideRequest,
    DecideResponse,
    GetPolicyInfoResponse,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot


class NeverHealthy(Implementation):
    """Decides, and tells health of nothing."""

    services = ()


class Anonymous(Implementation):
    """Does not say which version decides."""

    def info(self) -> GetPolicyInfoResponse:
        info = super().info()
        info.policy_version = ""
        return info


class OtherFeatures(Implementation):
    """Calls its own observation spec by a name of the contract."""

    def info(self) -> GetPolicyInfoResponse:
        info = super().info()
        info.spec_fingerprint = "0" * 64
        return info


class AnyFingerprint(Implementation):
    """Decides on snapshots that were filled for another spec."""

    def admit(self, query: DecisionQuery) -> None:
        query.spec_fingerprint = self.info().spec_fingerprint
        super().admit(query)


class AdmitsOnStreams(Implementation):
    """Looks at fingerprints in one of its two ways to decide."""

    async def answer(self, request: StreamDecisionsRequest) -> StreamDecisionsResponse:
        request.query.spec_fingerprint = self.info().spec_fingerprint
        return await super().answer(request)


class AnyNumberOfSlots(Implementation):
    """Says that it is for three slots, and decides for four."""

    def admit(self, query: DecisionQuery) -> None:
        slots, self.slots = self.slots, None
        super().admit(query)
        self.slots = slots


class AnyVersion(Implementation):
    """Lets the version decide that it has, whichever was asked for."""

    def admit(self, query: DecisionQuery) -> None:
        query.ClearField("policy_version")
        super().admit(query)


class Unreflected(Implementation):
    """Tells reflection of nothing."""

    reflected = ()


class UnmeasuredIsAnError(Implementation):
    """Cannot decide where something was not measured."""

    def validate(self, query: DecisionQuery) -> None:
        super().validate(query)
        if not query.snapshot.HasField("train_loss"):
            raise RuntimeError("no loss")


class SlotOfAnotherRun(Implementation):
    """Names slots as its author's own runs do."""

    def draw(self, query: DecisionQuery) -> Decision:
        decision = super().draw(query)
        if decision.HasField("slot_id"):
            decision.slot_id = f"stage{decision.slot_id[-1]}"
        return decision


class WaitsSomewhere(Implementation):
    """Names a slot on WAIT too."""

    def draw(self, query: DecisionQuery) -> Decision:
        decision = super().draw(query)
        decision.slot_id = decision.slot_id or query.snapshot.slots[0].slot_id
        return decision


class OtherVersionSigns(Implementation):
    """Signs with another version than it announces."""

    def sign(self, query: DecisionQuery, decision: Decision) -> Decision:
        signed = super().sign(query, decision)
        signed.policy_version += "-rc"
        return signed


class DrawsWhenGreedy(Implementation):
    """Says that it was greedy, and was not."""

    def draw(self, query: DecisionQuery) -> Decision:
        drawn = DecisionQuery()
        drawn.CopyFrom(query)
        drawn.mode = SELECTION_MODE_SAMPLED
        decision = super().draw(drawn)
        decision.mode = SELECTION_MODE_GREEDY
        return decision


class RefusesTheUnknown(Implementation):
    """Takes only what it knows."""

    async def Decide(self, request: DecideRequest, context: Context) -> DecideResponse:
        known = DecideRequest.FromString(request.SerializeToString())
        known.DiscardUnknownFields()
        if known.ByteSize() != request.ByteSize():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "what is this?")
        return await super().Decide(request, context)


class OneIdForAll(Implementation):
    """Names every decision alike."""

    def sign(self, query: DecisionQuery, decision: Decision) -> Decision:
        signed = super().sign(query, decision)
        signed.decision_id = "decision"
        return signed


class OrderOfTheMessage(Implementation):
    """Takes the place in the message for the place in the network."""

    def order(self, snapshot: MultiSlotSnapshot) -> list[str]:
        return [slot.slot_id for slot in snapshot.slots]


class ItsOwnDice(Implementation):
    """Draws with a generator of its own."""

    def draw(self, query: DecisionQuery) -> Decision:
        query.sampling_seed = random.getrandbits(64)
        return super().draw(query)


class Remembers(Implementation):
    """Decides by what it was asked before."""

    heard = 0

    def draw(self, query: DecisionQuery) -> Decision:
        self.heard += 1
        query.sampling_seed = (query.sampling_seed + self.heard // 50) % 2**64
        return super().draw(query)


class WrongProbabilities(Implementation):
    """Says the log-probabilities of another temperature than it draws with."""

    def draw(self, query: DecisionQuery) -> Decision:
        decision = super().draw(query)
        decision.type_log_prob *= 0.5
        decision.log_prob = decision.type_log_prob + decision.slot_log_prob
        return decision


class SwappedProbabilities(Implementation):
    """Says P(slot | type) for P(type), and the other way round."""

    def draw(self, query: DecisionQuery) -> Decision:
        decision = super().draw(query)
        if decision.HasField("slot_log_prob"):
            swapped = decision.slot_log_prob, decision.type_log_prob
            decision.type_log_prob, decision.slot_log_prob = swapped
        return decision


class NotTheSum(Implementation):
    """Says log P(type) where the log-probability of the whole decision belongs."""

    def draw(self, query: DecisionQuery) -> Decision:
        decision = super().draw(query)
        decision.log_prob = decision.type_log_prob
        return decision


class UnsetIsDormant(Implementation):
    """Reads an unset stage as the first one that there is."""

    def validate(self, query: DecisionQuery) -> None:
        for slot in query.snapshot.slots:
            slot.stage = slot.stage or 1  # type: ignore[assignment]
            slot.has_seed = slot.stage != 1
        super().validate(query)


class NanIsANumber(Implementation):
    """Does not look at what it decides on."""

    def validate(self, query: DecisionQuery) -> None:
        pass


class BlamesNobody(Implementation):
    """Refuses what is invalid without saying what is."""

    def status_of(self, error: LeylineError) -> status_pb2.Status:
        status = super().status_of(error)
        del status.details[:]
        return status


class BlamesTheWrongField(Implementation):
    """Names fields by their path in a message that nobody sent."""

    def validate(self, query: DecisionQuery) -> None:
        check(query.snapshot)


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


@dataclass(frozen=True)
class Mutant:
    """What is broken, and where it must be noticed."""

    kind: type[Implementation]
    case: str
    settings: dict[str, Any] = field(default_factory=dict)


THREE_SLOTS = {"slots": 3}
TOKEN = {"token": "s3cret-token"}

MUTANTS = (
    Mutant(NeverHealthy, "handshake.health"),
    Mutant(Anonymous, "handshake.info"),
    Mutant(OtherFeatures, "handshake.fingerprint"),
    Mutant(AnyFingerprint, "handshake.another-fingerprint"),
    Mutant(AdmitsOnStreams, "handshake.another-fingerprint"),
    Mutant(AnyNumberOfSlots, "handshake.another-number-of-slots", THREE_SLOTS),
    Mutant(AnyVersion, "handshake.unknown-version"),
    Mutant(Unreflected, "handshake.reflection"),
    Mutant(UnmeasuredIsAnError, "snapshots.one-slot-nothing-measured"),
    Mutant(SlotOfAnotherRun, "snapshots.six-slots-every-stage"),
    Mutant(WaitsSomewhere, "streams.order"),
    Mutant(OtherVersionSigns, "decisions.version"),
    Mutant(RefusesTheUnknown, "decisions.unknown-fields"),
    Mutant(OneIdForAll, "decisions.ids"),
    Mutant(DrawsWhenGreedy, "decisions.greedy"),
    Mutant(OrderOfTheMessage, "decisions.order-of-slots"),
    Mutant(ItsOwnDice, "decisions.deterministic"),
    Mutant(Remembers, "decisions.deterministic"),
    Mutant(WrongProbabilities, "decisions.distribution"),
    Mutant(SwappedProbabilities, "decisions.distribution"),
    Mutant(NotTheSum, "streams.order"),
    Mutant(UnsetIsDormant, "invalid.snapshot-stage-unset"),
    Mutant(NanIsANumber, "invalid.snapshot-nan-loss"),
    Mutant(BlamesNobody, "invalid.snapshot-accuracy-in-percent"),
    Mutant(BlamesTheWrongField, "invalid.snapshot-slot-id-malformed"),
    Mutant(Overtakes, "streams.order"),
    Mutant(StepsOfNobody, "streams.order"),
    Mutant(NeverEnds, "streams.half-close"),
    Mutant(EndsAtTheFirstError, "streams.errors-in-place"),
    Mutant(ReadsWhatIsNotThere, "streams.nothing-asked"),
    Mutant(DecidesOtherwiseOnStreams, "streams.as-decide"),
    Mutant(OneStreamAtATime, "streams.concurrent"),
    Mutant(DependsOnTheBatch, "streams.concurrent"),
    Mutant(HangsWhenCancelled, "streams.cancellation"),
    Mutant(WorksForTheGone, "limits.deadlines"),
    Mutant(SmallMessagesOnly, "limits.largest"),
    Mutant(TakesAnything, "limits.too-large"),
    Mutant(NobodyAsksForTokens, "security.no-token", TOKEN),
    Mutant(AlmostTheToken, "security.wrong-token", TOKEN),
    Mutant(EndsAtOnce, "operations.drain"),
    Mutant(AnotherLife, "operations.restart"),
)
