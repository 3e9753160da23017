"""One decision interval: so many batches of training, then a validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kasmina.data.images import Dataset, ImageSplit
from kasmina.network.growth import GrowingNetwork, Trace
from kasmina.network.shadow import ShadowPass, shadow_pass
from kasmina.network.slot import Stage
from kasmina.randomness import NetworkStream, derive_seed
from kasmina.training.augmentation import Augmentation, normalise
from kasmina.training.configuration import TrainerConfig
from kasmina.training.optimizer import GrowthOptimizer
from kasmina.training.order import BatchOrder
from kasmina.training.probe import IntervalProbe
from kasmina.training.telemetry import SlotSigns, bounded

ABLATION_IMAGES = 1000
"""Most validation images that a seed is left out for."""

OnBatch = Callable[[int, int], None]
"""Called after each batch with the batches done and those of the interval. What it raises stops the
interval."""


@dataclass(frozen=True)
class ValidationFacts:
    """What a validation found. The loss is bounded; see `kasmina.training.telemetry`."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Share of images classified right, in [0, 1]."""
    images: int
    correct: bytes
    """One bit for each image in order, most significant first: 1 where it was classified right."""


@dataclass(frozen=True)
class IntervalFacts:
    """What an interval cost and gave."""

    train_loss: float
    """Mean over the interval's images, in nats, label smoothing included."""
    val_loss: float
    val_accuracy: float
    validation_correct: bytes
    """As in `ValidationFacts`."""
    training_images: int
    """Repetitions counted."""
    validation_images: int
    seconds: float
    """Wall time of training and validation."""
    parameters: int
    """Of the host with its blending and fossilised seeds."""
    multiply_adds: int
    """Of one image's forward pass through that network."""
    multiply_adds_spent: int
    """In the episode's intervals so far, on everything; see `kasmina.network.cost`."""
    multiply_adds_bare: int
    """What such an interval takes while there is no seed in any slot."""


def ablation_split(validation: ImageSplit) -> ImageSplit:
    """The images that seeds are left out for: every so many, at most `ABLATION_IMAGES`."""
    stride = -(-len(validation) // ABLATION_IMAGES)
    return ImageSplit(validation.images[::stride], validation.labels[::stride])


@dataclass(frozen=True)
class TrainingFacts:
    """What the training part of an interval found."""

    loss: float
    """Mean over its images, in nats, label smoothing included; bounded."""
    images: int
    signs: dict[str, SlotSigns]
    """By slot id."""


class IntervalTrainer:
    """Trains a growing network one interval at a time, and validates it."""

    def __init__(
        self,
        network: GrowingNetwork,
        optimizer: GrowthOptimizer,
        dataset: Dataset,
        config: TrainerConfig,
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self._dataset = dataset
        self._config = config
        self._device = torch.device(config.device)
        self._mean = dataset.mean.to(self._device)
        self._deviation = dataset.deviation.to(self._device)
        self._steps = config.steps_of_interval(len(dataset.train))
        self.order = BatchOrder(
            len(dataset.train), config.batch_size, derive_seed(config.seeds.order, "order")
        )
        self.augmentation = Augmentation(derive_seed(config.seeds.augmentation, "augmentation"))
        self.stream = NetworkStream(derive_seed(config.seeds.order, "network"), self._device)

    def train(self, fresh: Mapping[int, nn.Module], on_batch: OnBatch | None) -> TrainingFacts:
        """Trains one interval.

        `fresh` has a new seed for the depth of every slot at which what one could do is to be
        measured, on the last batch.
        """
        self._network.train()
        probe = IntervalProbe(self._network.slots)
        total = torch.zeros((), device=self._device)
        with self.stream.lent():
            for index in range(self._steps):
                to_come = self._steps - 1 - index
                sampled = to_come % self._config.telemetry_every == 0
                total += self._train_batch(
                    probe if sampled else None, fresh if to_come == 0 else {}
                )
                if on_batch is not None:
                    on_batch(index + 1, self._steps)
        return TrainingFacts(
            loss=bounded(float(total) / self._steps),
            images=self._steps * self._config.batch_size,
            signs=probe.signs(),
        )

    @torch.no_grad()
    def validate(self, split: ImageSplit) -> ValidationFacts:
        """Loss and accuracy of the network as it stands on all images of `split`."""
        self._network.eval()
        total = torch.zeros((), device=self._device)
        correct: list[Tensor] = []
        size = self._config.validation_batch_size
        for images, truth in zip(split.images.split(size), split.labels.split(size), strict=True):
            labels = truth.to(self._device)
            with self._autocast():
                logits = self._network(self._prepared(images))
            total += functional.cross_entropy(logits.float(), labels, reduction="sum")
            correct.append(logits.argmax(1) == labels)
        right = torch.cat(correct).cpu().numpy()
        return ValidationFacts(
            loss=bounded(float(total) / len(split)),
            accuracy=float(right.mean()),
            images=len(split),
            correct=np.packbits(right).tobytes(),
        )

    @torch.no_grad()
    def ablations(self, split: ImageSplit) -> dict[str, float]:
        """Loss with each live seed left out minus loss of the network as it stands, by slot id.

        Both on all images of `split`.
        """
        network = self._network.eval()
        live = [slot for slot in network.slots if slot.is_live]
        if not live:
            return {}
        totals = torch.zeros(1 + len(live), device=self._device)
        size = self._config.validation_batch_size
        for part, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
            prepared, truth = self._prepared(part), labels.to(self._device)
            with self._autocast():
                logits = [network(prepared), *(network.without(slot, prepared) for slot in live)]
            totals += torch.stack(
                [functional.cross_entropy(x.float(), truth, reduction="sum") for x in logits]
            )
        whole, *ablated = [bounded(loss) for loss in (totals / len(split)).tolist()]
        return {slot.slot_id: loss - whole for slot, loss in zip(live, ablated, strict=True)}

    def _train_batch(self, probe: IntervalProbe | None, fresh: Mapping[int, nn.Module]) -> Tensor:
        """One optimiser step; the mean loss of its images, detached, where it was computed."""
        images, labels = self._dataset.train.take(self.order.next_batch())
        if self._dataset.augmented:
            images = self.augmentation(images)

        def loss_of(logits: Tensor) -> Tensor:
            return functional.cross_entropy(
                logits.float(), labels, label_smoothing=self._config.label_smoothing
            )

        self._optimizer.clear_gradients()
        with self._autocast():
            trace = self._network.trace(self._prepared(images))
            loss = loss_of(trace.logits)
        for depth in fresh:
            if trace.activations[depth].requires_grad:
                trace.activations[depth].retain_grad()
        loss.backward()
        apart = self._shadow_passes(trace, loss_of)
        if probe is not None:
            residuals = {depth: shadow.residual for depth, shadow in apart.items()}
            probe.sample(self._network, trace, residuals)
            probe.sample_gradmax(self._network, trace, fresh, self._autocast())
        self._step(apart)
        return loss.detach()

    def _shadow_passes(
        self, trace: Trace, loss_of: Callable[[Tensor], Tensor]
    ) -> dict[int, ShadowPass]:
        passes = {}
        for slot in self._network.slots:
            if slot.stage is Stage.TRAINING:
                seed = derive_seed(
                    self._config.seeds.blueprint,
                    "shadow",
                    slot.slot_id,
                    self._optimizer.step_count,
                )
                passes[slot.depth] = shadow_pass(
                    self._network, slot, trace, loss_of, self._autocast(), seed
                )
        return passes

    def _step(self, apart: dict[int, ShadowPass]) -> None:
        slots = self._network.slots
        self._optimizer.step(
            live=[slot.slot_id for slot in slots if slot.is_live],
            apart={
                slot.slot_id: apart[slot.depth].gradients for slot in slots if slot.depth in apart
            },
        )
        for slot in slots:
            slot.count_step()

    def _prepared(self, images: Tensor) -> Tensor:
        return normalise(images.to(self._device), self._mean, self._deviation)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._config.precision == "fp32":
            return nullcontext()  # one that is switched off is not free to enter
        return torch.autocast(self._device.type, dtype=torch.bfloat16)
