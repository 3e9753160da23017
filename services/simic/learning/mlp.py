"""The seed's own two-headed perceptron, for one number of slots."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from simic.learning.distribution import WAIT, Distribution
from simic.learning.network import Layout, PolicyNetwork, normalised, statistics
from simic.policies.artifact import ACTION_TYPES

HIDDEN_1 = 128
HIDDEN_2 = 64


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


class MlpNetwork(PolicyNetwork):
    """observation → 128 → 64 → {4 types, slots}, and a value network with a body of its own.

    The slot is independent of the type, as in the seed's design.
    """

    name = "mlp"
    policy: _Policy
    value: _Value

    def __init__(self, layout: Layout, slots: int, seed: int = 0) -> None:
        """Build a network whose policy is all but uniform.

        Args:
            layout: of the observations.
            slots: slots to choose from.
            seed: of the initial weights.
        """
        super().__init__()
        self.slots = slots
        self.layout = layout
        seen = layout.seen()
        of_all, of_slot = seen[: layout.global_features], seen[layout.global_features :]
        self._register_normalisation(torch.cat([of_all, of_slot.repeat(slots)]))
        length = layout.length(slots)
        self.policy = _Policy(length, slots)
        self.value = _Value(length)
        self.feasible = None
        gains = {"policy.type_head": 0.01, "policy.slot_head": 0.01, "value.head": 1.0}
        self._initialise(gains, seed)

    def distribution(self, observations: Tensor, slots: Tensor | None = None) -> Distribution:
        """The policy, for observations of shape (batch, length)."""
        type_logits, slot_logits = self._logits(observations)
        return Distribution(
            type_log_probs=torch.log_softmax(type_logits, -1),
            slot_log_probs=torch.log_softmax(slot_logits, -1),
        )

    def action_logits(self, observations: Tensor, slots: Tensor | None = None) -> Tensor:
        """Unnormalised log-probabilities of WAIT, then of each acting type at each slot."""
        type_logits, slot_logits = self._logits(observations)
        # A WAIT has no slot: it must not gain or lose by how large the slots' logits happen to be.
        of_slots = torch.log_softmax(slot_logits, -1)
        act = type_logits[:, WAIT + 1 :, None] + of_slots[:, WAIT + 1 :]
        return torch.cat([type_logits[:, :1], act.flatten(1)], -1)

    def values(self, observations: Tensor, slots: Tensor | None = None) -> Tensor:
        """The expected return from each observation on, (batch,), in units of the reward."""
        features: Tensor = self.value(self._normalise(observations))
        column: Tensor = self.value.head(features)
        return column.squeeze(-1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the artifact computes: type logits, slot logits by type, values."""
        return (*self._logits(observations), self.values(observations))

    def take_statistics(self, observations: Tensor, slots: Tensor) -> None:
        """Take mean and scale: one of each for each number of the observation."""
        mean, scale = statistics(observations)
        self.observation_mean.copy_(mean)
        self.observation_scale.copy_(scale)

    def _logits(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        features = self.policy(self._normalise(observations))
        slot_logits = self.policy.slot_head(features).unsqueeze(1)
        return self.policy.type_head(features), slot_logits.expand(-1, ACTION_TYPES, -1)

    def _normalise(self, observations: Tensor) -> Tensor:
        return normalised(
            observations, self.observation_mean, self.observation_scale, self.observation_seen
        )
