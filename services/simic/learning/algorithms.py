"""Algorithms by name."""

from __future__ import annotations

from leyline.v1.learner_pb2 import TrainingPlan
from simic.learning.algorithm import Algorithm
from simic.learning.awr import Awr
from simic.learning.ddqn import Ddqn
from simic.learning.network import PolicyNetwork
from simic.learning.ppo import Ppo
from simic.learning.recipes import AwrRecipe, DdqnRecipe, PpoRecipe, Recipe, recipe_of


def build(plan: TrainingPlan, network: PolicyNetwork) -> Algorithm:
    """What changes ``network`` as a filled plan says."""
    return of_recipe(recipe_of(plan), network, plan.max_updates)


def of_recipe(recipe: Recipe, network: PolicyNetwork, updates_planned: int) -> Algorithm:
    """The algorithm that a recipe is for."""
    match recipe:
        case PpoRecipe():
            return Ppo(network, recipe, updates_planned)
        case AwrRecipe():
            return Awr(network, recipe, updates_planned)
        case DdqnRecipe():
            return Ddqn(network, recipe, updates_planned)
    raise TypeError(f"no algorithm is for {recipe}")
