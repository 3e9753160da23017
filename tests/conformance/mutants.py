"""Policies that are broken on purpose, each in one place, and the case that must notice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.conformance import broken_decisions, broken_serving
from tests.conformance.implementation import Implementation


@dataclass(frozen=True)
class Mutant:
    """What is broken, and where it must be noticed."""

    kind: type[Implementation]
    case: str
    settings: dict[str, Any] = field(default_factory=dict)


THREE_SLOTS = {"slots": 3}
TOKEN = {"token": "s3cret-token"}

MUTANTS = (
    Mutant(broken_decisions.NeverHealthy, "handshake.health"),
    Mutant(broken_decisions.Anonymous, "handshake.info"),
    Mutant(broken_decisions.OtherFeatures, "handshake.fingerprint"),
    Mutant(broken_decisions.AnyFingerprint, "handshake.another-fingerprint"),
    Mutant(broken_decisions.AdmitsOnStreams, "handshake.another-fingerprint"),
    Mutant(broken_decisions.AnyNumberOfSlots, "handshake.another-number-of-slots", THREE_SLOTS),
    Mutant(broken_decisions.AnyVersion, "handshake.unknown-version"),
    Mutant(broken_decisions.Unreflected, "handshake.reflection"),
    Mutant(broken_decisions.UnmeasuredIsAnError, "snapshots.one-slot-nothing-measured"),
    Mutant(broken_decisions.SlotOfAnotherRun, "snapshots.six-slots-every-stage"),
    Mutant(broken_decisions.WaitsSomewhere, "streams.order"),
    Mutant(broken_decisions.OtherVersionSigns, "decisions.version"),
    Mutant(broken_decisions.RefusesTheUnknown, "decisions.unknown-fields"),
    Mutant(broken_decisions.OneIdForAll, "decisions.ids"),
    Mutant(broken_decisions.DrawsWhenGreedy, "decisions.greedy"),
    Mutant(broken_decisions.OrderOfTheMessage, "decisions.order-of-slots"),
    Mutant(broken_decisions.ItsOwnDice, "decisions.deterministic"),
    Mutant(broken_decisions.Remembers, "decisions.deterministic"),
    Mutant(broken_decisions.WrongProbabilities, "decisions.distribution"),
    Mutant(broken_decisions.SwappedProbabilities, "decisions.distribution"),
    Mutant(broken_decisions.NeverWarm, "decisions.temperature"),
    Mutant(broken_decisions.WarmWhenGreedy, "decisions.temperature"),
    Mutant(broken_decisions.NotTheSum, "streams.order"),
    Mutant(broken_decisions.UnsetIsDormant, "invalid.snapshot-stage-unset"),
    Mutant(broken_decisions.NanIsANumber, "invalid.snapshot-nan-loss"),
    Mutant(broken_decisions.BlamesNobody, "invalid.snapshot-accuracy-in-percent"),
    Mutant(broken_decisions.BlamesTheWrongField, "invalid.snapshot-slot-id-malformed"),
    Mutant(broken_serving.Overtakes, "streams.order"),
    Mutant(broken_serving.StepsOfNobody, "streams.order"),
    Mutant(broken_serving.NeverEnds, "streams.half-close"),
    Mutant(broken_serving.EndsAtTheFirstError, "streams.errors-in-place"),
    Mutant(broken_serving.ReadsWhatIsNotThere, "streams.nothing-asked"),
    Mutant(broken_serving.DecidesOtherwiseOnStreams, "streams.as-decide"),
    Mutant(broken_serving.OneStreamAtATime, "streams.concurrent"),
    Mutant(broken_serving.DependsOnTheBatch, "streams.concurrent"),
    Mutant(broken_serving.HangsWhenCancelled, "streams.cancellation"),
    Mutant(broken_serving.WorksForTheGone, "limits.deadlines"),
    Mutant(broken_serving.SmallMessagesOnly, "limits.largest"),
    Mutant(broken_serving.TakesAnything, "limits.too-large"),
    Mutant(broken_serving.NobodyAsksForTokens, "security.no-token", TOKEN),
    Mutant(broken_serving.AlmostTheToken, "security.wrong-token", TOKEN),
    Mutant(broken_serving.EndsAtOnce, "operations.drain"),
    Mutant(broken_serving.AnotherLife, "operations.restart"),
)
