"""What to learn and how: recipes by name, and plans with every value filled in.

The recipe "default" is what a study on a growth simulator found to work for this control problem;
"demo" trades its quality for a first learned version within a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.observation import spec_names
from leyline.v1.learner_pb2 import TrainingPlan
from simic.learning import promotion
from simic.learning.reward import REWARDS
from simic.policies.artifact import NETWORKS

ALGORITHMS = ("ppo",)


@dataclass(frozen=True)
class Recipe:
    """Settings of the learner that a preset stands for.

    Attributes:
        episodes_per_update: whole episodes in a fresh batch.
        replayed_batches: earlier batches that are learned from again beside the fresh one.
        epochs: passes over the batch at most.
        minibatches: gradient steps in a pass.
        kl_stop: the update ends when the policy is this far from where it began, nats.
        clip: range of the ratio within which the policy's gradient counts.
        weight_cap: greatest weight of a step that another policy took.
        learning_rate: of Adam, at the first update and after the last of ``annealing_updates``.
        entropy_bonus: coefficient, likewise.
        annealing_updates: updates over which these fall, where the plan sets no end.
        gradient_norm: bound on the norm of each network's gradient.
        value_coefficient: weight of the value loss.
        discount: gamma; 1, because episodes are short and end at a horizon.
        trace_decay: lambda of generalised advantage estimation.
        evaluation_episodes: pairs of episodes in an evaluation.
    """

    episodes_per_update: int = 8
    replayed_batches: int = 2
    epochs: int = 8
    minibatches: int = 4
    kl_stop: float = 0.045
    clip: float = 0.2
    weight_cap: float = 2.0
    learning_rate: tuple[float, float] = (1e-3, 1e-4)
    entropy_bonus: tuple[float, float] = (0.02, 0.002)
    annealing_updates: int = 36
    gradient_norm: float = 0.5
    value_coefficient: float = 0.5
    discount: float = 1.0
    trace_decay: float = 0.95
    evaluation_episodes: int = 8


RECIPES: Mapping[str, Recipe] = {
    "default": Recipe(),
    # Two episodes make a noisy batch: fewer passes over it, and it is replayed once.
    "demo": Recipe(
        episodes_per_update=2, replayed_batches=1, epochs=4, minibatches=2, annealing_updates=20
    ),
}

_DEFAULTS = TrainingPlan(
    preset="default",
    algorithm="ppo",
    network="mlp",
    reward="accuracy-delta",
    observation_spec="seed",
    slots=3,
    activation=promotion.ALWAYS,
)


def fill(plan: TrainingPlan) -> TrainingPlan:
    """The plan with every value filled in.

    Raises:
        LeylineError: INVALID_ARGUMENT naming each name that is not known, and those that are.
    """
    filled = TrainingPlan()
    filled.CopyFrom(_DEFAULTS)
    filled.MergeFrom(plan)
    violations = list(_unknown_names(filled))
    if violations:
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=violations)
    if not filled.episodes_per_update:
        filled.episodes_per_update = RECIPES[filled.preset].episodes_per_update
    if not filled.evaluation_episodes:
        filled.evaluation_episodes = RECIPES[filled.preset].evaluation_episodes
    violations = list(promotion.violations(filled))
    if violations:
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=violations)
    return filled


def _unknown_names(plan: TrainingPlan) -> Iterable[Violation]:
    known: Mapping[str, Iterable[str]] = {
        "preset": RECIPES,
        "algorithm": ALGORITHMS,
        "network": NETWORKS,
        "reward": REWARDS,
        "observation_spec": spec_names(),
        "activation": promotion.RULES,
    }
    for field, names in known.items():
        value = getattr(plan, field)
        if value not in names:
            yield Violation(f"plan.{field}", f"there is no {value!r}; known: {', '.join(names)}")
