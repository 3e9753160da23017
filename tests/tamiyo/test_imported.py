"""ONNX models of one's own: what becomes a policy version, and what is refused and why."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tests.tamiyo.networks import PER_SLOT, Network, minus_the_batch_mean, sums, sums_graph

from leyline.observation import EXTENDED_SPEC, SEED_SPEC
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.policy_pb2 import SlotRequirement
from leyline.v1.registry_pb2 import GoldenOutput, PolicyManifest
from simic.policies.artifact import NETWORKS
from tamiyo.imported import (
    BUILT_IN_NETWORKS,
    GOLDEN_OBSERVATIONS,
    GOLDEN_SLOTS,
    LARGEST_BYTES,
    ModelRefused,
    manifest_of,
    read_model,
)

Float32 = NDArray[np.float32]
ANY = SlotRequirement(any=True)


def refusal(
    model: onnx.ModelProto | bytes,
    slots: SlotRequirement | None = None,
    spec: ObservationSpec = SEED_SPEC,
    network: str = "mine",
) -> str:
    """Return why a model is refused."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(ModelRefused) as caught:
        manifest_of(data, network, spec, slots)
    return str(caught.value)


def observations(manifest: PolicyManifest, slots: int) -> Float32:
    """Return those observations of the known answers that have so many slots."""
    length = Network(slots=slots).length
    rows = [list(golden.observation) for golden in manifest.golden_outputs]
    return np.array([row for row in rows if len(row) == length], np.float32)


def says(golden: GoldenOutput, outputs: tuple[Float32, Float32, Float32]) -> None:
    """Check that a known answer is the outputs' only row."""
    types, slots, value = outputs
    np.testing.assert_allclose(golden.type_logits, types[0], atol=1e-5)
    np.testing.assert_allclose(golden.slot_logits, slots[0].ravel(), atol=1e-5)
    np.testing.assert_allclose(golden.value, value[0], atol=1e-5)


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_a_version_is_named_by_its_bytes_and_knows_what_its_network_says(slots: int) -> None:
    network = Network(seed=4, slots=slots)
    data = network.graph().SerializeToString()
    manifest = manifest_of(data, "mine", SEED_SPEC)
    digest = hashlib.sha256(data).hexdigest()
    assert manifest.policy_version == f"mine-{digest[:12]}"
    assert (manifest.network, manifest.artifact_sha256) == ("mine", digest)
    assert manifest.slots == SlotRequirement(exactly=slots)
    assert manifest.observation_spec == SEED_SPEC
    asked = observations(manifest, slots)
    assert len(asked) == len(manifest.golden_outputs) == GOLDEN_OBSERVATIONS
    for golden, observation in zip(manifest.golden_outputs, asked, strict=True):
        says(golden, network.run(observation[np.newaxis]))


def test_the_known_answers_are_to_zeros_and_to_what_the_features_can_be() -> None:
    manifest = manifest_of(Network().graph().SerializeToString(), "mine", SEED_SPEC)
    zeros, *spread = observations(manifest, 3)
    assert not zeros.any()
    features = [*SEED_SPEC.global_features, *list(SEED_SPEC.slot_features) * 3]
    lower = np.array([min(feature.lower, feature.unset_value) for feature in features])
    upper = np.array([feature.upper for feature in features])
    assert all(((lower <= row) & (row <= upper)).all() for row in spread)
    assert len({row.tobytes() for row in spread}) == len(spread)


def test_a_network_for_any_number_of_slots_is_asked_about_several() -> None:
    manifest = manifest_of(sums_graph().SerializeToString(), "sums", SEED_SPEC, ANY)
    assert manifest.slots == ANY
    assert len(manifest.golden_outputs) == len(GOLDEN_SLOTS) * GOLDEN_OBSERVATIONS
    for slots in GOLDEN_SLOTS:
        assert len(observations(manifest, slots)) == GOLDEN_OBSERVATIONS
    for golden in manifest.golden_outputs:
        says(golden, sums(np.array([golden.observation], np.float32)))


def test_an_open_number_of_slots_may_be_fixed_and_must_be_said() -> None:
    five = SlotRequirement(exactly=5)
    assert manifest_of(sums_graph().SerializeToString(), "sums", SEED_SPEC, five).slots == five
    assert "--slots N, or --slots any" in refusal(sums_graph())


def test_a_network_that_mixes_its_rows_is_known_by_what_it_says_to_each_alone() -> None:
    network = Network()
    data = network.graph(minus_the_batch_mean()).SerializeToString()
    for golden in manifest_of(data, "mine", SEED_SPEC).golden_outputs:
        says(golden, network.run(np.zeros((1, network.length), np.float32)))


def test_the_slots_that_are_asked_for_must_be_those_that_the_shapes_fix() -> None:
    graph = Network(slots=3).graph()
    assert manifest_of(graph.SerializeToString(), "mine", SEED_SPEC, SlotRequirement(exactly=3))
    said = refusal(graph, SlotRequirement(exactly=4))
    assert "exactly 3 slots, and not for 4: leave --slots out" in said
    assert "exactly 3 slots, and not for any" in refusal(graph, ANY)


def test_a_model_of_another_spec_is_refused_with_what_was_found() -> None:
    # 22 numbers and 16 make 38 as well.
    said = refusal(Network(slots=2).graph(), spec=EXTENDED_SPEC)
    assert "38 numbers, which under the spec 'extended' is 1 slot" in said
    assert "'slot_logits' are for 2" in said
    said = refusal(Network(slots=3).graph(), spec=EXTENDED_SPEC)
    assert "48 numbers, and under the spec 'extended' it has 22 and 16 for each slot" in said
    assert "choose the --spec" in said


def test_the_names_of_networks_that_simic_trains_are_refused() -> None:
    assert BUILT_IN_NETWORKS == NETWORKS
    for name in NETWORKS:
        assert "choose another --name" in refusal(Network().graph(), network=name)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "n" * 65, "two words", "mine\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert "choose another --name" in refusal(Network().graph(), network=name)


@pytest.mark.parametrize("data", [b"", b"this is no model", b"\0" * 100, b"\x08\x08"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    assert "it is no ONNX model" in refusal(data)


def test_a_model_that_is_cut_off_is_refused() -> None:
    assert "it is no ONNX model" in refusal(Network().graph().SerializeToString()[:-100])


def test_weights_in_another_file_are_refused_though_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save_model(
        Network().graph(),
        "mine.onnx",
        save_as_external_data=True,
        location="weights",
        size_threshold=100,
    )
    said = refusal(read_model(Path("mine.onnx")))
    assert "'w_1' are in another file" in said
    assert "onnx.save(onnx.load(FILE), FILE)" in said
    onnx.save(onnx.load("mine.onnx"), "mine.onnx")
    assert manifest_of(read_model(Path("mine.onnx")), "mine", SEED_SPEC).slots.exactly == 3


def test_a_file_may_have_64_mib_and_not_a_byte_more(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as large:
        large.truncate(LARGEST_BYTES)
    assert len(read_model(file)) == LARGEST_BYTES
    with file.open("ab") as large:
        large.write(b"\0")
    with pytest.raises(ModelRefused, match="more than 64 MiB"):
        read_model(file)


def _spoil(model: onnx.ModelProto, value: float) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "b_value":
            tensor.raw_data = np.array([value], np.float32).tobytes()


def _rename_the_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"
    model.graph.node[0].input[0] = "x"


def _rename_an_output(model: onnx.ModelProto) -> None:
    model.graph.output[2].name = "worth"
    model.graph.node[-1].output[0] = "worth"


def _show_more(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("h_2", TensorProto.FLOAT, [None, 16]))


def _fix_the_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _leave_the_value_a_column(model: onnx.ModelProto) -> None:
    del model.graph.node[-1]
    model.graph.node[-1].output[0] = "value"
    model.graph.output[2].type.tensor_type.shape.dim.add().dim_value = 1


def _draw(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "noisy"
    model.graph.node.insert(0, helper.make_node("Add", ["observation", "noise"], ["noisy"]))
    noise = helper.make_node("RandomNormalLike", ["observation"], ["noise"])
    model.graph.node.insert(0, noise)


def _use_an_operator_that_there_is_not(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Grow"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: _spoil(model, np.nan), "'value' is not finite"),
        (lambda model: _spoil(model, np.inf), "'value' is not finite"),
        (_rename_the_input, "its only input must be 'observation'"),
        (_rename_an_output, "it has no output 'value'"),
        (_show_more, "it has the output 'h_2' besides type_logits, slot_logits, value"),
        (_fix_the_batch, "'observation' has shape [1, 48], wanted ['batch', 48]"),
        (_leave_the_value_a_column, "'value' has shape ['batch', 1], wanted ['batch']"),
        (_draw, "asked twice, it answers differently"),
        (_use_an_operator_that_there_is_not, "onnxruntime cannot load it"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_with_the_reason(
    change: Callable[[onnx.ModelProto], object], said: str
) -> None:
    model = Network().graph()
    change(model)
    assert said in refusal(model)


def _look_at_three_slots(model: onnx.ModelProto) -> None:
    first = helper.make_node("Slice", ["slots", "zero", "three", "one"], ["few"])
    model.graph.node.insert(6, first)
    model.graph.node[7].input[0] = "few"


def _need_three_slots(model: onnx.ModelProto) -> None:
    weights = onnx.numpy_helper.from_array(np.ones((3 * PER_SLOT, 1), np.float32), "weights")
    model.graph.initializer.append(weights)
    first = helper.make_node("Slice", ["rest", "zero", "three_slots", "one"], ["few"])
    model.graph.node[2].CopyFrom(helper.make_node("MatMul", ["few", "weights"], ["sum"]))
    model.graph.node.insert(2, first)
    model.graph.node.insert(4, helper.make_node("Squeeze", ["sum", "one"], ["value"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_look_at_three_slots, "shape (1, 4, 3) for one observation of 12 slots"),
        (_need_three_slots, "it does not run for 1 slot, 28 numbers"),
    ],
)
def test_a_network_that_is_for_three_slots_only_is_not_for_any_number(
    change: Callable[[onnx.ModelProto], object], said: str
) -> None:
    model = sums_graph()
    for name, number in (("three", 3), ("three_slots", 3 * PER_SLOT)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([number]), name))
    change(model)
    assert said in refusal(model, ANY)
    three = SlotRequirement(exactly=3)
    assert manifest_of(model.SerializeToString(), "sums", SEED_SPEC, three).slots == three
