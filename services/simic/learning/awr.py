"""Advantage-weighted regression (Peng et al. 2019): imitate what went better than expected.

A step's weight is exp(advantage / temperature). Nothing asks who decided it or how likely that was,
so that a policy can be learned from a heuristic's experience, or from anybody's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from simic.learning.batch import Steps
from simic.learning.descent import POLICY, Descent, generator_of, last
from simic.learning.diagnostics import of_batch
from simic.learning.network import PolicyNetwork
from simic.learning.recipes import AwrRecipe
from simic.learning.rollout import Trajectory, explained_variance
from simic.learning.update import Update


class Awr:
    """The learner: a network, its optimisers, and how they change with a batch of episodes."""

    def __init__(self, network: PolicyNetwork, recipe: AwrRecipe, updates_planned: int = 0) -> None:
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
            seed: of the training; with ``number`` it seeds everything random.
        """
        recipe = self.recipe
        steps = Steps.of([*last(earlier, recipe.replayed_batches), *fresh])
        self._descent.begin(number, steps)
        generator = generator_of(seed, number)
        possible = self._descent.learn_feasibility(steps, generator)
        values = steps.values(self.network)
        advantages = steps.advantages(values, recipe.discount, recipe.trace_decay)
        returns = advantages + values
        explained = explained_variance(values, returns)
        targets = torch.from_numpy(returns).float()
        value_loss = self._descent.learn_values(steps, targets, generator)
        losses = self._imitate(steps, torch.from_numpy(advantages).float(), generator)
        with torch.no_grad():
            distribution = self.network.distribution(steps.observations, steps.slots_seen)
        return Update(
            gradient_steps=len(losses),
            mean_return=float(np.mean([each.rewards.sum() for each in fresh])),
            diagnostics={
                **possible,
                **of_batch(fresh),
                "policy_loss": float(np.mean(losses)) if losses else 0.0,
                "value_loss": value_loss,
                "explained_variance": explained,
                "entropy": distribution.entropy().mean().item(),
                "entropy_type": distribution.type_entropy().mean().item(),
                "entropy_slot": distribution.slot_entropy().mean().item(),
                "gradient_steps": float(len(losses)),
            },
        )

    def _imitate(self, steps: Steps, advantages: Tensor, generator: torch.Generator) -> list[float]:
        """Make what somebody chose more likely, the more the better it went; the losses."""
        rows = steps.chosen.nonzero().squeeze(-1)
        if len(rows) == 0:
            return []
        spread = advantages[rows].std(correction=0).clamp(min=1e-8)
        weights = (advantages / (self.recipe.temperature * spread)).exp()
        weights = weights.clamp(max=self.recipe.weight_cap)
        losses = []
        for _ in range(self.recipe.policy_steps):
            drawn = torch.randint(len(rows), (self.recipe.policy_rows,), generator=generator)
            taken = rows[drawn]
            distribution = self.network.distribution(
                steps.observations[taken], steps.slots_seen[taken]
            )
            log_probs = distribution.log_prob(steps.action_types[taken], steps.slots[taken])
            loss = -(weights[taken] * log_probs).mean()
            self._descent.descend(POLICY, loss)
            losses.append(loss.item())
        return losses
