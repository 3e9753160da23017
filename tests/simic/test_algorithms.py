"""The alternatives to PPO, behind the same interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.simic.worlds import NETWORKS, SLOTS, RememberingWorld, World, network, pays_for

from leyline.v1.learner_pb2 import TrainingPlan
from simic.learning import algorithms, networks
from simic.learning.distribution import WAIT
from simic.learning.plan import ALGORITHMS, fill
from simic.learning.recipes import AwrRecipe, DdqnRecipe, Recipe
from simic.learning.rollout import NO_SLOT, Trajectory

pytestmark = pytest.mark.lengthy

# What AWR learns from must be plenty: of few steps a value network learns the chance by heart, and
# no action is better than expected any more.
AWR = AwrRecipe(
    replayed_batches=2,
    learning_rate=5e-3,
    final_learning_rate=2e-3,
    policy_steps=64,
    temperature=0.25,
)
DDQN = DdqnRecipe(learning_rate=3e-3, final_learning_rate=1e-3, policy_steps=96)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def learn(
    world: World, recipe: Recipe, updates: int, episodes: int, name: str, *, offline: bool = False
) -> float:
    """What the policy gets in the world after so many updates; offline: a fresh one plays."""
    algorithm = algorithms.of_recipe(recipe, network(name), updates)
    batches: list[Sequence[Trajectory]] = []
    for number in range(1, updates + 1):
        plays = network(name) if offline else algorithm.network
        fresh = world.play(plays, episodes)
        algorithm.update(fresh, batches[-algorithm.batches :], number)
        batches.append(fresh)
    return world.score(algorithm.network)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("recipe", "episodes"), [(AWR, 512), (DDQN, 64)])
@pytest.mark.parametrize(("action", "slot"), [(WAIT, NO_SLOT), (1, 1), (3, SLOTS - 1)])
def test_a_one_step_bandit_is_solved(
    name: str, recipe: Recipe, episodes: int, action: int, slot: int
) -> None:
    world = World(1, pays_for(action, slot))
    assert learn(world, recipe, updates=14, episodes=episodes, name=name) > 0.8


@pytest.mark.parametrize("recipe", [replace(AWR, trace_decay=1.0), DDQN])
def test_a_reward_that_comes_five_steps_later_is_learned(recipe: Recipe) -> None:
    world = RememberingWorld(6, wanted=(1, 1))
    assert learn(world, recipe, updates=16, episodes=64, name="slot-shared") > 0.6


@pytest.mark.parametrize("name", NETWORKS)
def test_a_policy_is_learned_from_what_others_did(name: str) -> None:
    world = World(4, pays_for(1, 2))
    uniform = world.score(network(name))
    found = learn(world, AWR, updates=12, episodes=128, name=name, offline=True)
    assert found > 2 * uniform + 0.5


def test_what_nobody_chose_is_not_imitated() -> None:
    algorithm = algorithms.of_recipe(AWR, network("slot-shared"), 1)
    before = {key: value.copy() for key, value in algorithm.network.weights().items()}
    nobodys = [
        replace(each, by_policy=np.zeros(5, bool), chosen=np.zeros(5, bool))
        for each in World(5, pays_for(1, 1)).play(algorithm.network, 4)
    ]
    algorithm.update(nobodys, [], 1)
    after = algorithm.network.weights()
    moved = {key for key, value in before.items() if not np.array_equal(value, after[key])}
    assert not {key for key in moved if key.startswith("policy.")}
    assert {key for key in moved if key.startswith("value.")}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_made_from_a_plan_and_tells_the_same_of_an_update(
    algorithm: str,
) -> None:
    plan = fill(TrainingPlan(preset="demo", algorithm=algorithm))
    built = algorithms.build(plan, networks.build(plan))
    assert built.batches >= 1
    found = algorithms.of_recipe(
        replace(AWR, policy_steps=2) if algorithm == "awr" else built.recipe,  # type: ignore[attr-defined]
        network("slot-shared"),
        1,
    )
    update = found.update(World(5, pays_for(1, 1)).play(found.network, 4), [], 1)
    assert {"policy_loss", "value_loss", "entropy", "explained_variance", "wait_share"} <= set(
        update.diagnostics
    )
    assert all(np.isfinite(value) for value in update.diagnostics.values())
