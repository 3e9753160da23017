"""Samples a network's slots over an interval of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from kasmina.network.gradmax import gradmax_norm
from kasmina.network.growth import GrowingNetwork, Trace
from kasmina.network.slot import Slot
from kasmina.training.telemetry import SlotSigns, bounded


class IntervalProbe:
    """Samples the slots over one interval.

    Values stay where they were computed until the interval is over: an accelerator is not waited
    for in every batch.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = tuple(slots)
        self._gradient_norms: dict[int, list[Tensor]] = {}
        self._sparsities: dict[int, list[Tensor]] = {}
        self._ratios: dict[int, list[Tensor]] = {}
        self._gradmax_norms: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def sample(
        self,
        network: GrowingNetwork,
        trace: Trace,
        apart: Mapping[int, Tensor],
        scale: float = 1.0,
    ) -> None:
        """Measures one batch, after its backward pass and before gradients are clipped.

        `apart` has f(h) of the seeds that learn on the shadow path, by depth; `scale` is what the
        loss was multiplied by.
        """
        for depth, h in trace.activations.items():
            norm = root_mean_square_gradient(network.host.section(depth))
            if norm is not None:
                self._gradient_norms.setdefault(depth, []).append(norm / scale)
            self._sparsities.setdefault(depth, []).append(share_of_zeros(h))
        for depth, residual in {**trace.residuals, **apart}.items():
            h = trace.activations[depth]
            ratio = residual.float().norm() / h.float().norm()
            self._ratios.setdefault(depth, []).append(ratio)

    def sample_gradmax(
        self,
        network: GrowingNetwork,
        trace: Trace,
        fresh: Mapping[int, nn.Module],
        autocast: AbstractContextManager[object],
        scale: float = 1.0,
    ) -> None:
        """Measures what the new seeds `fresh`, by depth, could do, after a backward pass that has
        left its gradients at the activations."""
        for slot in self._slots:
            if slot.depth in fresh:
                h = trace.activations[slot.depth]
                norm = gradmax_norm(network, slot, fresh[slot.depth], h, autocast)
                if norm is not None:
                    self._gradmax_norms[slot.depth] = [norm / scale]

    def signs(self) -> dict[str, SlotSigns]:
        """Means over the samples, by slot id. The one time that an accelerator is waited for."""
        norms, sparsities, ratios, gradmax = self._means(
            self._gradient_norms, self._sparsities, self._ratios, self._gradmax_norms
        )
        return {
            slot.slot_id: SlotSigns(
                gradient_norm=_bounded(norms.get(slot.depth)),
                activation_sparsity=sparsities.get(slot.depth),
                output_ratio=_bounded(ratios.get(slot.depth)),
                gradmax_norm=_bounded(gradmax.get(slot.depth)),
            )
            for slot in self._slots
        }

    def _means(self, *samples: dict[int, list[Tensor]]) -> list[dict[int, float]]:
        means = [torch.stack(values).mean() for kind in samples for values in kind.values()]
        values = iter(torch.stack(means).tolist())
        return [{depth: next(values) for depth in kind} for kind in samples]


def share_of_zeros(h: Tensor) -> Tensor:
    """Share of the activation that is 0, a scalar in [0, 1]; what is not a number counts as 0."""
    # A comparison makes a map of bools, and counting those takes several times as long as this.
    return (h.numel() - h.sign().abs_().sum(dtype=torch.float32)) / h.numel()


def root_mean_square_gradient(parameters: Iterable[nn.Parameter]) -> Tensor | None:
    """Root mean square of the gradient over the parameters, a scalar; None where none has one."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    count = sum(gradient.numel() for gradient in gradients)
    norm: Tensor = torch.stack([gradient.float().norm() for gradient in gradients]).norm()
    return norm / math.sqrt(count)


def _bounded(value: float | None) -> float | None:
    return None if value is None else bounded(value)
