"""What a learner must be able to do before it meets a real network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simic.learning.network import WAIT, MlpNetwork
from simic.learning.plan import RECIPES, Recipe
from simic.learning.ppo import Ppo, advantages_of
from simic.learning.rollout import NO_SLOT, Trajectory

LENGTH = 6
SLOTS = 3
Reward = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""From the types and slots of an episode's decisions to a reward for each."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class World:
    """Plays episodes whose observations are noise and the time that is left."""

    def __init__(self, horizon: int, reward: Reward, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.horizon = horizon
        self.reward = reward

    @torch.no_grad()
    def play(self, network: MlpNetwork, episodes: int) -> list[Trajectory]:
        """Episodes that the network's policy decides, all in one forward pass."""
        rows = episodes * self.horizon
        observations = self.random.normal(0, 0.3, (rows, LENGTH)).astype(np.float32)
        observations[:, 0] = np.tile(1 - np.arange(self.horizon) / self.horizon, episodes)
        distribution = network.distribution(torch.from_numpy(observations))
        types = self._draw(distribution.type_log_probs.numpy())
        of_slots = distribution.slot_log_probs.numpy()[np.arange(rows), types]
        slots = np.where(types == WAIT, NO_SLOT, self._draw(of_slots))
        log_probs = distribution.log_prob(torch.from_numpy(types), torch.from_numpy(slots))
        starts = range(0, rows, self.horizon)
        return [
            Trajectory(
                observations=observations[start : start + self.horizon],
                action_types=types[start : start + self.horizon],
                slots=slots[start : start + self.horizon],
                behaviour_log_probs=log_probs.double().numpy()[start : start + self.horizon],
                by_policy=np.ones(self.horizon, bool),
                rewards=self.reward(
                    types[start : start + self.horizon], slots[start : start + self.horizon]
                ),
                no_ops=np.zeros(self.horizon, bool),
            )
            for start in starts
        ]

    def _draw(self, log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
        cumulative = np.exp(log_probs.astype(np.float64)).cumsum(-1)
        drawn = self.random.random((len(log_probs), 1)) * cumulative[:, -1:]
        found: NDArray[np.int64] = (drawn >= cumulative).sum(-1)
        return found


def learn(world: World, recipe: Recipe, updates: int, episodes: int, seed: int = 0) -> Ppo:
    ppo = Ppo(MlpNetwork(LENGTH, SLOTS, seed), recipe, updates)
    batches: list[list[Trajectory]] = []
    for number in range(1, updates + 1):
        fresh = world.play(ppo.network, episodes)
        replayed = [each for batch in batches[-recipe.replayed_batches :] for each in batch]
        ppo.update(fresh, replayed, number)
        batches.append(fresh)
    return ppo


def score(world: World, network: MlpNetwork, episodes: int = 64) -> float:
    return float(np.mean([each.rewards.sum() for each in world.play(network, episodes)]))


def pays_for(action: int, slot: int) -> Reward:
    def reward(types: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float64]:
        paid: NDArray[np.float64] = ((types == action) & (slots == slot)).astype(np.float64)
        return paid

    return reward


@pytest.mark.parametrize(
    ("action", "slot"), [(WAIT, NO_SLOT), *((a, s) for a in (1, 2, 3) for s in range(SLOTS))]
)
def test_a_one_step_bandit_is_solved_for_every_type_and_slot(action: int, slot: int) -> None:
    world = World(1, pays_for(action, slot))
    ppo = learn(world, RECIPES["default"], updates=14, episodes=64)
    assert score(world, ppo.network) > 0.8


def test_a_reward_for_germinating_comes_ten_steps_later_and_is_still_learned() -> None:
    def reward(types: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float64]:
        rewards = np.zeros(len(types))
        rewards[-1] = float(types[0] == 1 and slots[0] == 1)
        return rewards

    world = World(11, reward)
    ppo = learn(world, RECIPES["default"], updates=24, episodes=32)
    assert score(world, ppo.network) > 0.7


def test_shuffled_rewards_teach_nothing() -> None:
    random = np.random.default_rng(3)

    def unrelated(types: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float64]:
        return (random.random(len(types)) < 1 / 12).astype(float)

    ppo = learn(World(1, unrelated), RECIPES["default"], updates=14, episodes=64)
    assert score(World(1, pays_for(1, 1), seed=9), ppo.network, 400) < 0.35


def test_the_ratio_is_one_when_the_update_begins_and_lag_is_zero() -> None:
    ppo = Ppo(MlpNetwork(LENGTH, SLOTS, 1), RECIPES["default"])
    fresh = World(20, pays_for(1, 1)).play(ppo.network, 8)
    batch, _ = ppo.prepare(fresh)
    distribution = ppo.network.distribution(batch.observations)
    log_probs = distribution.log_prob(batch.action_types, batch.slots)
    assert torch.equal(log_probs, batch.proximal_log_probs)
    assert batch.weights.numpy() == pytest.approx(1, abs=1e-6)


def test_steps_of_older_policies_weigh_at_most_twice() -> None:
    ppo = Ppo(MlpNetwork(LENGTH, SLOTS, 1), RECIPES["default"])
    [episode] = World(50, pays_for(1, 1)).play(ppo.network, 1)
    drift = np.linspace(-3, 3, 50)
    older = replace(episode, behaviour_log_probs=episode.behaviour_log_probs + drift)
    batch, _ = ppo.prepare([older])
    expected = np.minimum(np.exp(-drift), 2.0)
    assert batch.weights.numpy() == pytest.approx(expected, rel=1e-5)


def test_fallback_steps_move_the_value_function_and_not_the_policy() -> None:
    ppo = Ppo(MlpNetwork(LENGTH, SLOTS, 1), RECIPES["default"])
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
    network = MlpNetwork(LENGTH, SLOTS, 1)
    network.take_statistics(torch.rand(64, LENGTH))
    episodes = World(20, pays_for(1, 1)).play(network, 4)
    changed = [
        replace(each, observations=each.observations + 1, by_policy=np.zeros(20, bool))
        for each in episodes
    ]
    recipe = replace(RECIPES["default"], epochs=1, minibatches=1)
    policies = []
    for extra in ([], changed):
        ppo = Ppo(MlpNetwork.from_weights(network.weights()), recipe)
        ppo.update([*episodes, *extra], [], number=1)
        policies.append(ppo.network.policy.type_head.weight.detach())
    assert policies[0].numpy() == pytest.approx(policies[1].numpy(), abs=1e-6)


def test_the_value_function_explains_what_a_fixed_policy_earns() -> None:
    def reward(types: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float64]:
        return pays_for(1, 0)(types, np.zeros_like(slots)) / 10 + 0.1

    world = World(20, reward)
    ppo = Ppo(MlpNetwork(LENGTH, SLOTS, 1), RECIPES["default"])
    fixed = MlpNetwork(LENGTH, SLOTS, 1)
    explained = 0.0
    for number in range(1, 16):
        watched = [replace(each, by_policy=np.zeros(20, bool)) for each in world.play(fixed, 8)]
        explained = ppo.update(watched, [], number).diagnostics["explained_variance"]
    assert explained > 0.3


def test_the_same_seed_makes_the_same_network_bit_for_bit() -> None:
    def weights() -> list[bytes]:
        ppo = learn(World(5, pays_for(1, 1)), RECIPES["default"], updates=3, episodes=8)
        return [array.tobytes() for array in ppo.network.weights().values()]

    assert weights() == weights()


def test_an_update_ends_when_the_policy_has_gone_far_enough() -> None:
    strict = replace(RECIPES["default"], kl_stop=0.0)
    ppo = Ppo(MlpNetwork(LENGTH, SLOTS, 1), strict)
    update = ppo.update(World(5, pays_for(1, 1)).play(ppo.network, 8), [], number=1)
    assert update.gradient_steps == strict.minibatches
    assert update.diagnostics["kl"] > 0


def test_statistics_of_observations_are_taken_once() -> None:
    ppo = Ppo(MlpNetwork(LENGTH, SLOTS, 1), RECIPES["default"])
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
