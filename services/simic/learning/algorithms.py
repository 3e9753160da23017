"""Algorithms by name."""

from __future__ import annotations

from leyline.v1.learner_pb2 import TrainingPlan
from simic.learning.algorithm import Algorithm
from simic.learning.network import PolicyNetwork
from simic.learning.ppo import Ppo
from simic.learning.recipes import PpoRecipe, recipe_of


def build(plan: TrainingPlan, network: PolicyNetwork) -> Algorithm:
    """What changes ``network`` as a filled plan says."""
    recipe = recipe_of(plan)
    assert isinstance(recipe, PpoRecipe)
    return Ppo(network, recipe, plan.max_updates)
