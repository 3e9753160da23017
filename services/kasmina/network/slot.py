"""Slots and the life of the seed in them. Rules only: no network and no numbers are moved here."""

from __future__ import annotations

import enum
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

AlphaSchedule = Literal["linear", "cosine", "sigmoid"]
"""How alpha rises while a seed blends; see `alpha_at`."""

_SIGMOID_STEEPNESS = 10.0
"""Of the logistic function over the whole of blending: its middle rises 2.5 times as fast as a
straight line, its ends a fifteenth as fast."""


class Stage(enum.StrEnum):
    """Where a slot's seed stands in its life."""

    DORMANT = "DORMANT"
    """The slot is empty."""
    GERMINATED = "GERMINATED"
    """The seed exists and is not trained; it is not seen by the network."""
    TRAINING = "TRAINING"
    """The seed learns apart from the host; it is not seen by the network."""
    BLENDING = "BLENDING"
    """The seed joins the network with weight alpha, which rises to 1."""
    FOSSILIZED = "FOSSILIZED"
    """The seed is part of the network for good."""


class Action(enum.StrEnum):
    """What can be done at a slot."""

    WAIT = "WAIT"
    GERMINATE = "GERMINATE"
    ADVANCE = "ADVANCE"
    CULL = "CULL"


class NoOpReason(enum.StrEnum):
    """Why an action changed nothing."""

    SLOT_OCCUPIED = "SLOT_OCCUPIED"
    """GERMINATE at a slot that holds a seed, fossilised ones included."""
    SLOT_EMPTY = "SLOT_EMPTY"
    """ADVANCE or CULL at an empty slot."""
    SEED_FOSSILIZED = "SEED_FOSSILIZED"
    """ADVANCE or CULL of a fossilised seed."""
    ALPHA_NOT_REACHED = "ALPHA_NOT_REACHED"
    """ADVANCE out of BLENDING before alpha has reached 1."""
    UNKNOWN_SLOT = "UNKNOWN_SLOT"
    """The action named a slot that there is not."""
    SEED_NOT_FINITE = "SEED_NOT_FINITE"
    """ADVANCE into BLENDING of a seed that holds a NaN or an infinity: it would destroy the
    host."""


@dataclass(frozen=True)
class Outcome:
    """What became of an action."""

    no_op_reason: NoOpReason | None = None
    """Why nothing changed; None where the action was carried out."""
    blueprint: str | None = None
    """Blueprint of the seed that was put in; None unless a GERMINATE was carried out."""

    @property
    def executed(self) -> bool:
        """Whether the action was carried out. WAIT always is."""
        return self.no_op_reason is None


EXECUTED = Outcome()

_NEXT_STAGE = {
    Stage.GERMINATED: Stage.TRAINING,
    Stage.TRAINING: Stage.BLENDING,
    Stage.BLENDING: Stage.FOSSILIZED,
}


def alpha_at(schedule: AlphaSchedule, progress: float) -> float:
    """Alpha after a share `progress` of blending, both in [0, 1].

    Never falls; 0 and 1 are exactly 0 and 1. "cosine" is half a wave, sin^2(pi p / 2); "sigmoid" a
    logistic function, cut off at the ends and stretched to meet them.
    """
    match schedule:
        case "linear":
            return progress
        case "cosine":
            return math.sin(0.5 * math.pi * progress) ** 2
        case "sigmoid":
            quarter = _SIGMOID_STEEPNESS / 4.0
            return 0.5 + 0.5 * math.tanh(quarter * (2.0 * progress - 1.0)) / math.tanh(quarter)


@dataclass
class Slot:
    """A place for one seed, and where that seed stands."""

    slot_id: str
    """Stable name of the slot; actions name the slot by it."""
    depth: int
    """Position from the input on, from 0."""
    blend_steps: int
    """Optimiser steps over which alpha rises from 0 to 1."""
    alpha_schedule: AlphaSchedule = "linear"
    """How it rises."""
    stage: Stage = Stage.DORMANT
    blueprint: str | None = None
    """What the seed is; None where there is none."""
    dud: bool = False
    """Whether the seed sees nothing, and so has nothing to offer."""
    intervals_in_stage: int = 0
    blend_step: int = 0
    """Optimiser steps taken in BLENDING."""
    germinations: int = 0
    """Seeds that the slot has had, the present one included."""
    accuracy_at_germination: float | None = None
    """Validation accuracy when the seed was put in, a fraction; None where there is none."""

    @property
    def alpha(self) -> float:
        """Weight of the seed in the forward pass now, in [0, 1]."""
        match self.stage:
            case Stage.BLENDING:
                progress = min(self.blend_step / self.blend_steps, 1.0)
                return alpha_at(self.alpha_schedule, progress)
            case Stage.FOSSILIZED:
                return 1.0
            case _:
                return 0.0

    @property
    def has_seed(self) -> bool:
        """Whether a seed occupies the slot."""
        return self.stage is not Stage.DORMANT

    @property
    def is_live(self) -> bool:
        """Whether the seed takes part in the network's forward pass."""
        return self.stage in (Stage.BLENDING, Stage.FOSSILIZED)

    def obstacle(self, action: Action) -> NoOpReason | None:
        """Why the action would change nothing here by the rules; None where it is possible."""
        if action is Action.WAIT:
            return None
        if action is Action.GERMINATE:
            return NoOpReason.SLOT_OCCUPIED if self.has_seed else None
        if not self.has_seed:
            return NoOpReason.SLOT_EMPTY
        if self.stage is Stage.FOSSILIZED:
            return NoOpReason.SEED_FOSSILIZED
        if action is Action.ADVANCE and self.stage is Stage.BLENDING and self.alpha < 1.0:
            return NoOpReason.ALPHA_NOT_REACHED
        return None

    def germinate(self, blueprint: str, accuracy: float, dud: bool = False) -> None:
        """Puts a seed into the empty slot; `accuracy` is that of the last validation."""
        self._require(Action.GERMINATE)
        self.blueprint = blueprint
        self.dud = dud
        self.accuracy_at_germination = accuracy
        self.germinations += 1
        self._enter(Stage.GERMINATED)

    def plant(self, blueprint: str, accuracy: float, dud: bool = False) -> None:
        """Puts a seed into the empty slot that is part of the network at once, and for good."""
        self.germinate(blueprint, accuracy, dud)
        self._enter(Stage.FOSSILIZED)

    def advance(self) -> None:
        """Moves the seed one stage on."""
        self._require(Action.ADVANCE)
        self._enter(_NEXT_STAGE[self.stage])

    def cull(self) -> None:
        """Drops the seed and frees the slot."""
        self._require(Action.CULL)
        self.blueprint = None
        self.dud = False
        self.accuracy_at_germination = None
        self._enter(Stage.DORMANT)

    def count_step(self) -> None:
        """To be called after every optimiser step: alpha moves on while the seed blends."""
        if self.stage is Stage.BLENDING:
            self.blend_step = min(self.blend_step + 1, self.blend_steps)

    def count_interval(self) -> None:
        """To be called after every decision interval."""
        self.intervals_in_stage += 1

    def state(self) -> dict[str, Any]:
        """Everything about the slot, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Slot:
        """The slot that `state` described. Raises TypeError or ValueError where there is none."""
        return cls(**{**state, "stage": Stage(state["stage"])})

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        self.intervals_in_stage = 0
        self.blend_step = 0

    def _require(self, action: Action) -> None:
        reason = self.obstacle(action)
        if reason is not None:
            raise ValueError(f"{action} at {self.slot_id} in {self.stage}: {reason}")
