"""Learning which actions are carried out: from wasted turns, apart from what the policy learns."""

from __future__ import annotations

import torch
from torch import optim
from torch.nn import functional

from simic.learning.batch import Steps
from simic.learning.network import PolicyNetwork

ROWS = 256
"""Steps of episodes in a gradient step."""


def learn_feasibility(
    network: PolicyNetwork,
    optimizer: optim.Optimizer,
    steps: Steps,
    gradient_steps: int,
    generator: torch.Generator,
) -> float:
    """Fit the feasibility head to which actions of a batch were carried out; its loss, nats.

    Steps that named no slot tell nothing about one. Logistic regression on the actions taken:
    whoever decided, and however long ago, the answer was the trainer's and holds.
    """
    named = (steps.slots >= 0).nonzero().squeeze(-1)
    if len(named) == 0:
        return 0.0
    losses = []
    for _ in range(gradient_steps):
        rows = named[torch.randint(len(named), (min(ROWS, len(named)),), generator=generator)]
        logits = network.feasibility(steps.observations[rows])
        assert logits is not None
        taken = logits[torch.arange(len(rows)), steps.action_types[rows], steps.slots[rows]]
        loss = functional.binary_cross_entropy_with_logits(taken, (~steps.no_ops[rows]).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses) if losses else 0.0
