"""Proximal policy optimisation (Schulman et al. 2017), with replay of recent batches.

Replayed steps were decided by policies that are several updates old. The proximal policy, which
the update must not leave, is therefore decoupled from the behaviour policy, which decided (Hilton
et al. 2022): the ratio is clipped against the policy as it stands when the update begins, and a
step weighs min(proximal / behaviour, 2). With a fresh batch of the current version both are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from simic.learning.network import WAIT, Distribution, MlpNetwork
from simic.learning.plan import Recipe
from simic.learning.rollout import Trajectory, explained_variance, mean_decision_share
from simic.learning.update import Update


@dataclass(frozen=True)
class Batch:
    """The steps of all episodes of an update, one after the other: N rows.

    Attributes:
        observations: (N, length).
        action_types, slots: what was decided, (N,).
        by_policy: whether the step counts for the policy, (N,).
        weights: min(proximal / behaviour, cap) of each decision, (N,).
        proximal: the policy when the update began.
        proximal_log_probs: log-probability of each decision under it, (N,), nats.
        advantages: normalised over the steps that count for the policy, (N,).
        returns: targets of the value function, (N,), in units of the reward.
    """

    observations: Tensor
    action_types: Tensor
    slots: Tensor
    by_policy: Tensor
    weights: Tensor
    proximal: Distribution
    proximal_log_probs: Tensor
    advantages: Tensor
    returns: Tensor


class Ppo:
    """The learner: a network, its optimiser, and how they change with a batch of episodes."""

    def __init__(self, network: MlpNetwork, recipe: Recipe, updates_planned: int = 0) -> None:
        """Learn with ``recipe``; rates fall over ``updates_planned``, or over its own number."""
        self.network = network
        self.recipe = recipe
        self._annealing_updates = updates_planned or recipe.annealing_updates
        # eps as in the original implementation (Huang et al. 2022, detail 3).
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=recipe.learning_rate[0], eps=1e-5, foreach=False
        )

    def update(
        self,
        fresh: Sequence[Trajectory],
        replayed: Sequence[Trajectory],
        number: int,
        seed: int = 0,
    ) -> Update:
        """Learn from a fresh batch and from earlier ones.

        Args:
            fresh: episodes that were not learned from yet.
            replayed: episodes of the batches before.
            number: of this update, from 1.
            seed: of the training; with ``number`` it seeds the order of the steps.
        """
        recipe = self.recipe
        if not self.network.is_normalised:
            # At the first batch: the policy is uniform to within a percent, and hardly notices.
            self.network.take_statistics(_rows([each.observations for each in fresh]))
        batch, values = self.prepare([*fresh, *replayed])
        new = slice(sum(len(each) for each in fresh))
        explained = explained_variance(values[new], batch.returns[new].double().numpy())
        progress = min(1.0, (number - 1) / max(1, self._annealing_updates - 1))
        for group in self.optimizer.param_groups:
            group["lr"] = _between(recipe.learning_rate, progress)
        entropy_bonus = _between(recipe.entropy_bonus, progress)
        generator = torch.Generator().manual_seed(_shuffling_seed(seed, number))

        steps: list[dict[str, float]] = []
        divergence = 0.0
        for _epoch in range(recipe.epochs):
            order = torch.randperm(len(batch.returns), generator=generator)
            for rows in order.chunk(recipe.minibatches):
                steps.append(self._step(batch, rows, entropy_bonus))
            divergence = self._divergence(batch)
            if divergence > recipe.kl_stop:
                break
        return Update(
            gradient_steps=len(steps),
            mean_return=float(np.mean([each.rewards.sum() for each in fresh])),
            diagnostics={
                **{name: float(np.mean([step[name] for step in steps])) for name in steps[0]},
                "kl": divergence,
                "explained_variance": explained,
                "wait_share": mean_decision_share(fresh, WAIT),
                "no_op_rate": float(np.mean(np.concatenate([each.no_ops for each in fresh]))),
                "gradient_steps": float(len(steps)),
            },
        )

    @torch.no_grad()
    def prepare(self, trajectories: Sequence[Trajectory]) -> tuple[Batch, NDArray[np.float64]]:
        """The rows to learn from, and the values that the network gives them now."""
        observations = _rows([each.observations for each in trajectories])
        action_types = _rows([each.action_types for each in trajectories])
        slots = _rows([each.slots for each in trajectories])
        by_policy = _rows([each.by_policy for each in trajectories])
        behaviour = _rows([each.behaviour_log_probs for each in trajectories])

        proximal = self.network.distribution(observations)
        proximal_log_probs = proximal.log_prob(action_types, slots)
        weights = (proximal_log_probs.double() - behaviour).exp().float()
        values = self.network.values(observations).double().numpy()

        lengths = [len(each) for each in trajectories]
        by_episode = np.split(values, np.cumsum(lengths)[:-1])
        advantages = np.concatenate(
            [
                advantages_of(each.rewards, own, self.recipe.discount, self.recipe.trace_decay)
                for each, own in zip(trajectories, by_episode, strict=True)
            ]
        )
        returns = advantages + values
        return (
            Batch(
                observations=observations,
                action_types=action_types,
                slots=slots,
                by_policy=by_policy,
                weights=weights.clamp(max=self.recipe.weight_cap),
                proximal=proximal,
                proximal_log_probs=proximal_log_probs,
                advantages=_normalise(torch.from_numpy(advantages).float(), by_policy),
                returns=torch.from_numpy(returns).float(),
            ),
            values,
        )

    def _step(self, batch: Batch, rows: Tensor, entropy_bonus: float) -> dict[str, float]:
        """One gradient step on a minibatch of rows."""
        recipe = self.recipe
        observations = batch.observations[rows]
        distribution = self.network.distribution(observations)
        log_probs = distribution.log_prob(batch.action_types[rows], batch.slots[rows])
        ratio = (log_probs - batch.proximal_log_probs[rows]).exp()
        clipped = ratio.clamp(1 - recipe.clip, 1 + recipe.clip)
        advantages = batch.advantages[rows]
        gain = batch.weights[rows] * torch.minimum(ratio * advantages, clipped * advantages)

        # Steps that no policy decided are left out of everything that moves the policy.
        counts = batch.by_policy[rows].float()
        total = counts.sum().clamp(min=1)
        policy_loss = -(gain * counts).sum() / total
        entropy = (distribution.entropy() * counts).sum() / total
        # Huber, so that one interval that went wrong does not drown the others.
        value_loss = functional.smooth_l1_loss(
            self.network.values(observations), batch.returns[rows]
        )
        loss = policy_loss - entropy_bonus * entropy + recipe.value_coefficient * value_loss

        self.optimizer.zero_grad()
        loss.backward()
        for part in (self.network.policy, self.network.value):
            clip_grad_norm_(part.parameters(), recipe.gradient_norm)
        self.optimizer.step()

        outside = ((ratio - 1).abs() > recipe.clip).float()
        return {
            "policy_loss": policy_loss.item(),
            "value_loss": value_loss.item(),
            "entropy": entropy.item(),
            "clip_fraction": ((outside * counts).sum() / total).item(),
        }

    @torch.no_grad()
    def _divergence(self, batch: Batch) -> float:
        """KL of the proximal policy from the current one, mean over the policy's steps, nats.

        Exact, because both distributions are at hand: an estimate from the sampled decisions
        would be noisier than the bound that it is compared with.
        """
        if not batch.by_policy.any():
            return 0.0
        current = self.network.distribution(batch.observations)
        return current.divergence_from(batch.proximal)[batch.by_policy].mean().item()


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


def _normalise(advantages: Tensor, by_policy: Tensor) -> Tensor:
    counted = advantages[by_policy]
    if len(counted) < 2:
        return torch.zeros_like(advantages)
    return (advantages - counted.mean()) / (counted.std() + 1e-8)


def _rows(parts: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _between(ends: tuple[float, float], progress: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * progress


def _shuffling_seed(seed: int, number: int) -> int:
    return int(
        np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
