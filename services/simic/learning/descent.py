"""Gradient descent on the parts of a policy network, each with an optimiser of its own.

Apart, because they learn from different steps: the policy from what a policy chose, the value
network from everything, the feasibility head from every action that named a slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from simic.learning.batch import Steps
from simic.learning.network import PolicyNetwork
from simic.learning.recipes import Recipe
from simic.learning.rollout import Trajectory

POLICY = "policy"
VALUE = "value"
FEASIBILITY = "feasibility"

FEASIBILITY_ROWS = 256
"""Steps of episodes in a gradient step of the feasibility head."""


class Descent:
    """A network's optimisers, and what every algorithm does with them."""

    def __init__(self, network: PolicyNetwork, recipe: Recipe, updates_planned: int) -> None:
        """Rates fall over ``updates_planned``, or where that is 0 over the recipe's own number."""
        self._network = network
        self._recipe = recipe
        self._annealing_updates = updates_planned or recipe.annealing_updates
        rate = recipe.learning_rate
        self._parts: dict[str, nn.Module] = {POLICY: network.policy, VALUE: network.value}
        self.optimizers: dict[str, optim.Optimizer] = {
            name: _adam(part, rate) for name, part in self._parts.items()
        }
        if network.feasible is not None:
            rate = recipe.feasibility_learning_rate
            self.optimizers[FEASIBILITY] = _adam(network.feasible, rate)

    def begin(self, number: int, steps: Steps) -> float:
        """Make ready for update ``number``; how far the annealing is then, in [0, 1].

        The first one takes the statistics of observations: the policy is as it was made until
        then, and hardly notices.
        """
        if not self._network.is_normalised:
            self._network.take_statistics(steps.observations, steps.slots_seen)
        recipe = self._recipe
        progress = min(1.0, (number - 1) / max(1, self._annealing_updates - 1))
        rate = between(recipe.learning_rate, recipe.final_learning_rate, progress)
        for name in self._parts:
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate
        return progress

    def descend(self, name: str, loss: Tensor) -> None:
        """One gradient step of the policy or the value network."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(self._parts[name].parameters(), self._recipe.gradient_norm)
        optimizer.step()
        # Steps that teach the policy nothing must not move it.
        if name == POLICY and norm > 0:
            rate = optimizer.param_groups[0]["lr"]
            self._network.decay_context(rate * self._recipe.context_decay)

    def learn_values(self, steps: Steps, targets: Tensor, generator: torch.Generator) -> float:
        """Fit the value network to ``targets`` (N,), in units of the reward; its mean loss."""
        losses = []
        for _ in range(self._recipe.value_steps):
            rows = torch.randint(len(steps), (self._recipe.value_rows,), generator=generator)
            predicted = self._network.values(steps.observations[rows], steps.slots_seen[rows])
            # Huber, so that one interval that went wrong does not drown the others.
            loss = functional.smooth_l1_loss(predicted, targets[rows])
            self.descend(VALUE, loss)
            losses.append(loss.item())
        return float(np.mean(losses)) if losses else 0.0

    def learn_feasibility(self, steps: Steps, generator: torch.Generator) -> dict[str, float]:
        """Fit the feasibility head to which actions were carried out; its diagnostics.

        Logistic regression on the actions taken: whoever decided, and however long ago, the answer
        was the trainer's, and holds. Steps that named no slot tell nothing about one.
        """
        named = (steps.slots >= 0).nonzero().squeeze(-1)
        if FEASIBILITY not in self.optimizers or len(named) == 0:
            return {}
        optimizer, losses = self.optimizers[FEASIBILITY], []
        size = min(FEASIBILITY_ROWS, len(named))
        for _ in range(self._recipe.feasibility_steps):
            rows = named[torch.randint(len(named), (size,), generator=generator)]
            logits = self._network.feasibility(steps.observations[rows])
            assert logits is not None
            taken = logits[torch.arange(size), steps.action_types[rows], steps.slots[rows]]
            loss = functional.binary_cross_entropy_with_logits(taken, (~steps.no_ops[rows]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return {"feasibility_loss": float(np.mean(losses))} if losses else {}


def generator_of(seed: int, number: int) -> torch.Generator:
    """Everything that is random in update ``number`` of a training with this seed."""
    drawn = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(drawn >> np.uint64(1)))


def last(batches: Sequence[Sequence[Trajectory]], count: int) -> list[Trajectory]:
    """The episodes of the last ``count`` batches, oldest first."""
    return [each for batch in batches[len(batches) - min(count, len(batches)) :] for each in batch]


def between(first: float, final: float, progress: float) -> float:
    """The number at ``progress`` of the way from the first to the final one."""
    return first + (final - first) * progress


def _adam(part: nn.Module, learning_rate: float) -> optim.Adam:
    # eps as in the original implementation of PPO (Huang et al. 2022, detail 3).
    return optim.Adam(part.parameters(), lr=learning_rate, eps=1e-5, foreach=False)
