"""How a snapshot becomes the vector that a policy's network sees. The only place where it does.

The rules are those of `proto/leyline/v1/observation.proto`: a spec is a template of global features
and one of slot features, and any such spec, a third party's too, can be given to `vectorize`. The
two that have a name are built here from one table each; `docs/observation.md` shows them for people
and `proto/testdata/specs/` for other languages.

How the scales were chosen: on CIFAR-100 with the weak CNN all values lie within about [-1, 1.5].
"Not measured" lies below every measured value (-1, or -1.5 where measured values may be negative),
so that a network can tell it from zero.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from numpy.typing import NDArray

from leyline.v1.observation_pb2 import (
    SCALING_LINEAR,
    SCALING_LOG1P,
    SCALING_RESERVED,
    SCALING_SYMLOG,
    FeatureSpec,
    ObservationSpec,
    Scaling,
)
from leyline.v1.snapshot_pb2 import (
    STAGE_BLENDING,
    STAGE_FOSSILIZED,
    STAGE_TRAINING,
    MultiSlotSnapshot,
    SlotReading,
    Stage,
)


class UnknownSpec(LookupError):
    """There is no observation spec of that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known = spec_names()
        super().__init__(
            f'no observation spec is named "{name}"; there are: {", ".join(self.known)}'
        )


class BadSpec(ValueError):
    """A feature of a spec does not fit the messages of this contract."""


class _Scale(NamedTuple):
    """How a quantity is scaled, clipped, and said to be unset; features share it."""

    unit: str
    scaling: Scaling.ValueType
    scale: float
    lower: float
    upper: float
    unset: float
    offset: float = 0.0


# 1.0 is the loss of a network that knows nothing of 100 classes: ln 100 nats.
_LOSS = _Scale("nats", SCALING_LINEAR, math.log(100), 0, 2, -1)
_ACCURACY = _Scale("fraction", SCALING_LINEAR, 0.5, 0, 2, -1)
_GAP = _Scale("nats", SCALING_SYMLOG, 1, -1, 2, -1.5)
_SHARE = _Scale("fraction", SCALING_LINEAR, 1, 0, 1, -1)
_PARAMETER_RATIO = _Scale("ratio", SCALING_LOG1P, 1, 0, 3, -1)
_RESERVED = _Scale("none", SCALING_RESERVED, 1, 0, 0, 0)

_REACHED = {
    "reached_training": STAGE_TRAINING,
    "reached_blending": STAGE_BLENDING,
    "reached_fossilized": STAGE_FOSSILIZED,
}


def _reached(stage: Stage.ValueType) -> _Scale:
    """From a stage's number on 1, before it 0: the clip makes a step of it."""
    return _Scale("boolean", SCALING_LINEAR, 1, 0, 1, -1, offset=stage - 1)


_HISTORY = 5  # repeated fields of the contract hold at most so many

# One row is one number of the vector: the feature's name, and how it is scaled.
_SEED_GLOBAL: list[tuple[str, _Scale]] = [
    ("epoch", _Scale("intervals", SCALING_LOG1P, 4, 0, 3, -1)),
    ("global_step", _Scale("optimiser steps", SCALING_LOG1P, 8, 0, 3, -1)),
    ("train_loss", _LOSS),
    ("val_loss", _LOSS),
    ("val_accuracy", _ACCURACY),
    ("plateau_epochs", _Scale("intervals", SCALING_LOG1P, 2, 0, 3, -1)),
    ("best_val_accuracy", _ACCURACY),
    ("best_val_loss", _LOSS),
    *((f"loss_history_{age}", _LOSS) for age in range(1, _HISTORY + 1)),
    *((f"accuracy_history_{age}", _ACCURACY) for age in range(1, _HISTORY + 1)),
]
_SEED_SLOT: list[tuple[str, _Scale]] = [
    # Root mean squares of gradients are small numbers: 0.002 to 0.03 in the weak CNN on CIFAR-100.
    ("gradient_norm", _Scale("nats per weight", SCALING_LINEAR, 0.02, 0, 4, -1)),
    ("activation_sparsity", _SHARE),
    ("has_seed", _Scale("boolean", SCALING_LINEAR, 1, 0, 1, -1)),
    # DORMANT, number 1 of the enum, becomes 0 and FOSSILIZED, number 5, becomes 1.
    ("seed_stage", _Scale("stage number", SCALING_LINEAR, 4, 0, 1, -1, offset=1)),
    ("seed_alpha", _SHARE),
    ("epochs_in_stage", _Scale("intervals", SCALING_LOG1P, 2, 0, 3, -1)),
    ("seed_improvement", _Scale("fraction", SCALING_LINEAR, 0.1, -1, 2, -1.5)),
    *((f"reserved_{place}", _RESERVED) for place in range(1, 4)),
]
_EXTENDED_GLOBAL: list[tuple[str, _Scale]] = [
    *_SEED_GLOBAL,
    ("time_left", _SHARE),
    ("size_ratio", _PARAMETER_RATIO._replace(offset=1)),
    ("learning_rate", _Scale("per step", SCALING_LINEAR, 0.1, 0, 4, -1)),
    ("generalization_gap", _GAP),
]
_EXTENDED_SLOT: list[tuple[str, _Scale]] = [
    *_SEED_SLOT,
    ("seed_cost", _PARAMETER_RATIO),
    ("gradmax_norm", _Scale("nats per weight", SCALING_LOG1P, 1, 0, 3, -1)),
    ("ablation_delta", _GAP),
    # Each stage but DORMANT has a number that is 1 from it on (has_seed is GERMINATED's): what to
    # do differs from stage to stage, and a network cuts one number into five only slowly.
    *((name, _reached(stage)) for name, stage in _REACHED.items()),
]

# The design speaks of a seed's stage and alpha; SlotReading just says stage and alpha.
_FIELD_OF = {"seed_stage": "stage", "seed_alpha": "alpha", **dict.fromkeys(_REACHED, "stage")}


def _feature(name: str, scale: _Scale) -> FeatureSpec:
    field, age = _FIELD_OF.get(name, name), 0
    if scale.scaling == SCALING_RESERVED:
        field = ""
    elif "_history_" in name:
        field, _, number = name.rpartition("_")
        age = int(number)
    return FeatureSpec(
        name=name,
        field=field,
        age=age,
        unit=scale.unit,
        scaling=scale.scaling,
        offset=scale.offset,
        scale=scale.scale,
        lower=scale.lower,
        upper=scale.upper,
        unset_value=scale.unset,
    )


def _spec(
    name: str, global_rows: Sequence[tuple[str, _Scale]], slot_rows: Sequence[tuple[str, _Scale]]
) -> ObservationSpec:
    spec = ObservationSpec(
        name=name,
        global_features=[_feature(*row) for row in global_rows],
        slot_features=[_feature(*row) for row in slot_rows],
    )
    spec.fingerprint = fingerprint(spec)
    return spec


def fingerprint(spec: ObservationSpec) -> str:
    """Return the fingerprint of a spec's templates, as observation.proto defines it.

    The name and the fingerprint that the spec carries do not count: to check the latter, compare it
    with the result.
    """
    digest = hashlib.sha256()
    for scope, features in (("global", spec.global_features), ("slot", spec.slot_features)):
        for feature in features:
            words = (
                scope,
                feature.name,
                feature.field,
                str(feature.age),
                feature.unit,
                str(int(feature.scaling)),
                _hexadecimal(feature.offset),
                _hexadecimal(feature.scale),
                _hexadecimal(feature.lower),
                _hexadecimal(feature.upper),
                _hexadecimal(feature.unset_value),
            )
            digest.update(("\t".join(words) + "\n").encode("ascii"))
    return digest.hexdigest()


def _hexadecimal(number: float) -> str:
    # Adding 0.0 makes zero of negative zero: the two are equal and must not make two fingerprints.
    return struct.pack(">d", number + 0.0).hex()


SEED_SPEC = _spec("seed", _SEED_GLOBAL, _SEED_SLOT)
"""The seed design's own list: 18 global features and 10 a slot, three of them reserved."""

EXTENDED_SPEC = _spec("extended", _EXTENDED_GLOBAL, _EXTENDED_SLOT)
"""`SEED_SPEC`'s and what learning was seen to need besides: 22 global features and 16 a slot."""

_BY_NAME = {spec.name: spec for spec in (SEED_SPEC, EXTENDED_SPEC)}


def spec_names() -> tuple[str, ...]:
    """Return the names of the specs that have one."""
    return tuple(_BY_NAME)


def spec_by_name(name: str) -> ObservationSpec:
    """Return the spec of a name. It is shared: do not change it.

    Raises:
        UnknownSpec: there is none of that name.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownSpec(name) from None


def vector_length(spec: ObservationSpec, slots: int) -> int:
    """Return the length of the vector of a snapshot with so many slots."""
    return len(spec.global_features) + slots * len(spec.slot_features)


def slot_order(snapshot: MultiSlotSnapshot) -> tuple[str, ...]:
    """Return the slots' ids in the vector's order: by depth, whatever the order in the message."""
    return tuple(slot.slot_id for slot in _by_depth(snapshot))


class Vectorizer:
    """A spec, ready to make vectors.

    What it says is written out as the source of two functions and compiled once, because a vector
    stands in the way of every decision: a call for each number and each of its scales takes longer
    than the network behind it.
    """

    def __init__(self, spec: ObservationSpec) -> None:
        """Take any spec.

        Raises:
            BadSpec: a feature names a field that the message does not have, or that holds no
                number.
        """
        self._of_snapshot = _compiled(MultiSlotSnapshot.DESCRIPTOR, spec.global_features)
        self._of_slot = _compiled(SlotReading.DESCRIPTOR, spec.slot_features)

    def __call__(self, snapshot: MultiSlotSnapshot) -> NDArray[np.float32]:
        """Return what a policy's network sees of a snapshot.

        Args:
            snapshot: a valid one, as it comes out of a service's validation.

        Returns:
            float32 `(vector_length(spec, len(snapshot.slots)),)`: the global features, then each
            slot's, by depth. Finite: each lies between its feature's bounds or is its unset value.
        """
        return np.array(self._numbers(snapshot), dtype=np.float32)

    def batch(self, snapshots: Sequence[MultiSlotSnapshot]) -> NDArray[np.float32]:
        """Return the vectors of snapshots with equally many slots, float32 `(n, length)`."""
        return np.array([self._numbers(snapshot) for snapshot in snapshots], dtype=np.float32)

    def _numbers(self, snapshot: MultiSlotSnapshot) -> list[float]:
        """Return the vector in double precision."""
        numbers = self._of_snapshot(snapshot)
        for slot in _by_depth(snapshot):
            numbers += self._of_slot(slot)
        return numbers


def vectorize(snapshot: MultiSlotSnapshot, spec: ObservationSpec) -> NDArray[np.float32]:
    """Return what a policy's network sees of one snapshot; for many, keep a `Vectorizer`.

    Raises:
        BadSpec: as `Vectorizer`.
    """
    return Vectorizer(spec)(snapshot)


_depth = attrgetter("depth")


def _by_depth(snapshot: MultiSlotSnapshot) -> list[SlotReading]:
    return sorted(snapshot.slots, key=_depth)


def _compiled(
    message: Descriptor, features: Sequence[FeatureSpec]
) -> Callable[[Message], list[float]]:
    """Return a function from a message to its features' numbers, in double precision."""
    numbers = ", ".join(_source(message, feature) for feature in features)
    names = {"log1p": math.log1p, "copysign": math.copysign, "inf": math.inf, "nan": math.nan}
    # Of a spec nothing gets into the source but numbers, and names that the contract has.
    function: Callable[[Message], list[float]] = eval(f"lambda message: [{numbers}]", names)
    return function


def _source(message: Descriptor, feature: FeatureSpec) -> str:
    """Write one number of the vector as an expression of the message."""
    unset, name, age = repr(feature.unset_value), feature.field, feature.age
    if feature.scaling == SCALING_RESERVED:
        return unset
    field = message.fields_by_name.get(name)
    if (
        field is None
        or field.message_type is not None
        or field.type in (field.TYPE_STRING, field.TYPE_BYTES)
    ):
        raise BadSpec(
            f'feature "{feature.name}" wants field "{name}", '
            f"and {message.name} has no number of that name"
        )
    if age and not field.is_repeated:
        raise BadSpec(f'feature "{feature.name}" gives an age of "{name}", one number')
    if field.is_repeated and not age:
        raise BadSpec(f'feature "{feature.name}" gives no age of "{name}", a list')
    if field.is_repeated:
        value = _scaled(feature, f"values[-{age}]")
        return f"({value} if len(values := message.{name}) >= {age} else {unset})"
    value = _scaled(feature, f"message.{name}")
    return f'({value} if message.HasField("{name}") else {unset})' if field.has_presence else value


def _scaled(feature: FeatureSpec, value: str) -> str:
    """Write a value as its feature scales and clips it."""
    x = f"{value} - {feature.offset!r}"
    positive = f"log1p(0.0 if (x := {x}) < 0.0 else x)"
    scaled = {
        SCALING_LINEAR: f"({x})",
        SCALING_LOG1P: positive,
        SCALING_SYMLOG: f"copysign(log1p(abs(x := {x})), x)",
    }.get(feature.scaling)
    if scaled is None:
        raise BadSpec(
            f'feature "{feature.name}" has scaling {feature.scaling}, which nobody defined'
        )
    lower, upper = repr(feature.lower), repr(feature.upper)
    y = f"{scaled} / {feature.scale!r}"
    return f"({lower} if (y := {y}) < {lower} else {upper} if y > {upper} else y)"
