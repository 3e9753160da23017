"""A policy artifact: an ONNX graph and its manifest, verified before anybody is decided for.

The graph's result for a row must not depend on what else is in the batch. The kernels that
onnxruntime picks depend on the batch's shape, and a row's rounding on its place in the kernel's
tile; so the graph always sees the same number of rows, padded with zeros, on one thread. At load
the golden observations are evaluated alone and in every place of a full batch: where a single bit
differs, on this machine with this graph, rows are evaluated one by one from then on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import onnxruntime

from chassis.validation import violations
from leyline.observation import BadSpec, Vectorizer, fingerprint, vector_length
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.registry_pb2 import GoldenOutput, PolicyManifest
from tamiyo.outputs import Float32, Outputs

BATCH_ROWS = 8
GOLDEN_TOLERANCE = 1e-4
"""Largest admitted difference to a golden output, absolute where it is below 1, else relative.

Golden outputs are exact, the graph computes in float32: with weights a few times those of a fresh
network its rounding alone comes to 1e-5.
"""

INPUT = "observation"
OUTPUTS = ("type_logits", "slot_logits", "value")
TYPES = 4
"""WAIT, GERMINATE, ADVANCE, CULL: the order of the type logits."""


class Refusal(StrEnum):
    """Why an artifact is not served; the reasons that Simic is told."""

    MANIFEST_INVALID = "MANIFEST_INVALID"
    ARTIFACT_CORRUPT = "ARTIFACT_CORRUPT"
    ARTIFACT_DIGEST_MISMATCH = "ARTIFACT_DIGEST_MISMATCH"
    FINGERPRINT_MISMATCH = "FINGERPRINT_MISMATCH"
    OBSERVATION_SPEC_UNSUPPORTED = "OBSERVATION_SPEC_UNSUPPORTED"
    GRAPH_MISMATCH = "GRAPH_MISMATCH"
    GOLDEN_MISMATCH = "GOLDEN_MISMATCH"


class ArtifactRefused(Exception):
    """An artifact must not be served.

    Attributes:
        version: the version that its manifest names.
        reason: which check it failed.
        message: what was found, for people; no longer than a report to Simic may be.
    """

    def __init__(self, version: str, reason: Refusal, message: str) -> None:
        self.version = version
        self.reason = reason
        self.message = message[:4096]
        super().__init__(f"{version}: {reason}: {self.message}")


class Artifact:
    """A verified graph, warm and ready. Thread-compatible: one call at a time."""

    def __init__(self, manifest: PolicyManifest, data: bytes) -> None:
        """Verify a version and make it ready.

        Args:
            manifest: what the registry says about it.
            data: the artifact's bytes.

        Raises:
            ArtifactRefused: with the first check that it failed.
        """
        self.manifest = manifest
        requirement = manifest.slots
        self.slots = requirement.exactly if requirement.WhichOneof("slots") == "exactly" else None
        self._check_manifest()
        self._check_bytes(data)
        self._session = open_graph(manifest.policy_version, data)
        check_graph(manifest.policy_version, self._session, manifest.observation_spec, self.slots)
        self._batch_rows = BATCH_ROWS
        self._graphs: dict[int, _FixedGraph] = {}
        self._check_golden_outputs()

    def evaluate(self, observations: Float32) -> Outputs:
        """Run the graph.

        Args:
            observations: float32 ``(n, length)``, n at least 1, all with equally many slots.

        Returns:
            Outputs whose every row depends on the observation in the same row alone.
        """
        graph = self._graph(observations.shape[1])
        size = self._batch_rows
        parts = [
            graph.run(observations[start : start + size])
            for start in range(0, len(observations), size)
        ]
        if len(parts) == 1:
            return parts[0]
        return Outputs(
            np.concatenate([part.type_logits for part in parts]),
            np.concatenate([part.slot_logits for part in parts]),
            np.concatenate([part.value for part in parts]),
        )

    def _graph(self, length: int) -> _FixedGraph:
        graph = self._graphs.get(length)
        if graph is None:
            graph = _FixedGraph(self._session, self._batch_rows, length, self._slots_of(length))
            self._graphs[length] = graph
        return graph

    def _check_manifest(self) -> None:
        broken = violations(self.manifest)
        if broken:
            raise self._refused(
                Refusal.MANIFEST_INVALID, f"{broken[0].field}: {broken[0].description}"
            )
        spec = self.manifest.observation_spec
        computed = fingerprint(spec)
        if spec.fingerprint != computed:
            raise self._refused(
                Refusal.FINGERPRINT_MISMATCH,
                f"its observation spec says fingerprint {spec.fingerprint}, and has {computed}",
            )
        try:
            self.vectorizer = Vectorizer(spec)
        except BadSpec as error:
            raise self._refused(Refusal.OBSERVATION_SPEC_UNSUPPORTED, str(error)) from error

    def _check_bytes(self, data: bytes) -> None:
        if len(data) != self.manifest.artifact_size:
            raise self._refused(
                Refusal.ARTIFACT_CORRUPT,
                f"{len(data)} bytes are there, its manifest says {self.manifest.artifact_size}",
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.manifest.artifact_sha256:
            raise self._refused(
                Refusal.ARTIFACT_DIGEST_MISMATCH,
                f"its sha256 is {digest}, its manifest says {self.manifest.artifact_sha256}",
            )

    def _check_golden_outputs(self) -> None:
        by_length: dict[int, list[GoldenOutput]] = {}
        for golden in self.manifest.golden_outputs:
            by_length.setdefault(len(golden.observation), []).append(golden)
        for length, goldens in by_length.items():
            slots = self._slots_of(length)
            observations = np.array([golden.observation for golden in goldens], np.float32)
            try:
                if not self._rows_are_independent(observations):
                    self._batch_rows = 1
                    self._graphs.clear()
                outputs = self.evaluate(observations)
            except Exception as error:
                # As above: whatever the graph's operators throw, they cannot be run.
                raise self._refused(Refusal.GRAPH_MISMATCH, f"it does not run: {error}") from error
            for row, golden in enumerate(goldens):
                self._compare(golden, outputs.rows([row]), slots)

    def _rows_are_independent(self, observations: Float32) -> bool:
        """Whether each row of a full batch has the bits that its observation gets alone."""
        full = np.resize(observations, (self._batch_rows, observations.shape[1]))
        graph = self._graph(observations.shape[1])
        together = graph.run(full)
        alone = [graph.run(observation[np.newaxis]) for observation in full]
        return all(_same_bits(outputs, together.rows([row])) for row, outputs in enumerate(alone))

    def _slots_of(self, length: int) -> int:
        spec = self.manifest.observation_spec
        per_slot = len(spec.slot_features)
        rest = length - len(spec.global_features)
        slots = self.slots or (rest // per_slot if per_slot else 0)
        if slots < 1 or vector_length(spec, slots) != length:
            raise self._refused(
                Refusal.GOLDEN_MISMATCH, f"a golden observation has {length} numbers"
            )
        return slots

    def _compare(self, golden: GoldenOutput, outputs: Outputs, slots: int) -> None:
        pairs: list[tuple[str, Float32, Sequence[float]]] = [
            ("type_logits", outputs.type_logits, golden.type_logits),
            ("slot_logits", outputs.slot_logits, golden.slot_logits),
            ("value", outputs.value, [golden.value]),
        ]
        for name, computed, expected in pairs:
            shape = {"type_logits": (1, TYPES), "slot_logits": (1, TYPES, slots), "value": (1,)}
            if computed.shape != shape[name] or computed.size != len(expected):
                raise self._refused(
                    Refusal.GRAPH_MISMATCH, f"{name!r} has shape {computed.shape} for one row"
                )
            wanted = np.array(expected, np.float64)
            errors = np.abs(computed.ravel() - wanted) / np.maximum(1.0, np.abs(wanted))
            # Not "any above": a NaN is above nothing.
            if not (errors <= GOLDEN_TOLERANCE).all():
                raise self._refused(
                    Refusal.GOLDEN_MISMATCH,
                    f"{name!r} is {errors.max():.3g} away from what it should be for a known "
                    f"observation; {GOLDEN_TOLERANCE:.0e} is admitted",
                )

    def _refused(self, reason: Refusal, message: str) -> ArtifactRefused:
        return ArtifactRefused(self.manifest.policy_version, reason, message)


def open_graph(version: str, data: bytes) -> onnxruntime.InferenceSession:
    """Load a graph as it is served: on one thread, the same bits for the same shape of a batch.

    Raises:
        ArtifactRefused: ARTIFACT_CORRUPT; `version` is what it names.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # its errors are raised, and need not be printed as well
    try:
        return onnxruntime.InferenceSession(
            data, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # onnxruntime's exceptions have no common type below Exception.
        raise ArtifactRefused(
            version, Refusal.ARTIFACT_CORRUPT, f"onnxruntime cannot load it: {error}"
        ) from error


def check_graph(
    version: str,
    session: onnxruntime.InferenceSession,
    spec: ObservationSpec,
    slots: int | None,
) -> None:
    """Check a graph's input and outputs: their names, types and shapes.

    Args:
        version: what a refusal names.
        session: the graph.
        spec: how its observations are made.
        slots: the number of slots that it decides for, or None for any.

    Raises:
        ArtifactRefused: GRAPH_MISMATCH.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if [node.name for node in inputs] != [INPUT]:
        given = ", ".join(repr(node.name) for node in inputs) or "none"
        raise ArtifactRefused(
            version, Refusal.GRAPH_MISMATCH, f"its only input must be {INPUT!r}; it has {given}"
        )
    missing = set(OUTPUTS) - {node.name for node in outputs}
    if missing:
        raise ArtifactRefused(version, Refusal.GRAPH_MISMATCH, f"it has no output {min(missing)!r}")
    wanted: dict[str, list[int | None]] = {
        INPUT: [None, None if slots is None else vector_length(spec, slots)],
        "type_logits": [None, TYPES],
        "slot_logits": [None, TYPES, slots],
        "value": [None],
    }
    for node in [*inputs, *outputs]:
        if node.name in wanted:
            _check_node(version, node, wanted[node.name])


def _check_node(version: str, node: Any, wanted: list[int | None]) -> None:
    if node.type != "tensor(float)":
        raise ArtifactRefused(version, Refusal.GRAPH_MISMATCH, f"{node.name!r} must be float32")
    # onnxruntime gives a symbolic dimension as its name or None, a fixed one as a number.
    # Where a number is wanted and none is given, the golden outputs tell.
    given = [size if isinstance(size, int) else None for size in node.shape]
    fits = len(given) == len(wanted) and all(
        size is None or size == expected for size, expected in zip(given, wanted, strict=True)
    )
    if not fits:
        raise ArtifactRefused(
            version,
            Refusal.GRAPH_MISMATCH,
            f"{node.name!r} has shape {node.shape}, wanted "
            f"{['batch', *(size or 'any' for size in wanted[1:])]}",
        )


class _FixedGraph:
    """A graph for a fixed shape, with memory of its own that it reads and writes.

    Without it, onnxruntime makes arrays for every run, which takes longer than a small network.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, rows: int, length: int, slots: int
    ) -> None:
        self._session = session
        self._observations = np.zeros((rows, length), np.float32)
        self._outputs = Outputs(
            np.zeros((rows, TYPES), np.float32),
            np.zeros((rows, TYPES, slots), np.float32),
            np.zeros(rows, np.float32),
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, _shared(self._observations))
        for name, output in zip(OUTPUTS, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, _shared(output))

    def run(self, observations: Float32) -> Outputs:
        """Evaluate at most as many observations as there are rows; the rest are zeros."""
        count = len(observations)
        self._observations[:count] = observations
        self._observations[count:] = 0
        self._session.run_with_iobinding(self._binding)
        return Outputs(*[output[:count].copy() for output in self._outputs])


def _shared(array: Float32) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _same_bits(one: Outputs, other: Outputs) -> bool:
    return (
        one.type_logits.tobytes() == other.type_logits.tobytes()
        and one.slot_logits.tobytes() == other.slot_logits.tobytes()
        and one.value.tobytes() == other.value.tobytes()
    )
