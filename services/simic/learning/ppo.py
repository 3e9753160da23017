"""Proximal policy optimisation (Schulman et al. 2017), with replay of recent batches.

Replayed steps were decided by policies that are several updates old. The proximal policy, which
the update must not leave, is therefore decoupled from the behaviour policy, which decided (Hilton
et al. 2022): the ratio is clipped against the policy as it stands when the update begins, and a
step weighs min(proximal / behaviour, 2). With a fresh batch of the current version the first ratio
is one, and the weight as near to one as what the update has learned before of which actions are
possible leaves it.

The value network learns apart from the policy, from more batches and by fewer gradient steps: many
passes over a small batch make it learn that batch's chance by heart, and the advantages of what is
replayed would vanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simic.learning.batch import Steps
from simic.learning.descent import POLICY, Descent, between, generator_of, last
from simic.learning.diagnostics import of_batch
from simic.learning.distribution import Distribution
from simic.learning.network import PolicyNetwork
from simic.learning.recipes import PpoRecipe
from simic.learning.rollout import Trajectory, explained_variance
from simic.learning.update import Update


@dataclass(frozen=True)
class Lesson:
    """What the policy's gradient is computed from: N steps.

    Attributes:
        steps: the episodes'.
        weights: min(proximal / behaviour, cap) of each decision, (N,).
        proximal: the policy when the update began.
        proximal_log_probs: log-probability of each decision under it, (N,), nats.
        advantages: normalised over the steps that count for the policy, (N,).
    """

    steps: Steps
    weights: Tensor
    proximal: Distribution
    proximal_log_probs: Tensor
    advantages: Tensor


class Ppo:
    """The learner: a network, its optimisers, and how they change with a batch of episodes."""

    def __init__(self, network: PolicyNetwork, recipe: PpoRecipe, updates_planned: int = 0) -> None:
        """Learn with ``recipe``; rates fall over ``updates_planned``, or over its own number."""
        self.network = network
        self.recipe = recipe
        self.batches = recipe.batches
        self._descent = Descent(network, recipe, updates_planned)
        self.optimizers = self._descent.optimizers

    def update(
        self,
        fresh: Sequence[Trajectory],
        earlier: Sequence[Sequence[Trajectory]],
        number: int,
        seed: int = 0,
    ) -> Update:
        """Learn from a fresh batch and from earlier ones.

        Args:
            fresh: episodes that were not learned from yet.
            earlier: the batches before, oldest first.
            number: of this update, from 1.
            seed: of the training; with ``number`` it seeds the order of the steps.
        """
        recipe = self.recipe
        steps = Steps.of([*last(earlier, recipe.replayed_batches), *fresh])
        progress = self._descent.begin(number, steps)
        generator = generator_of(seed, number)
        possible = self._descent.learn_feasibility(steps, generator)
        lesson, explained = self.prepare(steps, sum(len(each) for each in fresh))
        bonus = between(recipe.entropy_bonus, recipe.final_entropy_bonus, progress)
        gradient_steps, of_policy = self._learn_policy(lesson, bonus, generator)
        kept = Steps.of([*last(earlier, recipe.value_batches), *fresh])
        value_loss = self._descent.learn_values(kept, self._returns(kept), generator)
        return Update(
            gradient_steps=gradient_steps,
            mean_return=float(np.mean([each.rewards.sum() for each in fresh])),
            diagnostics={
                **of_policy,
                **possible,
                **of_batch(fresh),
                "value_loss": value_loss,
                "explained_variance": explained,
                "gradient_steps": float(gradient_steps),
            },
        )

    @torch.no_grad()
    def prepare(self, steps: Steps, fresh: int) -> tuple[Lesson, float]:
        """The lesson in ``steps``; and the explained variance of the last ``fresh`` of them."""
        proximal = self.network.distribution(steps.observations, steps.slots_seen)
        proximal_log_probs = proximal.log_prob(steps.action_types, steps.slots)
        weights = (proximal_log_probs.double() - steps.behaviour_log_probs).exp().float()
        values = steps.values(self.network)
        advantages = steps.advantages(values, self.recipe.discount, self.recipe.trace_decay)
        lesson = Lesson(
            steps=steps,
            weights=weights.clamp(max=self.recipe.weight_cap),
            proximal=proximal,
            proximal_log_probs=proximal_log_probs,
            advantages=_normalise(torch.from_numpy(advantages).float(), steps.by_policy),
        )
        new = slice(len(steps) - fresh, None)
        return lesson, explained_variance(values[new], (advantages + values)[new])

    def _learn_policy(
        self, lesson: Lesson, entropy_bonus: float, generator: torch.Generator
    ) -> tuple[int, dict[str, float]]:
        """Improve the policy until it is too far from where it began; steps and diagnostics."""
        taken: list[dict[str, float]] = []
        divergence = 0.0
        for _epoch in range(self.recipe.epochs):
            order = torch.randperm(len(lesson.steps), generator=generator)
            for rows in order.chunk(self.recipe.minibatches):
                taken.append(self._policy_step(lesson, rows, entropy_bonus))
            divergence = self._divergence(lesson)
            if divergence > self.recipe.kl_stop:
                break
        means = {name: float(np.mean([step[name] for step in taken])) for name in taken[0]}
        return len(taken), {**means, "kl": divergence}

    def _policy_step(self, lesson: Lesson, rows: Tensor, entropy_bonus: float) -> dict[str, float]:
        """One gradient step on a minibatch of rows."""
        clip, steps = self.recipe.clip, lesson.steps
        distribution = self.network.distribution(steps.observations[rows], steps.slots_seen[rows])
        log_probs = distribution.log_prob(steps.action_types[rows], steps.slots[rows])
        ratio = (log_probs - lesson.proximal_log_probs[rows]).exp()
        advantages = lesson.advantages[rows]
        clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
        gain = lesson.weights[rows] * torch.minimum(ratio * advantages, clipped)

        # Steps that no policy decided are left out of everything that moves the policy.
        counts = steps.by_policy[rows].float()
        total = counts.sum().clamp(min=1)
        policy_loss = -(gain * counts).sum() / total
        of_type = (distribution.type_entropy() * counts).sum() / total
        of_slot = (distribution.slot_entropy() * counts).sum() / total
        loss = policy_loss - entropy_bonus * (of_type + of_slot)
        self._descent.descend(POLICY, loss)

        outside = ((ratio - 1).abs() > clip).float()
        return {
            "policy_loss": policy_loss.item(),
            "entropy": (of_type + of_slot).item(),
            "entropy_type": of_type.item(),
            "entropy_slot": of_slot.item(),
            "clip_fraction": ((outside * counts).sum() / total).item(),
        }

    def _returns(self, steps: Steps) -> Tensor:
        """The returns of ``steps`` as the value network estimates them now, (N,)."""
        values = steps.values(self.network)
        advantages = steps.advantages(values, self.recipe.discount, self.recipe.trace_decay)
        return torch.from_numpy(advantages + values).float()

    @torch.no_grad()
    def _divergence(self, lesson: Lesson) -> float:
        """KL of the proximal policy from the current one, mean over the policy's steps, nats.

        Exact, because both distributions are at hand: an estimate from the sampled decisions
        would be noisier than the bound that it is compared with.
        """
        steps = lesson.steps
        if not steps.by_policy.any():
            return 0.0
        current = self.network.distribution(steps.observations, steps.slots_seen)
        return current.divergence_from(lesson.proximal)[steps.by_policy].mean().item()


def _normalise(advantages: Tensor, by_policy: Tensor) -> Tensor:
    counted = advantages[by_policy]
    if len(counted) < 2:
        return torch.zeros_like(advantages)
    return (advantages - counted.mean()) / (counted.std() + 1e-8)
