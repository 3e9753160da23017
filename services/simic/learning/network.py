"""What every policy network is to a learner, and the layout of the observations that it gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leyline.v1.observation_pb2 import ObservationSpec
from simic.learning.distribution import Distribution
from simic.policies.artifact import OBSERVATION_BOUND

SMALLEST_SCALE = 0.1
"""A feature that hardly varied in the first batch is not magnified more than tenfold."""

CLOCK = ("time_left",)
"""Fields of a snapshot that say how much time is left."""

Weights = Mapping[str, NDArray[np.float32]]
Network = TypeVar("Network", bound="PolicyNetwork")


@dataclass(frozen=True)
class Layout:
    """How an observation is laid out: the global features, then each slot's.

    Attributes:
        global_features: how many.
        slot_features: how many a slot.
        masked: places in the template, global features first, of what a network must not see.
        clock: places of the global features that say how much time is left.
    """

    global_features: int
    slot_features: int
    masked: frozenset[int] = frozenset()
    clock: tuple[int, ...] = ()

    @classmethod
    def of(cls, spec: ObservationSpec, masked: Iterable[str] = ()) -> Layout:
        """The layout of a spec's observations, without the features of these names."""
        names = [feature.name for feature in (*spec.global_features, *spec.slot_features)]
        return cls(
            len(spec.global_features),
            len(spec.slot_features),
            frozenset(names.index(name) for name in masked),
            tuple(
                place
                for place, feature in enumerate(spec.global_features)
                if feature.field in CLOCK
            ),
        )

    def length(self, slots: int) -> int:
        """Numbers in an observation of so many slots."""
        return self.global_features + slots * self.slot_features

    def slots(self, length: int) -> int:
        """The number of slots of an observation with so many numbers."""
        return (length - self.global_features) // self.slot_features

    def seen(self) -> Tensor:
        """1 for each feature of the template that may be seen and 0 for the others."""
        features = self.global_features + self.slot_features
        return torch.tensor([float(place not in self.masked) for place in range(features)])


class PolicyNetwork(nn.Module, ABC):
    """A policy and a value network, each with a body of its own.

    Two bodies, so that steps that only the value function may learn from (fallbacks) cannot move
    the policy. Observations are float32 (batch, length); where episodes of several numbers of slots
    are in one batch, shorter ones are padded at their end, and ``slots`` says how many are real.

    Attributes:
        name: of the network, in plans and manifests.
        slots: the number of slots that it decides for; 0: any.
        layout: of its observations.
        policy: everything that the policy's loss moves.
        value: everything that the value loss moves.
        feasible: what predicts whether an action would be carried out; None where nothing does.
    """

    name: ClassVar[str]
    slots: int
    layout: Layout
    policy: nn.Module
    value: nn.Module
    feasible: nn.Module | None
    observation_mean: Tensor
    observation_scale: Tensor
    observation_seen: Tensor

    @abstractmethod
    def distribution(self, observations: Tensor, slots: Tensor | None = None) -> Distribution:
        """The policy, for observations (batch, length) of so many slots (batch,); None: all."""

    @abstractmethod
    def values(self, observations: Tensor, slots: Tensor | None = None) -> Tensor:
        """The expected return from each observation on, (batch,), in units of the reward."""

    @abstractmethod
    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the artifact computes: type logits, slot logits by type, values."""

    @abstractmethod
    def action_logits(self, observations: Tensor, slots: Tensor | None = None) -> Tensor:
        """Unnormalised log-probabilities of WAIT, then of each acting type at each slot.

        The softmax of (batch, 1 + 3 * slots) is the distribution over whole decisions, type after
        type: GERMINATE at every slot, then ADVANCE, then CULL.
        """

    def feasibility(self, observations: Tensor) -> Tensor | None:
        """Logits of the probability that an action is carried out, (batch, 4, slots); or None."""
        return None

    def decay_context(self, share: float) -> None:
        """Shrink by a share what a decision about a slot owes to features that are not that slot's,
        where that can be told apart.
        """
        return None

    @abstractmethod
    def take_statistics(self, observations: Tensor, slots: Tensor) -> None:
        """Take mean and scale from ``observations`` of so many ``slots``, once and for all.

        They stay as they are from then on: statistics that moved with every batch would change
        what a served policy computes without a gradient step.
        """

    @property
    def is_normalised(self) -> bool:
        """Whether the statistics of observations have been taken."""
        return bool((self.observation_mean != 0).any() or (self.observation_scale != 1).any())

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Everything that it computes with, by name."""
        return {name: tensor.numpy().copy() for name, tensor in self.state_dict().items()}

    def load_weights(self: Network, weights: Weights) -> Network:
        """Itself, with what ``weights`` gave; what it does not know among them is left out.

        Raises:
            KeyError, RuntimeError: they are those of another network.
        """
        self.load_state_dict({name: torch.from_numpy(weights[name]) for name in self.state_dict()})
        return self

    def _register_normalisation(self, seen: Tensor) -> None:
        self.register_buffer("observation_mean", torch.zeros_like(seen))
        self.register_buffer("observation_scale", torch.ones_like(seen))
        self.register_buffer("observation_seen", seen)

    def _initialise(self, gains: Mapping[str, float], seed: int) -> None:
        """Orthogonal weights (Engstrom et al. 2020, Andrychowicz et al. 2021); no bias.

        A bias towards WAIT was measured to hurt.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gains.get(name, 2**0.5), generator=generator)
                nn.init.zeros_(module.bias)


def normalised(observations: Tensor, mean: Tensor, scale: Tensor, seen: Tensor) -> Tensor:
    """Observations as networks compute with them; what must not be seen is 0."""
    standard = (observations - mean) / scale
    return standard.clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND) * seen


def statistics(observations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each column."""
    scale = observations.std(0, correction=0).clamp(min=SMALLEST_SCALE)
    return observations.mean(0), scale
