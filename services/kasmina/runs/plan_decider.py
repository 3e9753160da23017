"""Decisions by a run's own plan: what controls and studies are made of. No policy is asked."""

from __future__ import annotations

from kasmina.runs.decider import Answer, EpisodeTerms
from kasmina.runs.episode_log import Beginning, Decided
from kasmina.runs.introducer import Introducer
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    Decision,
    DecisionQuery,
)
from leyline.v1.trainer_pb2 import Plan, PlannedAction
from leyline.v1.transition_pb2 import DECIDER_PLAN

POLICY = "plan"
"""Name under which the experience service keeps the episodes."""


class PlanDecider:
    """The plan as a decider: at a step that it does not name, WAIT."""

    def __init__(self, plan: Plan, introducer: Introducer) -> None:
        self._actions = {action.step: action for action in plan.actions}
        self._introducer = introducer

    def begin(self, terms: EpisodeTerms) -> Beginning:
        """Begins the episode, with or without the experience service."""
        return self._introducer.begin(terms, POLICY, SELECTION_MODE_GREEDY)

    def decide(self, query: DecisionQuery) -> Answer:
        """What the plan says of the step."""
        step_id = query.snapshot.step_id
        waiting = PlannedAction(step=step_id.step, action_type=ACTION_TYPE_WAIT)
        planned = self._actions.get(step_id.step, waiting)
        decision = Decision(
            decision_id=f"plan/{step_id.run_id}/{step_id.episode_index}/{step_id.step}",
            action_type=planned.action_type,
            slot_id=planned.slot_id if planned.HasField("slot_id") else None,
            mode=SELECTION_MODE_GREEDY,
        )
        return Answer(Decided(decision, DECIDER_PLAN, None), latency_s=None)

    def end(self) -> None:
        """Nothing is left open."""
