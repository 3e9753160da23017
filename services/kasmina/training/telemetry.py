"""What a trainer reports after an interval: the network's vital signs, and each slot's.

None is "not measured", which is not zero. Losses are mean cross-entropies in nats, accuracies
fractions in [0, 1]. What is not finite is reported as `BOUND`, the worst that can be said.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from kasmina.network.slot import Stage

BOUND = 1e6
"""Largest loss, norm or ratio that is reported."""

HISTORY = 5
"""Intervals that the histories go back."""

MINIMUM_GAIN = 0.001
"""Validation accuracy must beat its best by more than this, a tenth of a point, to end a
plateau."""


@dataclass(frozen=True)
class SlotReading:
    """One slot's part of a snapshot."""

    slot_id: str
    depth: int
    """Position from the input on, from 0."""
    stage: Stage
    has_seed: bool
    alpha: float
    """Weight of the seed in the forward pass now, in [0, 1]."""
    epochs_in_stage: int
    """Decision intervals that the slot has spent in its stage."""
    blueprint: str | None
    """What the seed is; None where there is none."""
    seed_improvement: float | None
    """Validation accuracy now minus at germination. It counts what the host would have gained
    anyway."""
    seed_cost: float
    """Parameters of the seed here, or of the next one, over the bare host's."""
    gradient_norm: float | None
    """Root mean square, over the parameters of the host's section that ends at the slot (a stage,
    or the submodule that was named), of the training loss's gradient before clipping; mean over the
    sampled batches of the interval. None where the section has none."""
    activation_sparsity: float | None
    """Share of exact zeros in the host's activation at the slot; mean over the sampled batches."""
    output_ratio: float | None
    """Norm of f(h) over the norm of h; mean over the sampled batches. None where no seed computed
    anything."""
    gradmax_norm: float | None
    """Norm of the gradient that the last layer of a new seed here would get on the last batch of
    the interval. The seed is the one here, or the next one, as it would begin; it is no dud, even
    where seeds of its blueprint are. None where a seed is live."""
    ablation_delta: float | None
    """Loss with the seed left out minus loss with it, on a part of the validation images. None
    where no seed is live."""


@dataclass(frozen=True)
class Snapshot:
    """The vital signs of a growing network when a decision is due."""

    epoch: int
    """Decision intervals trained so far."""
    global_step: int
    """Optimiser steps taken so far."""
    train_loss: float | None
    """Mean over the last interval; None before the first."""
    val_loss: float
    val_accuracy: float
    plateau_epochs: int
    """Intervals since the best validation accuracy last improved by more than `MINIMUM_GAIN`."""
    best_val_accuracy: float
    best_val_loss: float
    loss_history: tuple[float, ...]
    """Validation losses, the present one last; at most `HISTORY`."""
    accuracy_history: tuple[float, ...]
    """Validation accuracies, the present one last; at most `HISTORY`."""
    time_left: float
    """Share of the intervals still to come, in [0, 1]."""
    size_ratio: float
    """Parameters of the network with its blending and fossilised seeds over the bare host's."""
    learning_rate: float
    """Of the next optimiser step."""
    generalization_gap: float | None
    """Validation loss minus training loss of the last interval; None before the first."""
    slots: tuple[SlotReading, ...]
    """In order of depth."""


@dataclass(frozen=True)
class VitalSigns:
    """What is known of the network as a whole from its validations so far."""

    train_loss: float | None
    losses: tuple[float, ...]
    """Validation losses, the latest last; at most `HISTORY`."""
    accuracies: tuple[float, ...]
    """Validation accuracies, the latest last; at most `HISTORY`."""
    best_loss: float
    best_accuracy: float
    plateau: int
    """Intervals since the accuracy last rose above `plateau_accuracy` by more than
    `MINIMUM_GAIN`."""
    plateau_accuracy: float
    """Accuracy where that happened."""

    @classmethod
    def of_untrained(cls, loss: float, accuracy: float) -> VitalSigns:
        """The first validation, before any training."""
        loss = bounded(loss)
        return cls(None, (loss,), (accuracy,), loss, accuracy, 0, accuracy)

    def after_interval(self, train_loss: float, loss: float, accuracy: float) -> VitalSigns:
        """One interval on: its mean training loss, and the validation after it."""
        loss = bounded(loss)
        risen = accuracy > self.plateau_accuracy + MINIMUM_GAIN
        return replace(
            self,
            train_loss=bounded(train_loss),
            losses=(*self.losses, loss)[-HISTORY:],
            accuracies=(*self.accuracies, accuracy)[-HISTORY:],
            best_loss=min(self.best_loss, loss),
            best_accuracy=max(self.best_accuracy, accuracy),
            plateau=0 if risen else self.plateau + 1,
            plateau_accuracy=accuracy if risen else self.plateau_accuracy,
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> VitalSigns:
        """What `state` described. Raises TypeError or KeyError where it did not."""
        histories = {name: tuple(state[name]) for name in ("losses", "accuracies")}
        return cls(**{**state, **histories})


@dataclass(frozen=True)
class SlotSigns:
    """What was measured at one slot over an interval; see `SlotReading`. None before the first."""

    gradient_norm: float | None = None
    activation_sparsity: float | None = None
    output_ratio: float | None = None
    gradmax_norm: float | None = None


def bounded(value: float) -> float:
    """`value`, or `BOUND` where it is more than that or not finite."""
    return value if math.isfinite(value) and value <= BOUND else BOUND
