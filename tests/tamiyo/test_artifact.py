"""Artifacts: what is refused, and that a row's answer depends on the row alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.tamiyo.networks import Network, Version, minus_the_batch_mean

from leyline.observation import EXTENDED_SPEC, fingerprint
from leyline.v1.registry_pb2 import PolicyManifest
from tamiyo.artifact import BATCH_ROWS, Artifact, ArtifactRefused, Refusal
from tamiyo.outputs import Outputs

NETWORK = Network()
VERSION = NETWORK.version()
ARTIFACT = Artifact(VERSION.manifest, VERSION.data)


def refusal(version: Version) -> ArtifactRefused:
    """Return why a version is refused."""
    with pytest.raises(ArtifactRefused) as caught:
        Artifact(version.manifest, version.data)
    assert caught.value.version == version.name
    return caught.value


def with_manifest(change: Callable[[PolicyManifest], object]) -> Version:
    """Return the version with another manifest."""
    manifest = PolicyManifest.FromString(VERSION.manifest.SerializeToString())
    change(manifest)
    return Version(manifest, VERSION.data)


def with_model(change: Callable[[onnx.ModelProto], object]) -> Version:
    """Return a version with another graph, whose manifest is right about its bytes."""
    model = NETWORK.graph()
    change(model)
    return NETWORK.version(model)


def same_bits(one: Outputs, other: Outputs) -> bool:
    return all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes()
        for name in ("type_logits", "slot_logits", "value")
    )


@pytest.mark.parametrize("slots", [1, 3, 6])
def test_an_artifact_computes_what_its_network_computes(slots: int) -> None:
    network = Network(seed=slots, slots=slots)
    version = network.version()
    artifact = Artifact(version.manifest, version.data)
    observations = network.observations(70, seed=9)
    outputs = artifact.evaluate(observations)
    for computed, expected in zip(
        (outputs.type_logits, outputs.slot_logits, outputs.value),
        network.run(observations),
        strict=True,
    ):
        assert computed.shape == expected.shape
        np.testing.assert_allclose(computed, expected, atol=1e-5)
    assert artifact.slots == slots


@settings(max_examples=50)
@given(st.integers(1, 3 * BATCH_ROWS), st.data())
def test_a_row_has_the_same_bits_alone_and_among_others(count: int, data: st.DataObject) -> None:
    observations = NETWORK.observations(count, seed=count)
    row = data.draw(st.integers(0, count - 1))
    among_others = ARTIFACT.evaluate(observations).rows([row])
    alone = ARTIFACT.evaluate(observations[row : row + 1])
    assert same_bits(among_others, alone)


def test_a_graph_that_mixes_its_rows_is_evaluated_row_by_row() -> None:
    model = NETWORK.graph(minus_the_batch_mean())
    version = NETWORK.version(model)
    zero = np.zeros_like(NETWORK.observations(1))
    for golden in version.manifest.golden_outputs:
        # Alone in its batch, an observation less its mean is zero.
        type_logits, slot_logits, value = NETWORK.run(zero)
        golden.type_logits[:] = type_logits[0].tolist()
        golden.slot_logits[:] = slot_logits.ravel().tolist()
        golden.value = float(value[0])
    artifact = Artifact(version.manifest, version.data)
    observations = NETWORK.observations(5)
    together = artifact.evaluate(observations)
    for row in range(5):
        assert same_bits(together.rows([row]), artifact.evaluate(observations[row : row + 1]))


def test_a_truncated_artifact_is_refused() -> None:
    refused = refusal(Version(VERSION.manifest, VERSION.data[:-1]))
    assert refused.reason is Refusal.ARTIFACT_CORRUPT
    assert str(len(VERSION.data)) in refused.message


def test_an_artifact_with_another_byte_is_refused() -> None:
    flipped = bytes([VERSION.data[0] ^ 1]) + VERSION.data[1:]
    refused = refusal(Version(VERSION.manifest, flipped))
    assert refused.reason is Refusal.ARTIFACT_DIGEST_MISMATCH
    assert VERSION.manifest.artifact_sha256 in refused.message


def test_bytes_that_are_no_graph_are_refused() -> None:
    data = b"this is no graph"

    def describe(manifest: PolicyManifest) -> None:
        manifest.artifact_size = len(data)
        manifest.artifact_sha256 = hashlib.sha256(data).hexdigest()

    refused = refusal(Version(with_manifest(describe).manifest, data))
    assert refused.reason is Refusal.ARTIFACT_CORRUPT


def test_a_fingerprint_that_is_not_that_of_the_spec_is_refused() -> None:
    def change(manifest: PolicyManifest) -> None:
        manifest.observation_spec.fingerprint = EXTENDED_SPEC.fingerprint

    assert refusal(with_manifest(change)).reason is Refusal.FINGERPRINT_MISMATCH


def test_a_spec_that_asks_for_what_a_snapshot_does_not_have_is_refused() -> None:
    def change(manifest: PolicyManifest) -> None:
        manifest.observation_spec.slot_features[0].field = "phase_of_the_moon"
        manifest.observation_spec.fingerprint = fingerprint(manifest.observation_spec)

    refused = refusal(with_manifest(change))
    assert refused.reason is Refusal.OBSERVATION_SPEC_UNSUPPORTED
    assert "phase_of_the_moon" in refused.message


def test_a_manifest_that_breaks_the_contract_is_refused() -> None:
    def change(manifest: PolicyManifest) -> None:
        del manifest.golden_outputs[:]

    assert refusal(with_manifest(change)).reason is Refusal.MANIFEST_INVALID


def test_golden_outputs_that_the_graph_does_not_give_are_refused() -> None:
    def change(manifest: PolicyManifest) -> None:
        manifest.golden_outputs[1].slot_logits[4] += 1e-3

    refused = refusal(with_manifest(change))
    assert refused.reason is Refusal.GOLDEN_MISMATCH
    assert "slot_logits" in refused.message


def test_golden_outputs_may_differ_by_rounding() -> None:
    def change(manifest: PolicyManifest) -> None:
        manifest.golden_outputs[1].slot_logits[4] += 5e-6

    version = with_manifest(change)
    Artifact(version.manifest, version.data)


def test_a_graph_whose_weights_are_not_numbers_is_refused() -> None:
    network = Network(seed=1)

    def spoil(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "b_type":
                tensor.raw_data = np.full(4, np.nan, np.float32).tobytes()

    model = network.graph()
    spoil(model)
    assert refusal(network.version(model)).reason is Refusal.GOLDEN_MISMATCH


def _rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"
    model.graph.node[0].input[0] = "x"


def _rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[2].name = "worth"
    model.graph.node[-1].output[0] = "worth"


def _fix_the_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8


def _ask_for_doubles(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("observation", TensorProto.DOUBLE, ["batch", 48])
    )
    cast = helper.make_node("Cast", ["observation"], ["single"], to=TensorProto.FLOAT)
    model.graph.node[0].input[0] = "single"
    model.graph.node.insert(0, cast)


@pytest.mark.parametrize(
    "change", [_rename_input, _rename_output, _fix_the_batch, _ask_for_doubles]
)
def test_a_graph_with_other_inputs_or_outputs_is_refused(
    change: Callable[[onnx.ModelProto], None],
) -> None:
    assert refusal(with_model(change)).reason is Refusal.GRAPH_MISMATCH


def test_a_graph_for_another_number_of_slots_than_its_manifest_says_is_refused() -> None:
    def change(manifest: PolicyManifest) -> None:
        manifest.slots.exactly = 4

    refused = refusal(with_manifest(change))
    assert refused.reason is Refusal.GRAPH_MISMATCH
    assert "observation" in refused.message
