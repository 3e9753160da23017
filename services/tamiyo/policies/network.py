"""Policies whose distribution comes out of a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

from leyline.observation import Vectorizer, slot_order
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.observation_pb2 import ObservationSpec
from tamiyo.outputs import Float32, Outputs
from tamiyo.policy import Choice
from tamiyo.sampling import choose


class NetworkPolicy(ABC):
    """One version of a network: says `evaluate`, and gets observations, batches and draws.

    Attributes:
        name: name of the policy.
        version: what its decisions are attributed to; other weights, another version.
        spec: the observation spec that `evaluate` reads.
        slots: the number of slots that it decides for, or None for any.
    """

    name: str
    version: str
    spec: ObservationSpec
    slots: int | None = None

    @abstractmethod
    def evaluate(self, observations: Float32) -> Outputs:
        """Say the logits and the value for each observation.

        Args:
            observations: float32 ``(n, length)``, n at least 1, all with equally many slots S,
                slots by depth. See docs/observation.md.

        Returns:
            Outputs for n rows. A decision can only be repeated where each row depends on its own
            observation alone, whatever else is in the batch.
        """

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        """Run the network over all queries with equally many slots at once, then draw."""
        by_slots: dict[int, list[int]] = {}
        for index, query in enumerate(queries):
            by_slots.setdefault(len(query.snapshot.slots), []).append(index)
        choices: dict[int, Choice] = {}
        for slots, indices in by_slots.items():
            observations = self._vector.batch([queries[i].snapshot for i in indices])
            outputs = self.evaluate(observations)
            self._check_shapes(outputs, len(indices), slots)
            said = zip(
                indices,
                outputs.type_logits.tolist(),
                outputs.slot_logits.tolist(),
                outputs.value.tolist(),
                strict=True,
            )
            for index, type_logits, slot_logits, value in said:
                # No sum of so few float32 leaves the doubles: it is finite where all of them are.
                if not math.isfinite(sum(type_logits) + sum(map(sum, slot_logits)) + value):
                    raise self.unusable("its answer to this snapshot is not a finite number")
                query = queries[index]
                choices[index] = choose(
                    type_logits,
                    slot_logits,
                    slot_order(query.snapshot),
                    sampling_seed=query.sampling_seed,
                    mode=query.mode,
                    temperature=query.temperature if query.HasField("temperature") else 1.0,
                    value=value,
                )
        return [choices[index] for index in range(len(queries))]

    def _check_shapes(self, outputs: Outputs, rows: int, slots: int) -> None:
        # Where there are four slots, logits that are turned round would decide without an error.
        for name, array, shape in (
            ("type_logits", outputs.type_logits, (rows, 4)),
            ("slot_logits", outputs.slot_logits, (rows, 4, slots)),
            ("value", outputs.value, (rows,)),
        ):
            if array.shape != shape:
                raise self.unusable(f"{name} has shape {array.shape}, wanted {shape}")

    @cached_property
    def _vector(self) -> Vectorizer:
        return Vectorizer(self.spec)

    def unusable(self, problem: str) -> Exception:
        """Return the error for an answer that is none."""
        return ValueError(f"policy {self.version}: {problem}")
