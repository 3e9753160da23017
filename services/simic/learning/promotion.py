"""When a version that a training makes becomes the active one: its plan's ``activation``.

The version that a training begins with is activated whatever the rule: somebody has to decide the
first episodes.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from chassis.errors import Violation
from leyline.v1.learner_pb2 import TrainingPlan
from simic.policies import activation, candidates

ALWAYS = "always"
IF_NOT_WORSE = "if-not-worse"
BY_HAND = "by-hand"
RULES = (ALWAYS, IF_NOT_WORSE, BY_HAND)

FEWEST_PAIRS = 2
"""One pair says nothing of how sure its difference is."""


def promote(
    connection: Connection, training: int, plan: TrainingPlan, policy_version: str, reason: str
) -> None:
    """Do what the plan says with a new version, which is registered, of the training with this row
    number.
    """
    if plan.activation == ALWAYS:
        activation.activate(connection, policy_version, reason)
    elif plan.activation == IF_NOT_WORSE:
        candidates.propose(connection, training, policy_version, plan.evaluation_episodes)


def violations(plan: TrainingPlan) -> Iterable[Violation]:
    """What is wrong with the rule of a plan whose values are filled in."""
    if plan.activation != IF_NOT_WORSE:
        return
    if plan.evaluation_episodes < FEWEST_PAIRS:
        yield Violation(
            "plan.evaluation_episodes", f"must be at least {FEWEST_PAIRS} for {IF_NOT_WORSE!r}"
        )
