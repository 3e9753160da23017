"""What seeds learn from the passes of somebody else's training loop, and what is measured by the
way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.attach.graft import Graft
from kasmina.attach.optimizer import SeedOptimizers
from kasmina.network.growth import Trace
from kasmina.network.observing import at_rest
from kasmina.network.shadow import ShadowPass, shadow_pass
from kasmina.network.slot import Stage
from kasmina.randomness import derive_seed, set_aside
from kasmina.training.configuration import TrainerConfig
from kasmina.training.grower import Grower
from kasmina.training.probe import IntervalProbe
from kasmina.training.telemetry import SlotSigns, bounded

Loss = Callable[[Tensor, Any], Tensor]
"""The training loop's own: of the model's output and the labels, a scalar."""


@dataclass(frozen=True)
class IntervalLessons:
    """What an interval was made of."""

    signs: dict[str, SlotSigns]
    """By slot id."""
    steps: int
    """That were taken: none of those that a scaler has skipped."""
    images: int
    """That were trained on, repetitions counted."""
    measured: tuple[int, ...]
    """Depths at which it was measured what a new seed could do."""
    measured_images: int
    """On so many images."""


class Lessons:
    """Teaches the seeds of a graft, batch by batch."""

    def __init__(
        self,
        graft: Graft,
        grower: Grower,
        optimizers: SeedOptimizers,
        loss: Loss,
        config: TrainerConfig,
    ) -> None:
        self._graft = graft
        self._network = graft.network
        self._grower = grower
        self._optimizers = optimizers
        self._loss = loss
        self._config = config
        self.steps = 0
        """Of the episode so far."""
        self.expected_steps = 0
        """Of an interval, as the last one had them; 0 before the first has ended."""
        self._loss_is_known = False
        self.begin_interval()

    def begin_interval(self) -> None:
        """Forgets what the interval was made of so far."""
        self._probe = IntervalProbe(self._network.slots)
        self._is_measured = False
        self._begun_at = self.steps
        self._images = 0
        self._measured: tuple[int, ...] = ()
        self._measured_images = 0
        self._fresh: Mapping[int, nn.Module] = {}
        self._graft.wanted = frozenset()
        self._graft.forget()
        self._prepare()

    @property
    def interval_is_empty(self) -> bool:
        """Whether there was no step in the interval yet, not even one that was skipped."""
        return self._images == 0

    def step(self, labels: Any, scale: float) -> None:
        """Learns from the model's last pass, whose gradients are there, times `scale`."""
        trace, autocast = self._graft.learn_from()
        if not self._loss_is_known:
            self._try_loss(trace, labels, autocast())
        self._images += len(trace.images)
        if scale != 1.0 and not _finite(self._network.live_parameters()):
            return  # the scaler makes the host skip it, too

        def loss_of(logits: Tensor) -> Tensor:
            return self._loss(logits, labels) * scale

        apart: dict[int, ShadowPass] = {}
        for slot in self._network.slots:
            if slot.stage is Stage.TRAINING:
                seed = derive_seed(self._config.seeds.blueprint, "shadow", slot.slot_id, self.steps)
                self._graft.place(self._network.seed(slot)).train()
                apart[slot.depth] = shadow_pass(
                    self._network, slot, trace, loss_of, autocast(), seed
                )
        if self._is_sampled():
            residuals = {depth: shadow.residual for depth, shadow in apart.items()}
            self._probe.sample(self._network, trace, residuals, scale)
            self._is_measured = True
        if self._fresh:
            self._probe.sample_gradmax(self._network, trace, self._fresh, autocast(), scale)
            self._measured, self._measured_images = tuple(self._fresh), len(trace.images)
        self._learn(apart, scale)
        self.steps += 1
        self._prepare()

    def end_interval(self) -> IntervalLessons:
        """What the interval was made of."""
        self.expected_steps = self.steps - self._begun_at
        return IntervalLessons(
            signs=self._probe.signs() if self._is_measured else self._no_signs(),
            steps=self.expected_steps,
            images=self._images,
            measured=self._measured,
            measured_images=self._measured_images,
        )

    @torch.no_grad()
    def ablations(self, sample: tuple[Tensor, Any]) -> dict[str, float]:
        """Loss with each live seed left out minus loss of the network as it stands, by slot id.

        Both on `sample`, images and labels, in eval mode. Nothing changes.
        """
        network, (images, labels) = self._network, sample
        live = [slot for slot in network.slots if slot.is_live]
        if not live:
            return {}
        with at_rest(network, images.device):
            logits = [network(images), *(network.without(slot, images) for slot in live)]
            whole, *ablated = [bounded(float(self._loss(one, labels))) for one in logits]
        return {slot.slot_id: loss - whole for slot, loss in zip(live, ablated, strict=True)}

    def _try_loss(
        self, trace: Trace, labels: Any, autocast: AbstractContextManager[object]
    ) -> None:
        """Refuses a loss that no seed could learn from at the first step already."""
        with torch.no_grad(), set_aside(0, trace.logits.device), autocast:
            value = self._loss(trace.logits, labels)
        if not isinstance(value, Tensor) or value.dim() > 0:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss gives {what}; it must give a scalar tensor, such as a mean")
        self._loss_is_known = True

    def _is_sampled(self) -> bool:
        """Whether it is the turn of what should be the interval's last batch, or of one a multiple
        of `telemetry_every` before it; in the first interval, after its first."""
        index = self.steps - self._begun_at
        last = max(self.expected_steps - 1, 0)
        return (last - index) % self._config.telemetry_every == 0

    def _no_signs(self) -> dict[str, SlotSigns]:
        return {slot.slot_id: SlotSigns() for slot in self._network.slots}

    def _learn(self, apart: Mapping[int, ShadowPass], scale: float) -> None:
        slots = self._network.slots
        self._optimizers.step(
            live=[slot.slot_id for slot in slots if slot.is_live],
            apart={
                slot.slot_id: apart[slot.depth].gradients for slot in slots if slot.depth in apart
            },
            scale=scale,
        )
        for slot in slots:
            slot.count_step()

    def _prepare(self) -> None:
        """Has the gradients at the slots kept in what should be the interval's last pass."""
        if self.steps - self._begun_at != self.expected_steps - 1:
            self._fresh = {}
        else:
            fresh = self._grower.fresh_seeds()
            self._fresh = {depth: self._graft.place(seed) for depth, seed in fresh.items()}
        self._graft.wanted = frozenset(self._fresh)


def _finite(parameters: Iterable[nn.Parameter]) -> bool:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
