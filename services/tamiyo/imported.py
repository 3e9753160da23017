"""A network of one's own as a policy version: an ONNX file, its manifest and known answers.

Nobody knows better than the file what it computes, so the known answers are what onnxruntime makes
of it here. They hold whoever serves it to the same numbers, on another machine and later.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from leyline.observation import vector_length
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.policy_pb2 import SlotRequirement
from leyline.v1.registry_pb2 import GoldenOutput, PolicyManifest
from tamiyo.artifact import (
    INPUT,
    OUTPUTS,
    TYPES,
    Artifact,
    ArtifactRefused,
    Refusal,
    check_graph,
    open_graph,
)
from tamiyo.outputs import Float32

BUILT_IN_NETWORKS = ("slot-shared", "mlp")
"""Networks that Simic makes versions of. It names these by another rule, and refuses any other."""

LARGEST_BYTES = 64 * 1024 * 1024
GOLDEN_OBSERVATIONS = 4
GOLDEN_SLOTS = (1, 2, 3, 12)
"""Numbers of slots that a network for any number is asked about."""

_REMEDIES = {
    Refusal.GRAPH_MISMATCH: ": `leyline policy import --help` says what a model must be, and "
    "examples/policies/export.py exports one",
    Refusal.GOLDEN_MISMATCH: ": asked twice, it answers differently; export it after eval(), and "
    "without operators that draw random numbers",
}

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

# The part of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto that says where weights are.
# onnxruntime does not tell, and takes those of another file from the folder that it runs in.
_ONNX = """
name: "tamiyo/onnx.proto"
package: "tamiyo.onnx"
message_type {
  name: "Model"
  field { name: "graph" number: 7 type: TYPE_MESSAGE type_name: "Graph" label: LABEL_OPTIONAL }
}
message_type {
  name: "Graph"
  field {
    name: "initializer" number: 5 type: TYPE_MESSAGE type_name: "Tensor" label: LABEL_REPEATED
  }
}
message_type {
  name: "Tensor"
  field { name: "name" number: 8 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "data_location" number: 14 type: TYPE_INT32 label: LABEL_OPTIONAL }
}
"""
_EXTERNAL = 1


class ModelRefused(Exception):
    """A model cannot become a policy version. Its text says why, and what helps."""


def read_model(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: it cannot be read.
        ModelRefused: there are more than a version may have.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ModelRefused(
            f"it has more than {LARGEST_BYTES >> 20} MiB, which is the most that a policy version "
            "may have: make the network smaller"
        )
    return data


def manifest_of(
    data: bytes, network: str, spec: ObservationSpec, slots: SlotRequirement | None = None
) -> PolicyManifest:
    """Say all about a version of somebody's own, which has passed what Tamiyo checks before it
    serves one.

    Args:
        data: an ONNX model from ``observation`` [batch, length] to ``type_logits`` [batch, 4],
            ``slot_logits`` [batch, 4, slots] and ``value`` [batch], all float32.
        network: its name; the version is called by it and the SHA-256 of the bytes.
        spec: how its observations are made.
        slots: for how many slots it decides; None: for as many as its shapes say.

    Raises:
        ModelRefused: it is no such model, or does not decide for so many slots.
    """
    _check_name(network)
    _check_weights(data)
    digest = hashlib.sha256(data).hexdigest()
    version = f"{network}-{digest[:12]}"
    try:
        session = open_graph(version, data)
        slots = _slots(session, spec, slots) or slots
        check_graph(version, session, spec, (slots.exactly or None) if slots else None)
        _check_nothing_else(session)
        if slots is None:
            raise ModelRefused(
                "its shapes leave the number of slots open: say it by --slots N, or --slots any "
                "where it decides for any number"
            )
        counts = [slots.exactly] if slots.exactly else GOLDEN_SLOTS
        manifest = PolicyManifest(
            policy_version=version,
            network=network,
            format="onnx",
            artifact_sha256=digest,
            artifact_size=len(data),
            observation_spec=spec,
            slots=slots,
            golden_outputs=[
                _golden_output(session, observation, count)
                for count in counts
                for observation in _observations(spec, count)
            ],
        )
        Artifact(manifest, data)
    except ArtifactRefused as error:
        remedy = _REMEDIES.get(error.reason, "")
        raise ModelRefused(f"{error.message} ({error.reason}){remedy}") from error
    return manifest


def _check_name(network: str) -> None:
    if network in BUILT_IN_NETWORKS:
        raise ModelRefused(
            f"the name {network!r} is that of a network which Simic trains: choose another --name"
        )
    if not re.fullmatch(_NAME, network):
        raise ModelRefused(
            f"{network!r} is no name for a network, which has at most 64 letters, digits, '.', '_' "
            "or '-' and begins with a letter or digit: choose another --name"
        )


def _check_weights(data: bytes) -> None:
    """Check that the bytes are a model, and that it is whole."""
    model = _onnx_model()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelRefused("it is no ONNX model") from None
    if not model.HasField("graph"):
        raise ModelRefused("it is no ONNX model: there is no graph in it")
    for tensor in model.graph.initializer:
        if tensor.data_location == _EXTERNAL:
            raise ModelRefused(
                f"its weights {tensor.name!r} are in another file, and a version is one file: "
                "export it with the weights inside, by torch.onnx.export(..., dynamo=False) or by "
                "onnx.save(onnx.load(FILE), FILE)"
            )


def _onnx_model() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_ONNX, FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tamiyo.onnx.Model"))()


def _slots(
    session: onnxruntime.InferenceSession, spec: ObservationSpec, asked: SlotRequirement | None
) -> SlotRequirement | None:
    """Return how many slots the graph's shapes fix, or None; check that nothing contradicts."""
    shapes = {node.name: node.shape for node in [*session.get_inputs(), *session.get_outputs()]}
    found: dict[str, int] = {}
    length = _last(shapes.get(INPUT, []), rank=2)
    if length is not None and spec.slot_features:
        fixed, each = len(spec.global_features), len(spec.slot_features)
        found[INPUT], rest = divmod(length - fixed, each)
        if rest or found[INPUT] < 1:
            raise ModelRefused(
                f"its {INPUT!r} has {length} numbers, and under the spec {spec.name!r} it has "
                f"{fixed} and {each} for each slot: choose the --spec that it was made for"
            )
    logits = _last(shapes.get("slot_logits", []), rank=3)
    if logits is not None:
        found["slot_logits"] = logits
    if len(set(found.values())) > 1:
        raise ModelRefused(
            f"its {INPUT!r} has {length} numbers, which under the spec {spec.name!r} is "
            f"{_slots_text(found[INPUT])}, and its 'slot_logits' are for {logits}: choose the "
            "--spec that it was made for, or export it anew"
        )
    for name, count in found.items():
        if asked is not None and asked.exactly != count:
            raise ModelRefused(
                f"its {name!r} is for exactly {_slots_text(count)}, and not for "
                f"{asked.exactly or 'any'}: leave --slots out, or export it with that dimension "
                "open"
            )
    return SlotRequirement(exactly=min(found.values())) if found else None


def _slots_text(count: int) -> str:
    return f"{count} slot{'' if count == 1 else 's'}"


def _last(shape: list[int | str | None], rank: int) -> int | None:
    """Return the last dimension of a shape, where it is a number in a shape of that rank."""
    last = shape[-1] if len(shape) == rank else None
    return last if isinstance(last, int) else None


def _check_nothing_else(session: onnxruntime.InferenceSession) -> None:
    # The policy server would not mind, but the registry does.
    others = sorted({node.name for node in session.get_outputs()} - set(OUTPUTS))
    if others:
        raise ModelRefused(
            f"it has the output {others[0]!r} besides {', '.join(OUTPUTS)}: export it without"
        )


def _observations(spec: ObservationSpec, slots: int) -> Float32:
    """Return zeros, and observations spread over the features' range; always the same ones.

    Returns:
        float32 ``(GOLDEN_OBSERVATIONS, length)``.
    """
    features = [*spec.global_features, *list(spec.slot_features) * slots]
    lower = np.array([min(feature.lower, feature.unset_value) for feature in features])
    upper = np.array([max(feature.upper, feature.unset_value) for feature in features])
    length = vector_length(spec, slots)
    place = np.random.default_rng(0).random((GOLDEN_OBSERVATIONS - 1, length))
    spread = lower * (1 - place) + upper * place
    return np.concatenate([np.zeros((1, length)), spread]).astype(np.float32)


def _golden_output(
    session: onnxruntime.InferenceSession, observation: Float32, slots: int
) -> GoldenOutput:
    """Ask the graph about one observation, alone."""
    try:
        outputs = session.run(OUTPUTS, {INPUT: observation[np.newaxis]})
    except Exception as error:
        # As where a graph is loaded: there is no common type below Exception.
        raise ModelRefused(
            f"it does not run for {_slots_text(slots)}, {len(observation)} numbers: {error}"
        ) from error
    shapes = ((1, TYPES), (1, TYPES, slots), (1,))
    for name, output, shape in zip(OUTPUTS, outputs, shapes, strict=True):
        if output.shape != shape:
            raise ModelRefused(
                f"its {name!r} has shape {output.shape} for one observation of "
                f"{_slots_text(slots)}, wanted {shape}"
            )
        if not np.isfinite(output).all():
            raise ModelRefused(
                f"its {name!r} is not finite for an observation within the features' range: nobody "
                "can decide by it; look for NaN among its weights, and for divisions and logarithms"
            )
    type_logits, slot_logits, value = outputs
    return GoldenOutput(
        observation=observation.tolist(),
        type_logits=type_logits[0].tolist(),
        slot_logits=slot_logits.ravel().tolist(),
        value=value.item(),
    )
