"""The policy's network: the seed's two-headed perceptron, and a value network beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from simic.policies.artifact import ACTION_TYPES, OBSERVATION_BOUND

WAIT = 0
"""Index of WAIT among the type logits; the others follow the order of ActionType."""

HIDDEN_1 = 128
HIDDEN_2 = 64

SMALLEST_SCALE = 0.1
"""A feature that hardly varied in the first batch is not magnified more than tenfold."""


@dataclass(frozen=True)
class Distribution:
    """The policy's distribution over decisions, for a batch of observations.

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

    def entropy(self) -> Tensor:
        """Entropy of whole decisions, (batch,), nats."""
        of_type = -(self.type_log_probs.exp() * self.type_log_probs).sum(-1)
        of_slot = -(self.slot_log_probs.exp() * self.slot_log_probs).sum(-1)
        return of_type + self._over_acting_types(self.type_log_probs, of_slot)

    def divergence_from(self, other: Distribution) -> Tensor:
        """KL(other || self) over whole decisions, (batch,), nats."""
        of_type = (other.type_log_probs.exp() * (other.type_log_probs - self.type_log_probs)).sum(
            -1
        )
        of_slot = (other.slot_log_probs.exp() * (other.slot_log_probs - self.slot_log_probs)).sum(
            -1
        )
        return of_type + self._over_acting_types(other.type_log_probs, of_slot)

    @staticmethod
    def _over_acting_types(type_log_probs: Tensor, of_slot: Tensor) -> Tensor:
        return (type_log_probs.exp() * of_slot)[:, WAIT + 1 :].sum(-1)


class _Body(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.hidden_1 = nn.Linear(length, HIDDEN_1)
        self.hidden_2 = nn.Linear(HIDDEN_1, HIDDEN_2)

    def forward(self, observations: Tensor) -> Tensor:
        return functional.relu(self.hidden_2(functional.relu(self.hidden_1(observations))))


class _Policy(_Body):
    def __init__(self, length: int, slots: int) -> None:
        super().__init__(length)
        self.type_head = nn.Linear(HIDDEN_2, ACTION_TYPES)
        self.slot_head = nn.Linear(HIDDEN_2, slots)


class _Value(_Body):
    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.head = nn.Linear(HIDDEN_2, 1)


class MlpNetwork(nn.Module):
    """observation → 128 → 64 → {4 types, slots}, and a value network with a body of its own.

    The slot is independent of the type, as in the seed's design. Two bodies, so that steps that
    only the value function may learn from (fallbacks) cannot move the policy.
    """

    name = "mlp"
    observation_mean: Tensor
    observation_scale: Tensor

    def __init__(self, length: int, slots: int, seed: int = 0) -> None:
        """Build a network whose policy is all but uniform.

        Args:
            length: numbers in an observation.
            slots: slots to choose from.
            seed: of the initial weights.
        """
        super().__init__()
        self.length = length
        self.slots = slots
        self.register_buffer("observation_mean", torch.zeros(length))
        self.register_buffer("observation_scale", torch.ones(length))
        self.policy = _Policy(length, slots)
        self.value = _Value(length)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        # Orthogonal weights and a small gain at the policy's outputs: Engstrom et al. 2020,
        # Andrychowicz et al. 2021. No bias towards WAIT: it was measured to hurt.
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                small = name in ("policy.type_head", "policy.slot_head")
                gain = 0.01 if small else 1.0 if name == "value.head" else 2**0.5
                nn.init.orthogonal_(module.weight, gain, generator=generator)
                nn.init.zeros_(module.bias)

    def distribution(self, observations: Tensor) -> Distribution:
        """The policy, for observations of shape (batch, length)."""
        type_logits, slot_logits = self._logits(observations)
        return Distribution(
            type_log_probs=torch.log_softmax(type_logits, -1),
            slot_log_probs=torch.log_softmax(slot_logits, -1),
        )

    def values(self, observations: Tensor) -> Tensor:
        """The expected return from each observation on, (batch,), in units of the reward."""
        features: Tensor = self.value(self._normalise(observations))
        column: Tensor = self.value.head(features)
        return column.squeeze(-1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the artifact computes: type logits, slot logits by type, values."""
        return (*self._logits(observations), self.values(observations))

    def _logits(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        features = self.policy(self._normalise(observations))
        slot_logits = self.policy.slot_head(features).unsqueeze(1)
        return self.policy.type_head(features), slot_logits.expand(-1, ACTION_TYPES, -1)

    def _normalise(self, observations: Tensor) -> Tensor:
        normalised = (observations - self.observation_mean) / self.observation_scale
        return normalised.clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND)

    @property
    def is_normalised(self) -> bool:
        """Whether the statistics of observations have been taken."""
        return bool((self.observation_mean != 0).any() or (self.observation_scale != 1).any())

    def take_statistics(self, observations: Tensor) -> None:
        """Take mean and scale from ``observations`` (batch, length), once and for all.

        They stay as they are from then on: statistics that moved with every batch would change
        what a served policy computes without a gradient step.
        """
        scale = observations.std(0, correction=0).clamp(min=SMALLEST_SCALE)
        self.observation_mean.copy_(observations.mean(0))
        self.observation_scale.copy_(scale)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Everything that it computes with, by name."""
        return {name: tensor.numpy().copy() for name, tensor in self.state_dict().items()}

    @classmethod
    def from_weights(cls, weights: Mapping[str, NDArray[np.float32]]) -> MlpNetwork:
        """The network that ``weights`` was called on.

        Raises:
            KeyError, RuntimeError: they are those of another network.
        """
        length = len(weights["observation_mean"])
        network = cls(length, len(weights["policy.slot_head.bias"]))
        own = network.state_dict().keys()
        network.load_state_dict(
            {name: torch.from_numpy(weights[name]) for name in weights.keys() & own}
        )
        return network
