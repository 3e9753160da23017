"""One update of PPO, beside the arithmetic of CleanRL's on the same batch, network and epochs.

The reference is written for this from the equations (Schulman et al. 2017, equations 7 and 9, with
the details of Huang et al. 2022): one loss for policy, value and entropy, one optimiser,
minibatches of all steps in random order, advantages normalised in each minibatch, a clipped value
loss.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from tests.benchmarks.report import Measurement
from tests.studies.simulated import Simulation
from torch import nn, optim

from kasmina.simulator.parameters import load_family
from kasmina.simulator.situation import SimulationSeeds
from leyline.v1.learner_pb2 import TrainingPlan
from simic.learning import networks
from simic.learning.batch import Steps
from simic.learning.network import PolicyNetwork
from simic.learning.plan import fill
from simic.learning.ppo import Ppo
from simic.learning.recipes import PpoRecipe, recipe_of
from simic.learning.rollout import Trajectory

VALUE_COEFFICIENT = 0.5


def updating(rounds: int) -> dict[str, Measurement]:
    """The row about updates, from so many pairs, each from the same beginning."""
    torch.set_num_threads(1)
    plan = fill(TrainingPlan(seed=1))
    recipe = recipe_of(plan)
    assert isinstance(recipe, PpoRecipe)
    # Neither stops before its last epoch.
    recipe = replace(recipe, kl_stop=float("inf"))
    network = networks.build(plan)
    batches = _batches(network, plan.observation_spec, recipe)
    ours, reference = [], []
    for _ in range(rounds):
        ours.append(_ours(copy.deepcopy(network), recipe, batches))
        reference.append(_reference(copy.deepcopy(network), recipe, batches))
    return {"update": Measurement(tuple(ours), tuple(reference))}


def _batches(network: PolicyNetwork, spec: str, recipe: PpoRecipe) -> list[list[Trajectory]]:
    """As many earlier batches as an update wants, and a fresh one."""
    simulation, random = Simulation(load_family("default"), spec), np.random.default_rng(0)
    batches = []
    for batch in range(recipe.batches + 1):
        first = batch * recipe.episodes_per_update
        seeds = [
            SimulationSeeds.of_episode(1, first + place)
            for place in range(recipe.episodes_per_update)
        ]
        batches.append([each.trajectory for each in simulation.play(network, seeds, random)])
    return batches


def _ours(
    network: PolicyNetwork, recipe: PpoRecipe, batches: Sequence[Sequence[Trajectory]]
) -> float:
    """Seconds of an update as the learner makes it: all that it learns from is at hand."""
    ppo = Ppo(network, recipe)
    started = time.perf_counter()
    ppo.update(batches[-1], batches[:-1], 1)
    return time.perf_counter() - started


def _reference(
    network: PolicyNetwork, recipe: PpoRecipe, batches: Sequence[Sequence[Trajectory]]
) -> float:
    """Seconds of the reference's update on the same steps as the policy's."""
    learned = [*(network.policy.parameters()), *(network.value.parameters())]
    optimizer = optim.Adam(learned, lr=recipe.learning_rate, eps=1e-5)
    started = time.perf_counter()
    replayed = batches[len(batches) - 1 - recipe.replayed_batches :]
    steps = Steps.of([each for batch in replayed for each in batch])
    values = steps.values(network)
    advantages = steps.advantages(values, recipe.discount, recipe.trace_decay)
    all_values = torch.from_numpy(values).float()
    all_advantages = torch.from_numpy(advantages).float()
    returns = all_advantages + all_values
    old = steps.behaviour_log_probs.float()
    for _epoch in range(recipe.epochs):
        for rows in torch.randperm(len(steps)).chunk(recipe.minibatches):
            observations, slots_seen = steps.observations[rows], steps.slots_seen[rows]
            distribution = network.distribution(observations, slots_seen)
            log_probs = distribution.log_prob(steps.action_types[rows], steps.slots[rows])
            ratio = (log_probs - old[rows]).exp()
            advantage = all_advantages[rows]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            clipped = ratio.clamp(1 - recipe.clip, 1 + recipe.clip)
            policy_loss = torch.max(-advantage * ratio, -advantage * clipped).mean()
            value = network.values(observations, slots_seen)
            near = all_values[rows] + (value - all_values[rows]).clamp(-recipe.clip, recipe.clip)
            wrong = torch.max((value - returns[rows]) ** 2, (near - returns[rows]) ** 2)
            entropy = distribution.entropy().mean()
            loss = policy_loss - recipe.entropy_bonus * entropy
            loss = loss + VALUE_COEFFICIENT * 0.5 * wrong.mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, recipe.gradient_norm)
            optimizer.step()
    return time.perf_counter() - started
