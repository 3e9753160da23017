"""Policy artifacts: ONNX graphs built node by node, and the manifest that says what they are.

Built by hand, because an exporter writes its own name, version and dates into the file, and the
same network would get another identity with each of its releases. The server checks artifacts
with this module, so nothing in it needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.observation import fingerprint, vector_length
from leyline.v1.registry_pb2 import PolicyManifest

NETWORKS = ("slot-shared", "mlp")
"""Networks that have a graph here, and whose versions are named by it."""

OPSET = 17
IR_VERSION = 8
ACTION_TYPES = 4
"""WAIT, GERMINATE, ADVANCE, CULL: the order of the type logits."""

OBSERVATION_BOUND = 10.0
"""Normalised observations are clipped to this many standard deviations on either side."""

Weights = Mapping[str, NDArray[np.float32]]


def mlp_model(weights: Weights) -> ModelProto:
    """The graph of an ``MlpNetwork`` with these weights.

    Args:
        weights: its state by name, as ``MlpNetwork.weights`` gives it.

    Returns:
        A model from ``observation`` [batch, length] to ``type_logits`` [batch, 4], ``slot_logits``
        [batch, 4, slots] (the same slots for each type) and ``value`` [batch], all float32.
    """
    length = weights["observation_mean"].shape[0]
    slots = weights["policy.slot_head.bias"].shape[0]
    constants: dict[str, NDArray[Any]] = {
        **_BOUNDS,
        "type_axis": np.array([1], np.int64),
        "for_each_type": np.array([1, ACTION_TYPES, 1], np.int64),
        "value_axis": np.array([1], np.int64),
    }
    nodes = [
        *_normalisation("observation", "", "normalised"),
        *_body("policy", "normalised", "Relu"),
        _linear("policy.features", "policy.type_head", "type_logits"),
        _linear("policy.features", "policy.slot_head", "slot_row"),
        helper.make_node("Unsqueeze", ["slot_row", "type_axis"], ["slot_plane"]),
        helper.make_node("Tile", ["slot_plane", "for_each_type"], ["slot_logits"]),
        *_body("value", "normalised", "Relu"),
        _linear("value.features", "value.head", "value_column"),
        helper.make_node("Squeeze", ["value_column", "value_axis"], ["value"]),
    ]
    return _model(nodes, {**constants, **weights}, length, slots)


def slot_shared_model(weights: Weights) -> ModelProto:
    """The graph of a ``SlotSharedNetwork`` with these weights.

    Args:
        weights: its state by name, as ``SlotSharedNetwork.weights`` gives it.

    Returns:
        A model as ``mlp_model``'s, whose length and slots are left open.
    """
    features = weights["feasible.hidden.weight"].shape[1]
    of_all = weights["observation_mean"].shape[0] - features
    context = of_all + features
    constants: dict[str, NDArray[Any]] = {
        **_BOUNDS,
        "start": np.array([0], np.int64),
        "of_all": np.array([of_all], np.int64),
        "context": np.array([context], np.int64),
        "one": np.array([1], np.int64),
        "end": np.array([np.iinfo(np.int64).max], np.int64),
        "features_axis": np.array([1], np.int64),
        "slots_axis": np.array([1], np.int64),
        "by_slot": np.array([0, -1, features], np.int64),
    }
    nodes = [
        # Global features in front, then each slot's: [batch, global] and [batch, slots, features].
        _slice("observation", "start", "of_all", "features_axis", "all_raw"),
        _slice("observation", "of_all", "end", "features_axis", "slots_flat"),
        helper.make_node("Reshape", ["slots_flat", "by_slot"], ["slots_raw"]),
        *(
            _slice(f"observation_{name}", first, last, "start", f"{part}_{name}")
            for name in ("mean", "scale", "seen")
            for part, first, last in (("all", "start", "of_all"), ("slots", "of_all", "end"))
        ),
        *_normalisation("all_raw", "all_", "all"),
        *_normalisation("slots_raw", "slots_", "slots"),
        helper.make_node("ReduceMean", ["slots"], ["slots_average"], axes=[1], keepdims=0),
        helper.make_node("Concat", ["all", "slots_average"], ["shared"], axis=1),
        *_encoder("policy", "shared", "context"),
        helper.make_node("ReduceMean", ["policy.features"], ["policy.mean"], axes=[1], keepdims=0),
        *_each("slots", "feasible.hidden", "feasible.sum"),
        helper.make_node("Tanh", ["feasible.sum"], ["feasible.features"]),
        *_each("feasible.features", "feasible.head", "feasible.logits"),
        helper.make_node("Neg", ["feasible.logits"], ["feasible.against"]),
        helper.make_node("Softplus", ["feasible.against"], ["feasible.cost"]),
        *_each("policy.features", "policy.act", "act_wanted"),
        helper.make_node("Sub", ["act_wanted", "feasible.cost"], ["act_by_slot"]),
        helper.make_node("Transpose", ["act_by_slot"], ["act"], perm=[0, 2, 1]),
        _linear("policy.mean", "policy.wait", "wait"),
        helper.make_node("ReduceLogSumExp", ["act"], ["act_types"], axes=[2], keepdims=0),
        helper.make_node("Concat", ["wait", "act_types"], ["type_logits"], axis=1),
        # A WAIT names no slot: its row is of zeros.
        _slice("act", "start", "one", "slots_axis", "act_row"),
        helper.make_node("Sub", ["act_row", "act_row"], ["no_slot"]),
        helper.make_node("Concat", ["no_slot", "act"], ["slot_logits"], axis=1),
        *_value(),
    ]
    return _model(nodes, {**constants, **weights}, "length", "slots")


MODELS: Mapping[str, Callable[[Weights], ModelProto]] = {
    "mlp": mlp_model,
    "slot-shared": slot_shared_model,
}
"""Graphs by the network's name."""

_BOUNDS: Mapping[str, NDArray[Any]] = {
    "lower": np.array(-OBSERVATION_BOUND, np.float32),
    "upper": np.array(OBSERVATION_BOUND, np.float32),
}


def _model(
    nodes: Iterable[NodeProto],
    initializers: Mapping[str, NDArray[Any]],
    length: int | str,
    slots: int | str,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "policy",
        inputs=[_tensor("observation", "batch", length)],
        outputs=[
            _tensor("type_logits", "batch", ACTION_TYPES),
            _tensor("slot_logits", "batch", ACTION_TYPES, slots),
            _tensor("value", "batch"),
        ],
        initializer=[
            numpy_helper.from_array(array, name) for name, array in sorted(initializers.items())
        ],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def _normalisation(source: str, part: str, result: str) -> Iterable[NodeProto]:
    prefix = part or "observation_"
    yield helper.make_node("Sub", [source, f"{prefix}mean"], [f"{part}centred"])
    yield helper.make_node("Div", [f"{part}centred", f"{prefix}scale"], [f"{part}scaled"])
    yield helper.make_node("Clip", [f"{part}scaled", "lower", "upper"], [f"{part}bounded"])
    yield helper.make_node("Mul", [f"{part}bounded", f"{prefix}seen"], [result])


def _value() -> Iterable[NodeProto]:
    """The value [batch]: what is expected of the network as a whole, and of each slot."""
    yield helper.make_node("Mul", ["all", "value.clock"], ["value.time"])
    yield from _encoder("value.of_slot", "value.time", "of_all")
    yield from _each("value.of_slot.features", "value.of_slot.head", "value.of_each")
    yield helper.make_node(
        "ReduceSum", ["value.of_each", "slots_axis"], ["value.of_slots"], keepdims=0
    )
    yield from _body("value.of_all", "all", "Tanh")
    yield _linear("value.of_all.features", "value.of_all.head", "value.of_network")
    yield helper.make_node("Add", ["value.of_network", "value.of_slots"], ["value_column"])
    yield helper.make_node("Squeeze", ["value_column", "features_axis"], ["value"])


def _encoder(body: str, shared: str, length: str) -> Iterable[NodeProto]:
    """Features of each slot [batch, slots, hidden], of ``length`` shared numbers and its own.

    What all slots share goes through its part of the first layer once, and is then added to each.
    """
    layer = f"{body}.hidden_1"
    yield _slice(f"{layer}.weight", "start", length, "features_axis", f"{layer}.of_shared")
    yield _slice(f"{layer}.weight", length, "end", "features_axis", f"{layer}.of_slot")
    yield helper.make_node(
        "Gemm",
        [shared, f"{layer}.of_shared", f"{layer}.bias"],
        [f"{body}.shared_row"],
        transB=1,
    )
    yield helper.make_node("Unsqueeze", [f"{body}.shared_row", "slots_axis"], [f"{body}.shared"])
    yield helper.make_node("Transpose", [f"{layer}.of_slot"], [f"{layer}.turned"], perm=[1, 0])
    yield helper.make_node("MatMul", ["slots", f"{layer}.turned"], [f"{body}.own"])
    yield helper.make_node("Add", [f"{body}.own", f"{body}.shared"], [f"{body}.sum_1"])
    yield helper.make_node("Tanh", [f"{body}.sum_1"], [f"{body}.hidden"])
    yield from _each(f"{body}.hidden", f"{body}.hidden_2", f"{body}.sum_2")
    yield helper.make_node("Tanh", [f"{body}.sum_2"], [f"{body}.features"])


def _each(source: str, layer: str, result: str) -> Iterable[NodeProto]:
    """A linear layer for every slot."""
    yield helper.make_node("Transpose", [f"{layer}.weight"], [f"{layer}.turned"], perm=[1, 0])
    yield helper.make_node("MatMul", [source, f"{layer}.turned"], [f"{result}.product"])
    yield helper.make_node("Add", [f"{result}.product", f"{layer}.bias"], [result])


def _slice(source: str, first: str, last: str, axis: str, result: str) -> NodeProto:
    return helper.make_node("Slice", [source, first, last, axis], [result])


def _body(network: str, source: str, activation: str) -> Iterable[NodeProto]:
    """Two layers on rows [batch, length] of ``source``."""
    yield _linear(source, f"{network}.hidden_1", f"{network}.sum_1")
    yield helper.make_node(activation, [f"{network}.sum_1"], [f"{network}.hidden"])
    yield _linear(f"{network}.hidden", f"{network}.hidden_2", f"{network}.sum_2")
    yield helper.make_node(activation, [f"{network}.sum_2"], [f"{network}.features"])


def _linear(source: str, layer: str, result: str) -> NodeProto:
    # torch keeps the weight of a linear layer as [out, in].
    inputs = [source, f"{layer}.weight", f"{layer}.bias"]
    return helper.make_node("Gemm", inputs, [result], transB=1)


def _tensor(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def to_bytes(model: ModelProto) -> bytes:
    """The artifact: the same bytes for the same model, on every machine."""
    return model.SerializeToString(deterministic=True)


def read_weights(artifact: bytes) -> dict[str, NDArray[np.float32]]:
    """The float32 initializers of an artifact by name."""
    model = onnx.load_from_string(artifact)
    return {
        tensor.name: numpy_helper.to_array(tensor).copy()
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }


def graph_sha256(model: ModelProto) -> str:
    """What the model computes, as lower-case hexadecimal SHA-256 over graph and weights alone.

    The producer's name and version, documentation, metadata and the graph's own name do not count.
    """
    graph = GraphProto()
    graph.CopyFrom(model.graph)
    graph.name = ""
    graph.doc_string = ""
    documented: Sequence[onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto] = (
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for part in (graph, *documented):
        part.doc_string = ""
        del part.metadata_props[:]
    digest = hashlib.sha256()
    for opset in sorted(model.opset_import, key=lambda opset: (opset.domain, opset.version)):
        digest.update(f"{opset.domain} {opset.version}\n".encode())
    digest.update(graph.SerializeToString(deterministic=True))
    for function in model.functions:
        digest.update(function.SerializeToString(deterministic=True))
    return digest.hexdigest()


def version_name(network: str, model: ModelProto) -> str:
    """The version's name, such as ``mlp-5d41402abc4b``."""
    return f"{network}-{graph_sha256(model)[:12]}"


def check_manifest(manifest: PolicyManifest, artifact: bytes) -> None:
    """Check that an artifact is whole, and is what its manifest says.

    Raises:
        LeylineError: ARTIFACT_DIGEST_MISMATCH, ARTIFACT_CORRUPT, FINGERPRINT_MISMATCH, or
            INVALID_ARGUMENT with the fields that are wrong.
    """
    given = hashlib.sha256(artifact).hexdigest()
    if given != manifest.artifact_sha256:
        raise LeylineError(
            ErrorCode.ARTIFACT_DIGEST_MISMATCH,
            policy_version=manifest.policy_version,
            given=given,
            expected=manifest.artifact_sha256,
        )
    spec = manifest.observation_spec
    if fingerprint(spec) != spec.fingerprint:
        raise LeylineError(
            ErrorCode.FINGERPRINT_MISMATCH, given=spec.fingerprint, expected=fingerprint(spec)
        )
    model = _parse(manifest.policy_version, artifact)
    violations = [*_check_name(manifest, model), *_check_shapes(manifest, model)]
    if violations:
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=violations)


def _parse(policy_version: str, artifact: bytes) -> ModelProto:
    try:
        model = onnx.load_from_string(artifact)
        # Data outside the artifact would escape its hash, and reach for files on this machine.
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise checker.ValidationError(f"the weights {tensor.name!r} are in another file")
        checker.check_model(model)
    except (DecodeError, checker.ValidationError) as error:
        problem = str(error).splitlines()[0] if str(error) else "it is no ONNX model"
        raise LeylineError(
            ErrorCode.ARTIFACT_CORRUPT, policy_version=policy_version, problem=problem
        ) from error
    return model


def _check_name(manifest: PolicyManifest, model: ModelProto) -> Iterable[Violation]:
    # Whoever makes versions of another network may name them by another rule.
    name = version_name(manifest.network, model)
    if manifest.network in NETWORKS and manifest.policy_version != name:
        yield Violation("manifest.policy_version", f"the artifact computes what {name} computes")


def _check_shapes(manifest: PolicyManifest, model: ModelProto) -> Iterable[Violation]:
    slots = manifest.slots.exactly
    length = vector_length(manifest.observation_spec, slots) if slots else None
    expected: dict[str, tuple[int | None, ...]] = {
        "observation": (None, length),
        "type_logits": (None, ACTION_TYPES),
        "slot_logits": (None, ACTION_TYPES, slots or None),
        "value": (None,),
    }
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    found = {value.name: _shape(value) for value in (*inputs, *model.graph.output)}
    if found.keys() != expected.keys():
        yield Violation("manifest", f"the graph must have just {', '.join(expected)}")
        return
    for name, shape in expected.items():
        known = zip(shape, found[name], strict=False)
        if len(shape) != len(found[name]) or any(
            None not in (want, got) and want != got for want, got in known
        ):
            yield Violation("manifest", f"{name} has shape {found[name]}, not {shape}")
    for index, golden in enumerate(manifest.golden_outputs):
        if length is not None and len(golden.observation) != length:
            yield Violation(
                f"manifest.golden_outputs[{index}].observation", f"must have {length} numbers"
            )
        if slots and len(golden.slot_logits) != ACTION_TYPES * slots:
            yield Violation(
                f"manifest.golden_outputs[{index}].slot_logits",
                f"must have {ACTION_TYPES * slots} numbers",
            )


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    dimensions = value.type.tensor_type.shape.dim
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") else None for dimension in dimensions
    )
