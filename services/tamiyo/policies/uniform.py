"""The policy that knows nothing: each action type and each slot is as likely as any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leyline.observation import slot_order
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED, DecisionQuery
from leyline.v1.observation_pb2 import ObservationSpec
from tamiyo.policy import Choice
from tamiyo.sampling import ACTION_TYPES, choose


@dataclass(frozen=True)
class RandomPolicy:
    """P(type) = 1/4, P(slot | type) = 1/S, for any number of slots S.

    Also what is not possible in a slot's stage is drawn: it becomes a no-op, and experience of it
    teaches what is possible. A query in greedy mode is drawn at random too, and the answer says
    so: where everything is equally likely, nothing is the most likely.
    """

    spec: ObservationSpec
    name: str = "random"
    version: str = "random-1"
    slots: int | None = None

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        """Draw an action for each query, with its log-probabilities."""
        return [self._draw(query) for query in queries]

    def _draw(self, query: DecisionQuery) -> Choice:
        slot_ids = slot_order(query.snapshot)
        return choose(
            [0.0] * len(ACTION_TYPES),
            [[0.0] * len(slot_ids)] * len(ACTION_TYPES),
            slot_ids,
            sampling_seed=query.sampling_seed,
            mode=SELECTION_MODE_SAMPLED,
        )
