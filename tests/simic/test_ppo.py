"""What a learner must be able to do before it meets a real network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.simic.worlds import LAYOUT, NETWORKS, SLOTS, World, learn, network, pays_for

from simic.learning.batch import Steps, advantages_of
from simic.learning.distribution import WAIT
from simic.learning.ppo import Ppo
from simic.learning.recipes import PpoRecipe
from simic.learning.rollout import NO_SLOT

RECIPE = PpoRecipe()
FEW_STEPS = replace(RECIPE, minibatches=4, value_steps=16)
"""What takes long is gradient steps, and easy worlds need few."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("action", "slot"), [(WAIT, NO_SLOT), *((a, s) for a in (1, 2, 3) for s in range(SLOTS))]
)
def test_a_one_step_bandit_is_solved_for_every_type_and_slot(
    name: str, action: int, slot: int
) -> None:
    world = World(1, pays_for(action, slot))
    ppo = learn(world, FEW_STEPS, updates=18, episodes=64, name=name)
    assert world.score(ppo.network) > 0.8


@pytest.mark.parametrize("name", NETWORKS)
def test_a_reward_for_germinating_comes_ten_steps_later_and_is_still_learned(name: str) -> None:
    world = World(11, pays_late)
    ppo = learn(world, FEW_STEPS, updates=24, episodes=32, name=name)
    assert world.score(ppo.network) > 0.7


def pays_late(types: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 at the end of an episode that began with a germination in slot 1."""
    rewards = np.zeros(len(types))
    rewards[-1] = float(types[0] == 1 and slots[0] == 1)
    return rewards


def test_decisions_three_versions_old_teach_nine_tenths_of_what_new_ones_do() -> None:
    scores = []
    for lag in (0, 3):
        ppo = learn(World(1, pays_for(2, 1)), FEW_STEPS, updates=24, episodes=64, lag=lag)
        scores.append(World(1, pays_for(2, 1), seed=9).score(ppo.network, 400))
    fresh, stale = scores
    assert fresh > 0.9
    assert stale >= 0.9 * fresh


def test_shuffled_rewards_teach_nothing() -> None:
    random = np.random.default_rng(3)

    def shuffled(types: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float64]:
        return random.permutation(pays_for(1, 1)(types, slots))

    ppo = learn(World(20, shuffled), FEW_STEPS, updates=14, episodes=8)
    # By chance it is one decision in twelve.
    assert World(1, pays_for(1, 1), seed=9).score(ppo.network, 400) < 0.35


def test_the_ratio_is_one_when_the_update_begins_and_lag_is_zero() -> None:
    ppo = Ppo(network("slot-shared"), RECIPE)
    fresh = World(20, pays_for(1, 1)).play(ppo.network, 8)
    steps = Steps.of(fresh)
    lesson, _ = ppo.prepare(steps, len(steps))
    distribution = ppo.network.distribution(steps.observations, steps.slots_seen)
    log_probs = distribution.log_prob(steps.action_types, steps.slots)
    assert torch.equal(log_probs, lesson.proximal_log_probs)
    assert lesson.weights.numpy() == pytest.approx(1, abs=1e-6)


def test_the_first_gradient_step_at_lag_zero_clips_nothing_and_weighs_all_alike() -> None:
    # No feasibility: what is learned of it moves the policy before its own first step.
    ppo = Ppo(network("slot-shared"), replace(RECIPE, epochs=1, minibatches=1, feasibility_steps=0))
    ppo.network.take_statistics(torch.rand(64, LAYOUT.length(SLOTS)), torch.full((64,), SLOTS))
    told = ppo.update(World(20, pays_for(1, 1)).play(ppo.network, 8), [], number=1).diagnostics
    assert told["clip_fraction"] == 0.0
    # Ratios and weights of one leave the mean of the normalised advantages.
    assert told["policy_loss"] == pytest.approx(0.0, abs=1e-5)


def test_steps_of_older_policies_weigh_at_most_twice() -> None:
    ppo = Ppo(network("slot-shared"), RECIPE)
    [episode] = World(50, pays_for(1, 1)).play(ppo.network, 1)
    drift = np.linspace(-3, 3, 50)
    older = replace(episode, behaviour_log_probs=episode.behaviour_log_probs + drift)
    lesson, _ = ppo.prepare(Steps.of([older]), 50)
    expected = np.minimum(np.exp(-drift), 2.0)
    assert lesson.weights.numpy() == pytest.approx(expected, rel=1e-5)


def test_fallback_steps_move_the_value_function_and_not_the_policy() -> None:
    ppo = Ppo(network("slot-shared"), RECIPE)
    before = {name: tensor.clone() for name, tensor in ppo.network.state_dict().items()}
    fallbacks = [
        replace(each, by_policy=np.zeros(20, bool))
        for each in World(20, pays_for(0, NO_SLOT)).play(ppo.network, 8)
    ]
    ppo.update(fallbacks, [], number=1)
    after = ppo.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in moved if name.startswith("policy.")}
    assert {name for name in moved if name.startswith("value.")}


def test_fallback_steps_among_others_leave_the_policys_step_as_it_is_without_them() -> None:
    begun = network("slot-shared")
    begun.take_statistics(torch.rand(64, LAYOUT.length(SLOTS)), torch.full((64,), SLOTS))
    episodes = World(20, pays_for(1, 1)).play(begun, 4)
    changed = [
        replace(each, observations=each.observations + 1, by_policy=np.zeros(20, bool))
        for each in episodes
    ]
    # No feasibility: it learns from everybody's turns.
    recipe = replace(RECIPE, epochs=1, minibatches=1, feasibility_steps=0)
    policies = []
    for extra in ([], changed):
        ppo = Ppo(network("slot-shared").load_weights(begun.weights()), recipe)
        ppo.update([*episodes, *extra], [], number=1)
        policies.append(ppo.network.weights()["policy.act.weight"])
    assert policies[0] == pytest.approx(policies[1], abs=1e-6)


def test_the_value_function_explains_what_a_fixed_policy_earns() -> None:
    def reward(types: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float64]:
        return pays_for(1, 0)(types, np.zeros_like(slots)) / 10 + 0.1

    world = World(20, reward)
    ppo = Ppo(network("slot-shared"), replace(FEW_STEPS, epochs=1))
    fixed = network("slot-shared")
    explained = 0.0
    for number in range(1, 16):
        watched = [replace(each, by_policy=np.zeros(20, bool)) for each in world.play(fixed, 8)]
        explained = ppo.update(watched, [], number).diagnostics["explained_variance"]
    assert explained > 0.3


def test_the_same_seed_makes_the_same_network_bit_for_bit() -> None:
    def weights() -> list[bytes]:
        ppo = learn(World(5, pays_for(1, 1)), FEW_STEPS, updates=3, episodes=8)
        return [array.tobytes() for array in ppo.network.weights().values()]

    assert weights() == weights()


def test_an_update_ends_when_the_policy_has_gone_far_enough() -> None:
    strict = replace(RECIPE, kl_stop=0.0, minibatches=4)
    ppo = Ppo(network("slot-shared"), strict)
    update = ppo.update(World(5, pays_for(1, 1)).play(ppo.network, 8), [], number=1)
    assert update.gradient_steps == strict.minibatches
    assert update.diagnostics["kl"] > 0


def test_statistics_of_observations_are_taken_once() -> None:
    ppo = Ppo(network("slot-shared"), RECIPE)
    world = World(5, pays_for(1, 1))
    ppo.update(world.play(ppo.network, 8), [], number=1)
    mean = ppo.network.observation_mean.clone()
    ppo.update(world.play(ppo.network, 8), [], number=2)
    assert torch.equal(ppo.network.observation_mean, mean)


def test_advantages_follow_the_definition() -> None:
    rewards, values = np.array([1.0, 0.0, 2.0]), np.array([0.5, 1.0, 0.25])
    errors = [1 + 0.9 * 1.0 - 0.5, 0 + 0.9 * 0.25 - 1.0, 2 - 0.25]
    decay = 0.9 * 0.8
    expected = [
        errors[0] + decay * errors[1] + decay**2 * errors[2],
        errors[1] + decay * errors[2],
        errors[2],
    ]
    assert advantages_of(rewards, values, 0.9, 0.8) == pytest.approx(expected)
