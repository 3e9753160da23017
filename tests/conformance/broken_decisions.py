"""Implementations that say something wrong: of themselves, of a decision, of a refusal."""

from __future__ import annotations

import random

import grpc
from google.rpc import status_pb2
from tests.conformance.implementation import Context, Implementation

from chassis.errors import LeylineError
from chassis.validation import check
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_CULL,
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
from leyline.v1.snapshot_pb2 import STAGE_DORMANT, STAGE_UNSPECIFIED, MultiSlotSnapshot


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


class NeverWarm(Implementation):
    """Draws at one temperature, whatever it is asked."""

    def draw(self, query: DecisionQuery) -> Decision:
        query.ClearField("temperature")
        return super().draw(query)


class WarmWhenGreedy(Implementation):
    """Takes the least likely where it is asked for the most likely at a temperature."""

    def draw(self, query: DecisionQuery) -> Decision:
        decision = super().draw(query)
        if query.mode == SELECTION_MODE_GREEDY and query.HasField("temperature"):
            decision.action_type = ACTION_TYPE_CULL
            decision.slot_id = query.snapshot.slots[0].slot_id
            decision.slot_log_prob = 0.0
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
            if slot.stage == STAGE_UNSPECIFIED:
                slot.stage = STAGE_DORMANT
            slot.has_seed = slot.stage != STAGE_DORMANT
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
