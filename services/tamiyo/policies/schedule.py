"""Decisions that are known beforehand: a control that no observation reaches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from leyline.v1.decision_pb2 import SELECTION_MODE_GREEDY, DecisionQuery
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.trainer_pb2 import Plan
from tamiyo.policy import Choice


class SchedulePolicy:
    """A plan, played in every episode alike; for any number of slots. It has no randomness.

    Its version is named by the plan's content, so that episodes of two plans are told apart.
    """

    name = "schedule"
    slots = None

    def __init__(self, spec: ObservationSpec, plan: Plan) -> None:
        """Play a plan that keeps the contract's rules; at steps that it does not name, WAIT."""
        self.spec = spec
        self._actions = {action.step: action for action in plan.actions}
        ordered = Plan(actions=[self._actions[step] for step in sorted(self._actions)])
        content = hashlib.sha256(ordered.SerializeToString(deterministic=True)).hexdigest()
        self.version = f"schedule-{content[:12]}"

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        """Look up each query's step."""
        return [self._planned(query.snapshot.step_id.step) for query in queries]

    def _planned(self, step: int) -> Choice:
        planned = self._actions.get(step)
        if planned is None:
            return Choice.wait()
        slot_id = planned.slot_id if planned.HasField("slot_id") else None
        return Choice(planned.action_type, SELECTION_MODE_GREEDY, slot_id)
