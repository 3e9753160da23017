"""A policy that was learned: an artifact of the registry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chassis.errors import ErrorCode, LeylineError
from leyline.observation import slot_order, vectorize
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.observation_pb2 import ObservationSpec
from tamiyo.artifact import Artifact, Outputs
from tamiyo.policy import Choice
from tamiyo.sampling import choose


class LearnedPolicy:
    """One registered version: its network's distribution over type and slot, and its value."""

    name = "learned"

    def __init__(self, artifact: Artifact) -> None:
        """Serve a verified artifact."""
        self._artifact = artifact

    @property
    def version(self) -> str:
        """The registry's name for it."""
        return self._artifact.manifest.policy_version

    @property
    def spec(self) -> ObservationSpec:
        """The spec that its manifest carries."""
        return self._artifact.manifest.observation_spec

    @property
    def slots(self) -> int | None:
        """The number of slots that its graph was made for, or None for any."""
        return self._artifact.slots

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        """Run the network over all queries with equally many slots at once, then draw."""
        by_slots: dict[int, list[int]] = {}
        for index, query in enumerate(queries):
            by_slots.setdefault(len(query.snapshot.slots), []).append(index)
        choices: dict[int, Choice] = {}
        for indices in by_slots.values():
            observations = np.stack([vectorize(queries[i].snapshot, self.spec) for i in indices])
            outputs = self._artifact.evaluate(observations)
            for row, index in enumerate(indices):
                choices[index] = self._draw(queries[index], outputs, row)
        return [choices[index] for index in range(len(queries))]

    def _draw(self, query: DecisionQuery, outputs: Outputs, row: int) -> Choice:
        if not outputs.is_finite(row):
            raise LeylineError(
                ErrorCode.ARTIFACT_CORRUPT,
                policy_version=self.version,
                problem="its answer to this snapshot is not a finite number",
            )
        return choose(
            outputs.type_logits[row].tolist(),
            outputs.slot_logits[row].tolist(),
            slot_order(query.snapshot),
            sampling_seed=query.sampling_seed,
            mode=query.mode,
            value=float(outputs.value[row]),
        )
