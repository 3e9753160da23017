"""The steps of all episodes of a batch as tensors, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simic.learning.network import PolicyNetwork
from simic.learning.rollout import Trajectory


@dataclass(frozen=True)
class Steps:
    """N steps of episodes.

    Attributes:
        observations: (N, length); those of fewer slots than the most are padded with zeros.
        slots_seen: number of slots in each, (N,).
        action_types, slots: what was decided, (N,); slot -1 where none was named.
        behaviour_log_probs: of the decision, under the policy that took it, (N,), nats.
        by_policy: whether the step counts for the policy, (N,).
        chosen: whether somebody chose the decision, (N,).
        no_ops: whether the decision came to nothing, (N,).
        lengths: steps of each episode.
        rewards: of each episode, in units of the reward.
    """

    observations: Tensor
    slots_seen: Tensor
    action_types: Tensor
    slots: Tensor
    behaviour_log_probs: Tensor
    by_policy: Tensor
    chosen: Tensor
    no_ops: Tensor
    lengths: Sequence[int]
    rewards: Sequence[NDArray[np.float64]]

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Steps:
        """The steps of these episodes."""
        longest = max(each.observations.shape[1] for each in trajectories)
        counts = [np.full(len(each), each.slots_seen) for each in trajectories]
        return cls(
            observations=_rows([_padded(each.observations, longest) for each in trajectories]),
            slots_seen=_rows(counts),
            action_types=_rows([each.action_types for each in trajectories]),
            slots=_rows([each.slots for each in trajectories]),
            behaviour_log_probs=_rows([each.behaviour_log_probs for each in trajectories]),
            by_policy=_rows([each.by_policy for each in trajectories]),
            chosen=_rows([each.chosen for each in trajectories]),
            no_ops=_rows([each.no_ops for each in trajectories]),
            lengths=[len(each) for each in trajectories],
            rewards=[each.rewards for each in trajectories],
        )

    def __len__(self) -> int:
        return len(self.action_types)

    @torch.no_grad()
    def values(self, network: PolicyNetwork) -> NDArray[np.float64]:
        """What the network thinks that each step is worth, (N,), in units of the reward."""
        values: NDArray[np.float64] = (
            network.values(self.observations, self.slots_seen).double().numpy()
        )
        return values

    def advantages(
        self, values: NDArray[np.float64], discount: float, trace_decay: float
    ) -> NDArray[np.float64]:
        """Generalised advantage estimates of all episodes, (N,)."""
        by_episode = np.split(values, np.cumsum(self.lengths)[:-1])
        return np.concatenate(
            [
                advantages_of(rewards, own, discount, trace_decay)
                for rewards, own in zip(self.rewards, by_episode, strict=True)
            ]
        )


def advantages_of(
    rewards: NDArray[np.float64], values: NDArray[np.float64], discount: float, trace_decay: float
) -> NDArray[np.float64]:
    """Generalised advantage estimates of one episode (Schulman et al. 2016), (T,).

    The value behind the last step is 0: the episode is over at its horizon, and the observation
    holds how far that is.
    """
    following = np.append(values[1:], 0.0)
    errors = rewards + discount * following - values
    advantages = np.zeros_like(errors)
    advantage = 0.0
    for step in reversed(range(len(errors))):
        advantage = errors[step] + discount * trace_decay * advantage
        advantages[step] = advantage
    return advantages


def _padded(observations: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    missing = length - observations.shape[1]
    return np.pad(observations, ((0, 0), (0, missing))) if missing else observations


def _rows(parts: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))
