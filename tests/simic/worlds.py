"""Small worlds that a learner must master before it meets a network that grows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simic.learning.distribution import WAIT, Distribution
from simic.learning.mlp import MlpNetwork
from simic.learning.network import Layout, PolicyNetwork
from simic.learning.ppo import Ppo
from simic.learning.recipes import PpoRecipe
from simic.learning.rollout import NO_SLOT, Trajectory
from simic.learning.slot_shared import SlotSharedNetwork

LAYOUT = Layout(global_features=3, slot_features=2)
SLOTS = 3
NETWORKS = ("slot-shared", "mlp")

Reward = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""From the types and slots of an episode's decisions to a reward for each."""


def network(name: str, seed: int = 1) -> PolicyNetwork:
    """A fresh network for the worlds' observations."""
    return (
        SlotSharedNetwork(LAYOUT, seed)
        if name == "slot-shared"
        else MlpNetwork(LAYOUT, SLOTS, seed)
    )


class World:
    """Plays episodes whose observations are noise, the time that is left, and which slot is which.

    Every action is carried out. The first global feature is the share of the episode that is left;
    the first feature of a slot is its place among them.
    """

    def __init__(self, horizon: int, reward: Reward, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.horizon = horizon
        self.reward = reward

    def play(self, policy: PolicyNetwork, episodes: int) -> list[Trajectory]:
        """Episodes that the network's policy decides, all in one forward pass."""
        observations = self._observations(episodes)
        return self._trajectories(observations, *self._decided(policy, observations))

    @torch.no_grad()
    def _decided(
        self, policy: PolicyNetwork, observations: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Types, slots and their log-probabilities, one for each row of observations."""
        distribution = policy.distribution(torch.from_numpy(observations))
        types, slots = draw(distribution, self.random)
        log_probs = distribution.log_prob(torch.from_numpy(types), torch.from_numpy(slots))
        return types, slots, log_probs.double().numpy()

    def _trajectories(
        self,
        observations: NDArray[np.float32],
        types: NDArray[np.int64],
        slots: NDArray[np.int64],
        behaviour: NDArray[np.float64],
    ) -> list[Trajectory]:
        rows = len(observations)
        return [
            Trajectory(
                observations=observations[of],
                slots_seen=SLOTS,
                action_types=types[of],
                slots=slots[of],
                behaviour_log_probs=behaviour[of],
                by_policy=np.ones(self.horizon, bool),
                chosen=np.ones(self.horizon, bool),
                rewards=self.reward(types[of], slots[of]),
                no_ops=np.zeros(self.horizon, bool),
                stages=np.zeros(self.horizon, np.int64),
            )
            for of in (slice(start, start + self.horizon) for start in range(0, rows, self.horizon))
        ]

    def score(self, policy: PolicyNetwork, episodes: int = 64) -> float:
        """Mean return of the policy."""
        return float(np.mean([each.rewards.sum() for each in self.play(policy, episodes)]))

    def _observations(self, episodes: int) -> NDArray[np.float32]:
        rows = episodes * self.horizon
        observations = self.random.normal(0, 0.3, (rows, LAYOUT.length(SLOTS))).astype(np.float32)
        observations[:, 0] = np.tile(1 - np.arange(self.horizon) / self.horizon, episodes)
        for slot in range(SLOTS):
            observations[:, LAYOUT.length(slot)] = slot - 1.0
        return observations


class RememberingWorld(World):
    """Shows, in the second global feature, what the first decision was: 1 where it was ``wanted``.

    So that a value can be learned from the value of the step after.
    """

    def __init__(self, horizon: int, wanted: tuple[int, int]) -> None:
        super().__init__(horizon, self._pays_at_the_end)
        self.wanted = wanted

    def play(self, policy: PolicyNetwork, episodes: int) -> list[Trajectory]:
        """Episodes that the network's policy decides, step by step."""
        observations = self._observations(episodes).reshape(episodes, self.horizon, -1)
        decided: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        for step in range(self.horizon):
            if step:
                types, slots, _ = decided[0]
                done = (types == self.wanted[0]) & (slots == self.wanted[1])
                observations[:, step, 1] = done.astype(np.float32)
            decided.append(self._decided(policy, observations[:, step]))
        parts = [np.stack([each[part] for each in decided], 1).reshape(-1) for part in range(3)]
        rows = observations.reshape(episodes * self.horizon, -1)
        return self._trajectories(rows, *parts)

    def _pays_at_the_end(
        self, types: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        rewards = np.zeros(len(types))
        rewards[-1] = float((types[0], slots[0]) == self.wanted)
        return rewards


def draw(
    distribution: Distribution, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Types and slots drawn from a distribution; slot -1 on WAIT."""
    types = _draw(distribution.type_log_probs.numpy(), random)
    of_slots = distribution.slot_log_probs.numpy()[np.arange(len(types)), types]
    return types, np.where(types == WAIT, NO_SLOT, _draw(of_slots, random))


def _draw(log_probs: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.int64]:
    cumulative = np.exp(log_probs.astype(np.float64)).cumsum(-1)
    drawn = random.random((len(log_probs), 1)) * cumulative[:, -1:]
    found: NDArray[np.int64] = (drawn >= cumulative).sum(-1)
    return found


def learn(
    world: World,
    recipe: PpoRecipe,
    updates: int,
    episodes: int,
    name: str = "slot-shared",
    lag: int = 0,
) -> Ppo:
    """Learn from so many batches of so many episodes, played by a network so many updates old."""
    ppo = Ppo(network(name), recipe, updates)
    batches: list[Sequence[Trajectory]] = []
    versions = [copy.deepcopy(ppo.network)]
    for number in range(1, updates + 1):
        fresh = world.play(versions[max(0, len(versions) - 1 - lag)], episodes)
        ppo.update(fresh, batches[-ppo.batches :], number)
        batches.append(fresh)
        versions = [*versions[-lag - 1 :], copy.deepcopy(ppo.network)]
    return ppo


def pays_for(action: int, slot: int) -> Reward:
    """A reward of 1 for one decision."""

    def reward(types: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float64]:
        paid: NDArray[np.float64] = ((types == action) & (slots == slot)).astype(np.float64)
        return paid

    return reward
