"""Double Q-learning with replay (van Hasselt et al. 2016), undiscounted over a finite horizon.

The policy's unnormalised log-probabilities, times a temperature, are the Q-values: the softmax that
an artifact serves explores by Boltzmann's distribution, and its most probable action is the best.
The target network is the network as it was a part of an update ago, so that nothing but the network
and its optimisers goes from one update to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from simic.learning.batch import Steps
from simic.learning.descent import POLICY, Descent, generator_of, last
from simic.learning.diagnostics import of_batch
from simic.learning.distribution import WAIT
from simic.learning.network import PolicyNetwork
from simic.learning.recipes import DdqnRecipe
from simic.learning.rollout import Trajectory, explained_variance
from simic.learning.update import Update


class Ddqn:
    """The learner: a network, its optimisers, and how they change with a batch of episodes."""

    def __init__(
        self, network: PolicyNetwork, recipe: DdqnRecipe, updates_planned: int = 0
    ) -> None:
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
        returns = steps.advantages(values, recipe.discount, recipe.trace_decay) + values
        loss = self._learn_q(steps, generator)
        best = self._q(self.network, steps, torch.arange(len(steps))).detach().max(-1).values
        value_loss = self._descent.learn_values(steps, best, generator)
        with torch.no_grad():
            distribution = self.network.distribution(steps.observations, steps.slots_seen)
        return Update(
            gradient_steps=recipe.policy_steps,
            mean_return=float(np.mean([each.rewards.sum() for each in fresh])),
            diagnostics={
                **possible,
                **of_batch(fresh),
                "policy_loss": loss,
                "value_loss": value_loss,
                "explained_variance": explained_variance(values, returns),
                "entropy": distribution.entropy().mean().item(),
                "entropy_type": distribution.type_entropy().mean().item(),
                "entropy_slot": distribution.slot_entropy().mean().item(),
                "gradient_steps": float(recipe.policy_steps),
            },
        )

    def _learn_q(self, steps: Steps, generator: torch.Generator) -> float:
        """Fit Q to the reward and what the target network says of the best action after it."""
        recipe = self.recipe
        rows = steps.chosen.nonzero().squeeze(-1)
        if len(rows) == 0:
            return 0.0
        rewards = torch.from_numpy(np.concatenate(steps.rewards)).float()
        goes_on = torch.ones(len(steps))
        goes_on[np.cumsum(steps.lengths) - 1] = 0
        most = (steps.observations.shape[1] - self.network.layout.global_features) // (
            self.network.layout.slot_features
        )
        taken = _place(steps.action_types, steps.slots, most)
        renew = max(1, recipe.policy_steps // recipe.targets)
        losses = []
        for step in range(recipe.policy_steps):
            if step % renew == 0:
                target = copy.deepcopy(self.network).requires_grad_(False)
            drawn = rows[torch.randint(len(rows), (recipe.policy_rows,), generator=generator)]
            following = (drawn + 1).clamp(max=len(steps) - 1)
            with torch.no_grad():
                choice = self._q(self.network, steps, following).argmax(-1, keepdim=True)
                ahead = self._q(target, steps, following).gather(-1, choice).squeeze(-1)
                wanted = rewards[drawn] + recipe.discount * goes_on[drawn] * ahead
            found = self._q(self.network, steps, drawn).gather(-1, taken[drawn, None]).squeeze(-1)
            loss = functional.smooth_l1_loss(found, wanted)
            self._descent.descend(POLICY, loss)
            losses.append(loss.item())
        return float(np.mean(losses))

    def _q(self, network: PolicyNetwork, steps: Steps, rows: Tensor) -> Tensor:
        """Q of WAIT and of each type at each slot, (rows, 1 + 3 * slots), units of the reward."""
        logits = network.action_logits(steps.observations[rows], steps.slots_seen[rows])
        return logits * self.recipe.temperature


def _place(action_types: Tensor, slots: Tensor, most: int) -> Tensor:
    """Where each decision stands among the action logits."""
    acting = 1 + (action_types - 1) * most + slots.clamp(min=0)
    return torch.where(action_types == WAIT, torch.zeros_like(acting), acting)
