"""A policy's distribution over decisions, for a batch of observations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WAIT = 0
"""Index of WAIT among the type logits; the others follow the order of ActionType."""


@dataclass(frozen=True)
class Distribution:
    """P(type) and P(slot | type): what the two heads of the contract say.

    Attributes:
        type_log_probs: log P(type), (batch, 4), nats.
        slot_log_probs: log P(slot | type), (batch, 4, slots), nats. Without meaning for WAIT.
    """

    type_log_probs: Tensor
    slot_log_probs: Tensor

    def log_prob(self, action_types: Tensor, slots: Tensor) -> Tensor:
        """Log-probability of whole decisions, (batch,); a WAIT has no slot and no term for it.

        Args:
            action_types: index of each type, (batch,).
            slots: position of each slot by depth, (batch,); any number on WAIT.
        """
        rows = torch.arange(len(action_types))
        of_slot = self.slot_log_probs[rows, action_types, slots.clamp(min=0)]
        zero = torch.zeros_like(of_slot)
        return self.type_log_probs[rows, action_types] + torch.where(
            action_types == WAIT, zero, of_slot
        )

    def type_entropy(self) -> Tensor:
        """Entropy of the type, (batch,), nats."""
        return -(self.type_log_probs.exp() * self.type_log_probs).sum(-1)

    def slot_entropy(self) -> Tensor:
        """What choosing the slot adds to the entropy of a decision, (batch,), nats."""
        of_slot = -(self.slot_log_probs.exp() * self.slot_log_probs).sum(-1)
        return _over_acting_types(self.type_log_probs, of_slot)

    def entropy(self) -> Tensor:
        """Entropy of whole decisions, (batch,), nats."""
        return self.type_entropy() + self.slot_entropy()

    def divergence_from(self, other: Distribution) -> Tensor:
        """KL(other || self) over whole decisions, (batch,), nats."""
        of_type = (other.type_log_probs.exp() * (other.type_log_probs - self.type_log_probs)).sum(
            -1
        )
        of_slot = (other.slot_log_probs.exp() * (other.slot_log_probs - self.slot_log_probs)).sum(
            -1
        )
        return of_type + _over_acting_types(other.type_log_probs, of_slot)


def _over_acting_types(type_log_probs: Tensor, of_slot: Tensor) -> Tensor:
    return (type_log_probs.exp() * of_slot)[:, WAIT + 1 :].sum(-1)
