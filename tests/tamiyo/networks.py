"""Small real artifacts: ONNX graphs made node by node, with golden outputs computed by numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from leyline.observation import SEED_SPEC, vector_length
from leyline.v1.policy_pb2 import SlotRequirement
from leyline.v1.registry_pb2 import GoldenOutput, PolicyManifest

Float32 = NDArray[np.float32]
HIDDEN = (32, 16)
GLOBAL, PER_SLOT = len(SEED_SPEC.global_features), len(SEED_SPEC.slot_features)


@dataclass(frozen=True)
class Version:
    """A manifest and the bytes that it speaks of."""

    manifest: PolicyManifest
    data: bytes

    @property
    def name(self) -> str:
        """The policy version."""
        return self.manifest.policy_version


@dataclass(frozen=True)
class Network:
    """A two-headed network with random weights; the same seed makes the same."""

    seed: int = 0
    slots: int = 3
    preferred_type: int | None = None

    @property
    def length(self) -> int:
        """Length of an observation."""
        return vector_length(SEED_SPEC, self.slots)

    def weights(self) -> dict[str, Float32]:
        """Return weights and biases by name."""
        random = np.random.default_rng(self.seed)
        sizes = {
            "1": (self.length, HIDDEN[0]),
            "2": (HIDDEN[0], HIDDEN[1]),
            "type": (HIDDEN[1], 4),
            "slot": (HIDDEN[1], 4 * self.slots),
            "value": (HIDDEN[1], 1),
        }
        weights: dict[str, Float32] = {}
        for name, (rows, columns) in sizes.items():
            scale = 1 / np.sqrt(rows)
            weights[f"w_{name}"] = random.normal(0, scale, (rows, columns)).astype(np.float32)
            weights[f"b_{name}"] = random.normal(0, 0.1, columns).astype(np.float32)
        if self.preferred_type is not None:
            weights["b_type"][self.preferred_type] = 50
        return weights

    def run(self, observations: Float32) -> tuple[Float32, Float32, Float32]:
        """Compute the outputs with numpy."""
        w = self.weights()
        hidden = np.maximum(observations @ w["w_1"] + w["b_1"], 0)
        hidden = np.maximum(hidden @ w["w_2"] + w["b_2"], 0)
        slot = (hidden @ w["w_slot"] + w["b_slot"]).reshape(-1, 4, self.slots)
        value = (hidden @ w["w_value"] + w["b_value"])[:, 0]
        return hidden @ w["w_type"] + w["b_type"], slot, value

    def observations(self, count: int, seed: int = 0) -> Float32:
        """Return observations as a spec with the usual bounds could make them."""
        shape = (count, self.length)
        return np.random.default_rng(seed).uniform(-1, 2, shape).astype(np.float32)

    def graph(self, extra: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
        """Return the graph; ``extra`` nodes come first and make ``centred`` of ``observation``."""
        first = "centred" if extra else "observation"
        nodes = [
            *extra,
            helper.make_node("Gemm", [first, "w_1", "b_1"], ["a_1"]),
            helper.make_node("Relu", ["a_1"], ["h_1"]),
            helper.make_node("Gemm", ["h_1", "w_2", "b_2"], ["a_2"]),
            helper.make_node("Relu", ["a_2"], ["h_2"]),
            helper.make_node("Gemm", ["h_2", "w_type", "b_type"], ["type_logits"]),
            helper.make_node("Gemm", ["h_2", "w_slot", "b_slot"], ["flat"]),
            helper.make_node("Reshape", ["flat", "shape"], ["slot_logits"]),
            helper.make_node("Gemm", ["h_2", "w_value", "b_value"], ["column"]),
            helper.make_node("Squeeze", ["column", "last"], ["value"]),
        ]
        constants: dict[str, NDArray[Any]] = {
            **self.weights(),
            "shape": np.array([-1, 4, self.slots], np.int64),
            "last": np.array([1], np.int64),
            "rows": np.array([0], np.int64),
        }
        graph = helper.make_graph(
            nodes,
            "two-headed",
            [_tensor("observation", ["batch", self.length])],
            [
                _tensor("type_logits", ["batch", 4]),
                _tensor("slot_logits", ["batch", 4, self.slots]),
                _tensor("value", ["batch"]),
            ],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8)

    def golden_outputs(self, count: int = 3) -> list[GoldenOutput]:
        """Return what numpy says to a few observations."""
        observations = self.observations(count)
        return [
            GoldenOutput(
                observation=observation.tolist(),
                type_logits=type_logits.tolist(),
                slot_logits=slot_logits.ravel().tolist(),
                value=float(value),
            )
            for observation, type_logits, slot_logits, value in zip(
                observations, *self.run(observations), strict=True
            )
        ]

    def version(self, model: onnx.ModelProto | None = None) -> Version:
        """Return it as a registry has it; ``model`` is put in the place of its own graph."""
        data = (model or self.graph()).SerializeToString(deterministic=True)
        digest = hashlib.sha256(data).hexdigest()
        manifest = PolicyManifest(
            policy_version=f"mlp-{digest[:12]}",
            network="mlp",
            format="onnx",
            artifact_sha256=digest,
            artifact_size=len(data),
            observation_spec=SEED_SPEC,
            slots=SlotRequirement(exactly=self.slots),
            golden_outputs=self.golden_outputs(),
        )
        return Version(manifest, data)


def minus_the_batch_mean() -> list[onnx.NodeProto]:
    """Return nodes that make an observation depend on what else is in the batch."""
    return [
        helper.make_node("ReduceMean", ["observation"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["observation", "mean"], ["centred"]),
    ]


def sums(observations: Float32) -> tuple[Float32, Float32, Float32]:
    """Compute what ``sums_graph`` makes, with numpy."""
    common = observations[:, :GLOBAL].sum(axis=1)
    each = observations[:, GLOBAL:].reshape(len(observations), -1, PER_SLOT).sum(axis=2)
    types = np.repeat(common[:, np.newaxis], 4, axis=1)
    return types, np.repeat(each[:, np.newaxis], 4, axis=1), common


def sums_graph() -> onnx.ModelProto:
    """Return a graph that takes any number of slots: logits are sums of features."""
    nodes = [
        helper.make_node("Slice", ["observation", "zero", "global", "one"], ["common"]),
        helper.make_node("Slice", ["observation", "global", "far", "one"], ["rest"]),
        helper.make_node("ReduceSum", ["common", "one"], ["value"], keepdims=0),
        helper.make_node("ReduceSum", ["common", "one"], ["column"], keepdims=1),
        helper.make_node("Concat", ["column"] * 4, ["type_logits"], axis=1),
        helper.make_node("Reshape", ["rest", "shape"], ["slots"]),
        helper.make_node("ReduceSum", ["slots", "two"], ["each"], keepdims=0),
        helper.make_node("Unsqueeze", ["each", "one"], ["row"]),
        helper.make_node("Concat", ["row"] * 4, ["slot_logits"], axis=1),
    ]
    constants = {
        "zero": [0],
        "one": [1],
        "two": [2],
        "global": [GLOBAL],
        "far": [1 << 30],
        "shape": [0, -1, PER_SLOT],
    }
    graph = helper.make_graph(
        nodes,
        "sums",
        [_tensor("observation", ["batch", "length"])],
        [
            _tensor("type_logits", ["batch", 4]),
            _tensor("slot_logits", ["batch", 4, "slots"]),
            _tensor("value", ["batch"]),
        ],
        [numpy_helper.from_array(np.array(a, np.int64), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _tensor(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
