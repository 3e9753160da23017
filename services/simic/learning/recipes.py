"""Recipes: the numbers that an algorithm learns with, by preset.

"default" is what was found to work on the growth simulator (docs/findings/learning.md); "demo"
trades its quality for a first learned version within a minute. Nothing here needs torch: the
server fills plans in with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from leyline.v1.learner_pb2 import TrainingPlan

AnyRecipe = TypeVar("AnyRecipe", bound="Recipe")


@dataclass(frozen=True)
class Recipe:
    """What every algorithm has.

    Attributes:
        episodes_per_update: whole episodes in a fresh batch.
        replayed_batches: earlier batches that are learned from again beside the fresh one.
        evaluation_episodes: pairs of an evaluation, where versions become active by one.
        annealing_updates: updates over which rates fall to their final values, where the plan sets
            no end.
        learning_rate: of Adam, at the first update.
        final_learning_rate: after the last of ``annealing_updates``.
        gradient_norm: bound on the norm of each network's gradient.
        context_decay: of what the policy makes of a slot's context, by the learning rate and this
            at each gradient step (decoupled weight decay, Loshchilov & Hutter 2019).
        discount: gamma; 1, because episodes are short and end at a horizon.
        trace_decay: lambda of generalised advantage estimation.
        feasibility_steps: gradient steps of the feasibility head in an update.
        feasibility_learning_rate: of its Adam.
        value_steps: gradient steps of the value network in an update.
        value_rows: steps of episodes in each of them.
    """

    episodes_per_update: int = 8
    replayed_batches: int = 2
    evaluation_episodes: int = 8
    annealing_updates: int = 36
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-4
    gradient_norm: float = 0.5
    context_decay: float = 2.0
    discount: float = 1.0
    trace_decay: float = 0.9
    feasibility_steps: int = 20
    feasibility_learning_rate: float = 3e-3
    value_steps: int = 64
    value_rows: int = 64

    @property
    def batches(self) -> int:
        """Earlier batches that an update wants to see."""
        return self.replayed_batches


@dataclass(frozen=True)
class PpoRecipe(Recipe):
    """Of proximal policy optimisation.

    Attributes:
        epochs: passes over the batch at most.
        minibatches: gradient steps of the policy in a pass.
        kl_stop: the update ends when the policy is this far from where it began, nats.
        clip: range of the ratio within which the policy's gradient counts.
        weight_cap: greatest weight of a step that another policy took.
        entropy_bonus: coefficient, at the first update.
        final_entropy_bonus: after the last of ``annealing_updates``.
        value_batches: earlier batches that the value network learns from; it forgets slower than
            the policy.
    """

    epochs: int = 8
    minibatches: int = 16
    kl_stop: float = 0.045
    clip: float = 0.2
    weight_cap: float = 2.0
    entropy_bonus: float = 0.02
    final_entropy_bonus: float = 0.002
    value_batches: int = 8

    @property
    def batches(self) -> int:
        """Earlier batches that an update wants to see."""
        return max(self.replayed_batches, self.value_batches)


@dataclass(frozen=True)
class AwrRecipe(Recipe):
    """Of advantage-weighted regression.

    Attributes:
        policy_steps: gradient steps of the policy in an update.
        policy_rows: steps of episodes in each of them.
        temperature: advantages are divided by so many of their standard deviations; the smaller,
            the more the best actions count.
        weight_cap: greatest weight of a step.
    """

    replayed_batches: int = 8
    policy_steps: int = 128
    policy_rows: int = 64
    temperature: float = 1.0
    weight_cap: float = 20.0


@dataclass(frozen=True)
class DdqnRecipe(Recipe):
    """Of double Q-learning.

    Attributes:
        policy_steps: gradient steps of the Q-function in an update.
        policy_rows: transitions in each of them.
        targets: how often in an update the target network is renewed, its beginning included.
        temperature: of the softmax that explores and that the artifact serves, units of the reward.
    """

    replayed_batches: int = 36
    policy_steps: int = 256
    policy_rows: int = 64
    targets: int = 4
    temperature: float = 0.05


RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "default": {"ppo": PpoRecipe(), "awr": AwrRecipe(), "ddqn": DdqnRecipe()},
    # Two episodes make a noisy batch: fewer passes over it, and it is replayed once.
    "demo": {
        "ppo": PpoRecipe(
            episodes_per_update=2,
            replayed_batches=1,
            epochs=4,
            minibatches=2,
            value_batches=2,
            value_steps=16,
            annealing_updates=20,
        ),
        "awr": AwrRecipe(
            episodes_per_update=2, policy_steps=32, value_steps=16, annealing_updates=20
        ),
        "ddqn": DdqnRecipe(
            episodes_per_update=2, policy_steps=64, value_steps=16, annealing_updates=20
        ),
    },
}
"""Recipes by preset and algorithm."""


class BadHyperparameter(ValueError):
    """A recipe has no number of that name, or cannot have that value."""


def recipe_of(plan: TrainingPlan) -> Recipe:
    """The preset's recipe for the plan's algorithm, with the plan's own numbers in it.

    Raises:
        BadHyperparameter: with the name, and what there is or what is allowed.
    """
    recipe = RECIPES[plan.preset][plan.algorithm]
    changed = with_numbers(recipe, plan.hyperparameters)
    if plan.episodes_per_update:
        changed = replace(changed, episodes_per_update=plan.episodes_per_update)
    if plan.evaluation_episodes:
        changed = replace(changed, evaluation_episodes=plan.evaluation_episodes)
    return changed


def with_numbers(recipe: AnyRecipe, numbers: Mapping[str, float]) -> AnyRecipe:
    """The recipe with some numbers replaced.

    Raises:
        BadHyperparameter: with the name, and what there is or what is allowed.
    """
    known = {field.name: type(getattr(recipe, field.name)) for field in fields(recipe)}
    return replace(recipe, **dict(_checked(known, numbers)))


_AT_LEAST_ONE = frozenset(
    {
        *("episodes_per_update", "annealing_updates", "epochs", "minibatches", "targets"),
        *("policy_steps", "policy_rows", "value_rows"),
    }
)


def _checked(known: Mapping[str, type], numbers: Mapping[str, float]) -> Iterable[tuple[str, Any]]:
    for name, value in numbers.items():
        if name not in known:
            raise BadHyperparameter(f"there is no {name!r}; known: {', '.join(sorted(known))}")
        least = 1 if name in _AT_LEAST_ONE else 0
        if not math.isfinite(value) or value < least:
            raise BadHyperparameter(f"{name} is {value:g}, and must be at least {least}")
        if known[name] is int and value != int(value):
            raise BadHyperparameter(f"{name} is {value:g}, and must be a whole number")
        yield name, known[name](value)
