"""Learning on the growth simulator in one process, for tests and for trying recipes.

The same trainers, observations, networks and algorithms as in the services, without the services:
what is left out is the wire, the store and the versions' artifacts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kasmina.network.slot import Action
from kasmina.runs.observation import snapshot_message
from kasmina.simulator.oracle import oracle_return
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.situation import SimulationSeeds, Situation
from kasmina.simulator.trainer import SimulatedTrainer
from leyline.observation import Vectorizer, spec_by_name
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, Stage, StepId
from simic.learning import algorithms, networks
from simic.learning.distribution import WAIT, Distribution
from simic.learning.network import PolicyNetwork
from simic.learning.plan import fill
from simic.learning.reward import POINTS_A_UNIT
from simic.learning.rollout import NO_SLOT, Trajectory
from simic.learning.update import Update

ACTIONS = (Action.WAIT, Action.GERMINATE, Action.ADVANCE, Action.CULL)

Tell = Callable[[Sequence[Trajectory]], Sequence[Trajectory]]
"""From a batch's episodes as they were to what the learner is told of them."""


@dataclass(frozen=True)
class Played:
    """An episode that was played: what a learner gets, and how good it was."""

    trajectory: Trajectory
    score: float | None


class Simulation:
    """Plays episodes of a family for a network."""

    def __init__(self, parameters: Parameters, observation_spec: str = "extended") -> None:
        self._parameters = parameters
        self._vectorizer = Vectorizer(spec_by_name(observation_spec))

    @torch.no_grad()
    def play(
        self,
        network: PolicyNetwork,
        episodes: Sequence[SimulationSeeds],
        random: np.random.Generator | None,
        age: int = 0,
    ) -> list[Played]:
        """Play episodes side by side, one forward pass for all at each step.

        Args:
            network: decides.
            episodes: seeds of each.
            random: draws the actions; None: the most probable ones.
            age: updates between the network and the newest one.
        """
        playing = [_Playing(self._parameters, seeds) for seeds in episodes]
        for _step in range(self._parameters.episode.horizon):
            observations = self._vectorizer.batch([each.look() for each in playing])
            distribution = network.distribution(torch.from_numpy(observations))
            types, slots = choose(distribution, random)
            taken = distribution.log_prob(torch.from_numpy(types), torch.from_numpy(slots))
            rows = zip(playing, observations, types, slots, taken.tolist(), strict=True)
            for each, observation, action_type, slot, log_prob in rows:
                each.act(observation, int(action_type), int(slot), log_prob)
        return [each.played(age) for each in playing]


class _Playing:
    """One episode while it is played."""

    def __init__(self, parameters: Parameters, seeds: SimulationSeeds) -> None:
        self._parameters = parameters
        self._seeds = seeds
        self._trainer = SimulatedTrainer(parameters, seeds)
        self._observations: list[NDArray[np.float32]] = []
        self._steps: list[tuple[int, int, float, bool, int]] = []
        self._accuracies: list[float] = []

    def look(self) -> MultiSlotSnapshot:
        """What the policy sees now."""
        self._snapshot = self._trainer.snapshot()
        self._accuracies.append(100 * (self._snapshot.val_accuracy or 0.0))
        step_id = StepId(run_id="simulated", episode_index=0, step=len(self._steps))
        return snapshot_message(step_id, self._snapshot)

    def act(
        self, observation: NDArray[np.float32], action_type: int, slot: int, log_prob: float
    ) -> None:
        """Carry a decision out, and train an interval."""
        named = self._snapshot.slots[slot] if action_type != WAIT else None
        outcome = self._trainer.apply(
            ACTIONS[action_type], None if named is None else named.slot_id
        )
        stage = 0 if named is None else Stage.Value(f"STAGE_{named.stage.name}")
        self._observations.append(observation)
        self._steps.append((action_type, slot, log_prob, not outcome.executed, stage))
        self._trainer.train_interval()

    def played(self, age: int) -> Played:
        """The episode, which has ended."""
        self.look()
        types, slots, log_probs, no_ops, stages = zip(*self._steps, strict=True)
        trajectory = Trajectory(
            observations=np.stack(self._observations),
            slots_seen=len(self._snapshot.slots),
            action_types=np.array(types),
            slots=np.array(slots),
            behaviour_log_probs=np.array(log_probs),
            by_policy=np.ones(len(types), bool),
            chosen=np.ones(len(types), bool),
            rewards=np.diff(self._accuracies) / POINTS_A_UNIT,
            no_ops=np.array(no_ops),
            stages=np.array(stages),
            age=age,
        )
        return Played(trajectory, self._score())

    def _score(self) -> float | None:
        bound = oracle_return(self._parameters, self._seeds)
        if bound <= 0:
            return None
        horizon = self._parameters.episode.horizon
        waiting = Situation.draw(self._parameters, self._seeds.situation).host_accuracy(horizon)
        return (self._trainer.true_accuracy - waiting) / bound


def choose(
    distribution: Distribution, random: np.random.Generator | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Types and slots, drawn or the most probable; slot -1 on WAIT."""
    of_type = distribution.type_log_probs.double().numpy()
    of_slot = distribution.slot_log_probs.double().numpy()
    joint = (of_type[:, 1:, None] + of_slot[:, 1:]).reshape(len(of_type), -1)
    log_probs = np.concatenate([of_type[:, :1], joint], 1)
    if random is None:
        drawn = log_probs.argmax(1)
    else:
        cumulative = np.exp(log_probs).cumsum(1)
        drawn = (random.random((len(joint), 1)) * cumulative[:, -1:] >= cumulative).sum(1)
    slots = of_slot.shape[2]
    acts = drawn > 0
    return (
        np.where(acts, 1 + (drawn - 1) // slots, WAIT),
        np.where(acts, (drawn - 1) % slots, NO_SLOT),
    )


def as_it_was(batch: Sequence[Trajectory]) -> Sequence[Trajectory]:
    """The truth."""
    return batch


@dataclass(frozen=True)
class Learned:
    """A training that is through.

    Attributes:
        network: after the last update.
        updates: what each did.
        scores: mean score of the episodes of each batch.
    """

    network: PolicyNetwork
    updates: Sequence[Update]
    scores: Sequence[float]


def learn(
    parameters: Parameters,
    plan: TrainingPlan,
    episodes: int,
    *,
    lag: int = 0,
    tell: Tell = as_it_was,
) -> Learned:
    """Train a policy from scratch on so many episodes of a family.

    Args:
        parameters: of the family.
        plan: what to learn and how; its seed is that of the episodes, too.
        episodes: of the whole training.
        lag: updates by which the network that plays is behind the newest one.
        tell: what the learner is told of the episodes.
    """
    torch.set_num_threads(1)
    filled = fill(plan)
    updates = episodes // filled.episodes_per_update
    filled.max_updates = updates
    network = networks.build(filled)
    algorithm = algorithms.build(filled, network)
    simulation = Simulation(parameters, filled.observation_spec)
    random = np.random.default_rng(filled.seed)
    versions = [copy.deepcopy(network)]
    batches: list[Sequence[Trajectory]] = []
    done: list[Update] = []
    scores: list[float] = []
    for number in range(1, updates + 1):
        first = (number - 1) * filled.episodes_per_update
        seeds = [
            SimulationSeeds.of_episode(1000 + filled.seed, first + place)
            for place in range(filled.episodes_per_update)
        ]
        played = simulation.play(versions[max(0, len(versions) - 1 - lag)], seeds, random)
        fresh = tell([each.trajectory for each in played])
        done.append(algorithm.update(fresh, batches[-algorithm.batches :], number, filled.seed))
        batches.append(fresh)
        versions = [*versions[-lag - 1 :], copy.deepcopy(network)]
        scores.append(mean_score(played))
    return Learned(network, done, scores)


def evaluate(
    network: PolicyNetwork,
    parameters: Parameters,
    episodes: int,
    *,
    greedy: bool = True,
    observation_spec: str = "extended",
) -> float:
    """Mean score of a network on episodes that no training sees."""
    seeds = [SimulationSeeds.of_episode(99, index) for index in range(episodes)]
    random = None if greedy else np.random.default_rng(5)
    return mean_score(Simulation(parameters, observation_spec).play(network, seeds, random))


def mean_score(played: Sequence[Played]) -> float:
    """Mean score of the episodes in which there is something to gain."""
    return float(np.mean([each.score for each in played if each.score is not None]))
