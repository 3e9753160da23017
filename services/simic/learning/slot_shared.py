"""One encoder for all slots: a policy for any number of them.

Every slot is seen by the same weights, beside the global features and the mean over all slots, so
that permuting the slots permutes the decision (a DeepSets-like equivariant layer; Zaheer et al.
2017). One softmax runs over WAIT and every pair of type and slot; P(type) and P(slot | type) are
written out from it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from simic.learning.distribution import WAIT, Distribution
from simic.learning.network import Layout, PolicyNetwork, normalised, statistics
from simic.policies.artifact import ACTION_TYPES

HIDDEN = 64
ACTING_TYPES = ACTION_TYPES - 1
"""GERMINATE, ADVANCE, CULL: the types that need a slot."""

CULL = 2
"""Index of CULL among them."""

OUT_OF_REACH = -1e9
"""Logit of a slot that is not there."""

INITIAL_CULL = -1.5
"""Logit of CULL before anything is learned. As likely as ADVANCE, it would end seven seeds of eight
before they are fossilised, and nothing could be seen of what growing brings."""


class _Body(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.hidden_1 = nn.Linear(features, HIDDEN)
        self.hidden_2 = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(self.hidden_2(torch.tanh(self.hidden_1(features))))


class _Policy(_Body):
    """Features of each slot (batch, slots, hidden), given the context and the slots."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.global_features + 2 * layout.slot_features)
        self.act = nn.Linear(HIDDEN, ACTING_TYPES)
        self.wait = nn.Linear(HIDDEN, 1)


class _ValueOf(_Body):
    """What is to be expected of one thing."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, features: Tensor) -> Tensor:
        column: Tensor = self.head(super().forward(features))
        return column.squeeze(-1)


class _Value(nn.Module):
    """What the network as a whole will yet gain, and each slot besides.

    A sum, because that is what a network's accuracy nearly is of what its seeds add to it. That a
    slot's part sees no more than the slot and the time is what makes it learnable from few
    episodes.

    Attributes:
        clock: 1 for the global features that say how much time is left, and 0 for the others.
    """

    clock: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.of_all = _ValueOf(layout.global_features)
        self.of_slot = _ValueOf(layout.global_features + layout.slot_features)
        clock = torch.zeros(layout.global_features)
        clock[list(layout.clock)] = 1
        self.register_buffer("clock", clock)

    def forward(self, of_all: Tensor, of_slots: Tensor, present: Tensor) -> Tensor:
        time = _for_each(of_all * self.clock, of_slots.shape[1])
        of_each = self.of_slot(torch.cat([time, of_slots], -1))
        total: Tensor = self.of_all(of_all) + (of_each * present.squeeze(-1)).sum(1)
        return total


class _Feasibility(nn.Module):
    """Whether an action at a slot would be carried out, from what is seen of the slot alone."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.hidden = nn.Linear(layout.slot_features, HIDDEN)
        self.head = nn.Linear(HIDDEN, ACTING_TYPES)

    def forward(self, of_slots: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.hidden(of_slots)))
        return logits


class SlotSharedNetwork(PolicyNetwork):
    """[global, mean of slots, slot] → 64 → 64 for every slot, and a learned feasibility head.

    The head predicts from wasted turns whether an action would be a no-op. Its log-sigmoid is
    added to the logits: no hard mask, no penalty. Nothing but its own loss moves it.
    The value is a sum over the network as a whole and its slots.
    """

    name = "slot-shared"
    policy: _Policy
    value: _Value
    feasible: _Feasibility

    def __init__(self, layout: Layout, seed: int = 0) -> None:
        """Build a network whose policy does anything, and culls more rarely than the rest.

        Args:
            layout: of the observations.
            seed: of the initial weights.
        """
        super().__init__()
        self.slots = 0
        self.layout = layout
        self._register_normalisation(layout.seen())
        self.policy = _Policy(layout)
        self.value = _Value(layout)
        self.feasible = _Feasibility(layout)
        values = dict.fromkeys(("value.of_all.head", "value.of_slot.head"), 1.0)
        policies = dict.fromkeys(("policy.act", "policy.wait", "feasible.head"), 0.01)
        self._initialise(values | policies, seed)
        decayed = torch.ones(layout.global_features + layout.slot_features)
        decayed[list(layout.clock)] = 0
        self._decayed = decayed
        with torch.no_grad():
            self.policy.act.bias[CULL] = INITIAL_CULL

    def distribution(self, observations: Tensor, slots: Tensor | None = None) -> Distribution:
        """The policy, for observations (batch, length) of so many slots (batch,); None: all."""
        type_logits, slot_logits = self._logits(observations, slots)
        return Distribution(
            type_log_probs=torch.log_softmax(type_logits, -1),
            slot_log_probs=torch.log_softmax(slot_logits, -1),
        )

    def action_logits(self, observations: Tensor, slots: Tensor | None = None) -> Tensor:
        """Unnormalised log-probabilities of WAIT, then of each acting type at each slot."""
        type_logits, slot_logits = self._logits(observations, slots)
        return torch.cat([type_logits[:, :1], slot_logits[:, WAIT + 1 :].flatten(1)], -1)

    def values(self, observations: Tensor, slots: Tensor | None = None) -> Tensor:
        """The expected return from each observation on, (batch,), in units of the reward."""
        of_all, of_slots = self._parts(observations)
        present = _present(of_slots, slots)
        values: Tensor = self.value(of_all, of_slots, present)
        return values

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the artifact computes: type logits, slot logits by type, values."""
        return (*self._logits(observations, None), self.values(observations))

    def feasibility(self, observations: Tensor) -> Tensor:
        """Logits of the probability that an action is carried out, (batch, 4, slots); WAIT: 0."""
        _, of_slots = self._parts(observations)
        return functional.pad(self.feasible(of_slots).transpose(1, 2), (0, 0, 1, 0))

    def take_statistics(self, observations: Tensor, slots: Tensor) -> None:
        """Take mean and scale: one of each for each feature of the template."""
        features = self.layout.global_features
        of_slots = observations[:, features:].unflatten(1, (-1, self.layout.slot_features))
        present = _present(of_slots, slots).squeeze(-1).bool()
        for place, columns in (
            (slice(None, features), observations[:, :features]),
            (slice(features, None), of_slots[present]),
        ):
            self.observation_mean[place], self.observation_scale[place] = statistics(columns)

    @torch.no_grad()
    def decay_context(self, share: float) -> None:
        """Shrink by a share what the policy makes, in deciding about a slot, of anything but that
        slot and the time.

        The global features hardly vary but with time, and other slots rarely matter: of few
        episodes a policy learns by heart what happened to go with them, and it does not hold
        elsewhere.
        """
        self.policy.hidden_1.weight[:, : len(self._decayed)] *= 1 - share * self._decayed

    def _logits(self, observations: Tensor, slots: Tensor | None) -> tuple[Tensor, Tensor]:
        of_all, of_slots = self._parts(observations)
        present = _present(of_slots, slots)
        context = torch.cat([of_all, _mean_over(of_slots, present)], -1)
        each = _for_each(context, of_slots.shape[1])
        features = self.policy(torch.cat([each, of_slots], -1))
        feasible = functional.logsigmoid(self.feasible(of_slots)).detach()
        act = (self.policy.act(features) + feasible).masked_fill(present == 0, OUT_OF_REACH)
        act = act.transpose(1, 2)
        wait = self.policy.wait(_mean_over(features, present))
        type_logits = torch.cat([wait, act.logsumexp(-1)], -1)
        return type_logits, functional.pad(act, (0, 0, 1, 0))

    def _parts(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Global features (batch, features), and slots' (batch, slots, features), normalised."""
        features = self.layout.global_features
        of_all = normalised(
            observations[:, :features],
            self.observation_mean[:features],
            self.observation_scale[:features],
            self.observation_seen[:features],
        )
        of_slots = normalised(
            observations[:, features:].unflatten(1, (-1, self.layout.slot_features)),
            self.observation_mean[features:],
            self.observation_scale[features:],
            self.observation_seen[features:],
        )
        return of_all, of_slots


def _for_each(shared: Tensor, slots: int) -> Tensor:
    """What all slots share (batch, features), for each of them (batch, slots, features)."""
    return shared.unsqueeze(1).expand(-1, slots, -1)


def _present(of_slots: Tensor, slots: Tensor | None) -> Tensor:
    """1 where a slot is there and 0 where it is padding, (batch, slots, 1)."""
    batch, most = of_slots.shape[:2]
    if slots is None:
        return torch.ones(batch, most, 1, dtype=of_slots.dtype)
    there = torch.arange(most) < slots.unsqueeze(-1)
    return there.to(of_slots.dtype).unsqueeze(-1)


def _mean_over(of_slots: Tensor, present: Tensor) -> Tensor:
    """Mean over the slots that are there, (batch, features)."""
    return (of_slots * present).sum(1) / present.sum(1)
