"""Laws of the observation vector."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import protovalidate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyline.observation import (
    EXTENDED_SPEC,
    SEED_SPEC,
    BadSpec,
    UnknownSpec,
    fingerprint,
    slot_order,
    spec_by_name,
    vector_length,
    vectorize,
)
from leyline.v1.observation_pb2 import FeatureSpec, ObservationSpec
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, SlotReading, Stage, StepId

BOTH_SPECS = pytest.mark.parametrize("spec", [SEED_SPEC, EXTENDED_SPEC], ids=["seed", "extended"])

fractions = st.floats(0, 1)
losses = st.floats(0, 1e6)
signed = st.floats(-1e6, 1e6)
counts = st.integers(0, 2**32 - 1)


def maybe(values: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.none() | values


@st.composite
def slot_readings(draw: st.DrawFn, depth: int) -> SlotReading:
    stage = draw(st.sampled_from(Stage.values()[1:]))
    alpha = {Stage.STAGE_BLENDING: draw(fractions), Stage.STAGE_FOSSILIZED: 1.0}.get(stage, 0.0)
    return SlotReading(
        slot_id=f"slot-{depth}",
        depth=depth,
        stage=stage,
        has_seed=stage != Stage.STAGE_DORMANT,
        alpha=alpha,
        epochs_in_stage=draw(counts),
        gradient_norm=draw(maybe(losses)),
        activation_sparsity=draw(maybe(fractions)),
        seed_improvement=draw(maybe(st.floats(-1, 1))),
        seed_cost=draw(maybe(losses)),
        gradmax_norm=draw(maybe(losses)),
        ablation_delta=draw(maybe(signed)),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> MultiSlotSnapshot:
    depths = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=8, unique=True))
    return MultiSlotSnapshot(
        step_id=StepId(run_id="r", step=draw(st.integers(0, 10**9))),
        epoch=draw(counts),
        global_step=draw(st.integers(0, 2**64 - 1)),
        train_loss=draw(maybe(losses)),
        val_loss=draw(maybe(losses)),
        val_accuracy=draw(maybe(fractions)),
        plateau_epochs=draw(counts),
        best_val_accuracy=draw(maybe(fractions)),
        best_val_loss=draw(maybe(losses)),
        loss_history=draw(st.lists(losses, max_size=5)),
        accuracy_history=draw(st.lists(fractions, max_size=5)),
        slots=[draw(slot_readings(depth)) for depth in depths],
        time_left=draw(maybe(fractions)),
        size_ratio=draw(maybe(st.floats(1, 1e6))),
        learning_rate=draw(maybe(losses)),
        generalization_gap=draw(maybe(signed)),
    )


@BOTH_SPECS
@given(snapshot=snapshots(), order=st.randoms(use_true_random=False))
def test_the_order_of_slots_in_the_message_does_not_change_the_vector(
    spec: ObservationSpec, snapshot: MultiSlotSnapshot, order: random.Random
) -> None:
    slots = list(snapshot.slots)
    order.shuffle(slots)
    shuffled = MultiSlotSnapshot()
    shuffled.CopyFrom(snapshot)
    del shuffled.slots[:]
    shuffled.slots.extend(slots)
    np.testing.assert_array_equal(vectorize(snapshot, spec), vectorize(shuffled, spec))
    assert slot_order(snapshot) == slot_order(shuffled)


@BOTH_SPECS
@given(snapshot=snapshots())
def test_the_vector_of_a_valid_snapshot_is_finite_and_within_its_bounds(
    spec: ObservationSpec, snapshot: MultiSlotSnapshot
) -> None:
    assert protovalidate.collect_violations(snapshot) == []
    vector = vectorize(snapshot, spec)
    assert vector.dtype == np.float32
    assert vector.shape == (vector_length(spec, len(snapshot.slots)),)
    assert np.isfinite(vector).all()
    features = [*spec.global_features, *list(spec.slot_features) * len(snapshot.slots)]
    for feature, value in zip(features, vector, strict=True):
        lower, upper = np.float32(feature.lower), np.float32(feature.upper)
        assert lower <= value <= upper or value == np.float32(feature.unset_value), feature.name


@BOTH_SPECS
def test_unset_lies_below_everything_that_can_be_measured(spec: ObservationSpec) -> None:
    for feature in [*spec.global_features, *spec.slot_features]:
        if feature.field:
            assert feature.unset_value < feature.lower, feature.name
            assert feature.unset_value != 0


@given(snapshot=snapshots())
def test_the_extended_spec_begins_with_the_seed_specs_features(snapshot: MultiSlotSnapshot) -> None:
    seed, extended = vectorize(snapshot, SEED_SPEC), vectorize(snapshot, EXTENDED_SPEC)
    np.testing.assert_array_equal(seed[:18], extended[:18])
    for index in range(len(snapshot.slots)):
        of_seed = seed[18 + 10 * index :][:10]
        np.testing.assert_array_equal(of_seed, extended[22 + 16 * index :][:10])


def test_three_slots_give_48_numbers_under_the_seed_spec_and_70_under_the_extended_one() -> None:
    assert (vector_length(SEED_SPEC, 3), vector_length(EXTENDED_SPEC, 3)) == (48, 70)


@BOTH_SPECS
def test_a_named_spec_is_valid(spec: ObservationSpec) -> None:
    assert protovalidate.collect_violations(spec) == []


# A change of these two numbers is a change of the contract: every policy that was ever trained
# refuses to be fed what the new spec makes. Change a spec by giving another one another name.
def test_the_fingerprints_of_the_named_specs_stay() -> None:
    assert SEED_SPEC.fingerprint == (
        "724a8574221df5afd1a273beb2fe1eb21ef1577ad71f13659ef3d1f94101d053"
    )
    assert EXTENDED_SPEC.fingerprint == (
        "160a671fd83ce7d71f9c17e30d4a38a7a0392cc4a20993616588a3e5e85bf9bc"
    )


def altered(**changes: Any) -> ObservationSpec:
    spec = ObservationSpec()
    spec.CopyFrom(SEED_SPEC)
    for field, value in changes.items():
        setattr(spec.global_features[2], field, value)
    return spec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "another"),
        ("field", "val_loss"),
        ("age", 1),
        ("unit", "bits"),
        ("scaling", 2),
        ("offset", 1e-9),
        ("scale", 1.0),
        ("lower", -1.0),
        ("upper", 3.0),
        ("unset_value", -2.0),
    ],
)
def test_a_change_of_any_part_of_a_feature_changes_the_fingerprint(field: str, value: Any) -> None:
    assert fingerprint(altered(**{field: value})) != SEED_SPEC.fingerprint


def test_the_order_of_features_counts_and_names_of_specs_and_signs_of_zero_do_not() -> None:
    spec = altered(offset=-0.0)
    spec.name = "another"
    assert fingerprint(spec) == SEED_SPEC.fingerprint
    first, second = spec.slot_features[:2]
    swapped = ObservationSpec(slot_features=[second, first])
    assert fingerprint(swapped) != fingerprint(ObservationSpec(slot_features=[first, second]))


def test_a_feature_moved_from_the_network_to_the_slots_changes_the_fingerprint() -> None:
    feature = SEED_SPEC.slot_features[0]
    assert fingerprint(ObservationSpec(global_features=[feature])) != fingerprint(
        ObservationSpec(slot_features=[feature])
    )


def one_feature(**fields: Any) -> ObservationSpec:
    given: dict[str, Any] = {"name": "x", "scaling": 1, "scale": 1, "lower": -5, "upper": 5}
    return ObservationSpec(global_features=[FeatureSpec(**{**given, **fields})])


@pytest.mark.parametrize(
    "fields",
    [
        {"field": "no_such_field"},
        {"field": "step_id"},
        {"field": "slots", "age": 1},
        {"field": "loss_history"},
        {"field": "train_loss", "age": 1},
        {"field": "epoch", "scaling": 77},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_a_spec_that_does_not_fit_the_messages_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadSpec, match="x"):
        vectorize(MultiSlotSnapshot(loss_history=[1.0]), one_feature(**fields))


@pytest.mark.parametrize(
    ("scaling", "expected"), [(1, -1.5), (2, 0.0), (3, -math.log(4) / 2)], ids=["lin", "log", "sym"]
)
def test_a_spec_of_ones_own_is_scaled_by_its_rule(scaling: int, expected: float) -> None:
    spec = one_feature(field="generalization_gap", scaling=scaling, offset=1, scale=2)
    (value,) = vectorize(MultiSlotSnapshot(generalization_gap=-2.0), spec)
    assert value == np.float32(expected)


def test_an_unknown_spec_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UnknownSpec, match=r"no observation spec is named.*seed, extended"):
        spec_by_name("sead")
