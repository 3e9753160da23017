"""What is measured: noisy validations, and noisy signs of each slot's need and of its seed's worth.

Noise belongs to a place in the episode: that of interval t is the same whatever was done before, so
that paired arms differ by their actions alone. docs/simulator.md has the equations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kasmina.simulator.draw import normals
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.situation import HiddenSeed, HiddenSlot
from kasmina.training.telemetry import BOUND, bounded

LOSS_EXPONENT = 1.35
"""Loss is ln(classes) (1 - accuracy)^1.35 in this world: 3.4 nats at 20 % of a hundred classes, 2.3
at 40 %."""

_LARGEST_EXPONENT = 700.0
"""Of e, that a float can hold; what it gives is far beyond `BOUND`."""


@dataclass(frozen=True)
class Signs:
    """What was measured at one slot over an interval; see `SlotReading`."""

    gradient_norm: float | None = None
    activation_sparsity: float | None = None
    output_ratio: float | None = None
    gradmax_norm: float | None = None
    ablation_delta: float | None = None


NOTHING_MEASURED = Signs()


@dataclass(frozen=True)
class SlotTruth:
    """How things really stand at a slot."""

    hidden: HiddenSlot
    seed: HiddenSeed
    """The one that the slot holds, or else would get next."""
    live_alpha: float | None
    """Alpha of a live seed; None where there is none."""
    readiness: float
    """See `kasmina.simulator.growth.SlotGrowth`."""
    contribution: float
    """Accuracy that the live seed adds."""


class Instruments:
    """Everything that measures, with all of an episode's noise."""

    def __init__(self, parameters: Parameters, seed: int) -> None:
        episode, noise = parameters.episode, parameters.noise
        moments = episode.horizon + 1
        validation = normals(seed, "validation", count=3 * moments).reshape(3, moments)
        self._accuracy_noise: list[float] = (noise.accuracy * validation[0]).tolist()
        self._loss_noise: list[float] = (noise.loss * validation[1]).tolist()
        self._training_noise: list[float] = (noise.loss * validation[2]).tolist()
        deviations = (noise.gradient, noise.sparsity, noise.gradmax, noise.ablation)
        self._slot_noise: list[list[list[float]]] = [
            (
                normals(seed, "telemetry", f"slot-{depth}", count=4 * moments).reshape(moments, 4)
                * deviations
            ).tolist()
            for depth in range(episode.slots)
        ]
        self._telemetry = parameters.telemetry
        self._untaught_loss = math.log(episode.classes)
        self._horizon = episode.horizon
        self._largest_gain = parameters.seeds.largest_gain

    def accuracy(self, interval: int, true_accuracy: float) -> float:
        """Validation accuracy as it is measured, a fraction."""
        return min(max(true_accuracy + self._accuracy_noise[interval], 0.0), 1.0)

    def validation_loss(self, interval: int, true_accuracy: float) -> float:
        """Validation loss as it is measured, nats."""
        return bounded(max(self._loss(true_accuracy) + self._loss_noise[interval], 0.0))

    def training_loss(self, interval: int, true_accuracy: float) -> float:
        """Mean training loss over the interval that has ended, nats."""
        fitted = self._telemetry.overfitting * interval / self._horizon
        loss = self._loss(true_accuracy) - fitted + self._training_noise[interval]
        return bounded(max(loss, 0.0))

    def signs(self, interval: int, truth: SlotTruth, true_accuracy: float) -> Signs:
        """What the slot shows after the interval.

        A seed that learns apart does not show in the host: only a live one moves gradients and
        activations.
        """
        telemetry, seed = self._telemetry, truth.seed
        noise = self._slot_noise[truth.hidden.depth][interval]
        alpha = truth.live_alpha
        live = alpha is not None
        toll = alpha if alpha is not None and seed.is_bad else 0.0
        need = max(truth.hidden.need - max(truth.contribution, 0.0) / self._largest_gain, 0.0)
        gradient_norm = telemetry.gradient_scale * _exp(
            telemetry.gradient_need * need
            + telemetry.gradient_harm * toll
            - interval / telemetry.gradient_decay
            + noise[0]
        )
        sparsity = (
            telemetry.sparsity_base
            + telemetry.sparsity_need * need
            + telemetry.sparsity_harm * toll
            + noise[1]
        )
        return Signs(
            gradient_norm=bounded(gradient_norm),
            activation_sparsity=min(max(sparsity, 0.0), 1.0),
            output_ratio=self._output_ratio(truth),
            gradmax_norm=None if live else self._gradmax(truth, need, noise[2]),
            ablation_delta=self._ablation(truth, true_accuracy, noise[3]) if live else None,
        )

    def _output_ratio(self, truth: SlotTruth) -> float | None:
        if truth.readiness == 0.0:
            return None
        return BOUND if truth.seed.diverges else self._telemetry.output_ratio * truth.readiness

    def _gradmax(self, truth: SlotTruth, need: float, noise: float) -> float:
        telemetry = self._telemetry
        worth = truth.seed.effect / self._largest_gain
        exponent = telemetry.gradmax_need * need + telemetry.gradmax_quality * worth + noise
        return bounded(telemetry.gradmax_scale * _exp(exponent))

    def _ablation(self, truth: SlotTruth, true_accuracy: float, noise: float) -> float:
        without = true_accuracy - truth.contribution
        change = self._loss(without) - self._loss(true_accuracy) + noise
        return min(max(change, -BOUND), BOUND)

    def _loss(self, accuracy: float) -> float:
        errors = 1.0 - min(max(accuracy, 0.0), 1.0)
        return float(self._untaught_loss * errors**LOSS_EXPONENT)


def _exp(exponent: float) -> float:
    return math.exp(min(exponent, _LARGEST_EXPONENT))
