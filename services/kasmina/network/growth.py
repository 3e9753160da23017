"""The growing network: a host, its slots, and the seeds in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kasmina.network.host import Host
from kasmina.network.slot import Slot, Stage


@dataclass(frozen=True)
class Trace:
    """One forward pass, with what went through the slots on the way."""

    logits: Tensor
    """(batch, classes)"""
    activations: tuple[Tensor, ...]
    """The host's activation h that enters each slot, in order of depth: (batch, channels, height,
    width)."""
    residuals: dict[int, Tensor]
    """f(h) of each blending and fossilised seed, by depth."""


class GrowingNetwork(nn.Module):
    """Host and seeds as one network.

    A slot passes on h unless its seed blends (h + alpha * f(h)) or is fossilised (h + f(h)). h is
    never scaled and never detached, so the layers before a slot learn through the seed and past it.
    """

    def __init__(self, host: Host, slots: Sequence[Slot]) -> None:
        super().__init__()
        if [slot.depth for slot in slots] != list(range(len(host.widths))):
            raise ValueError("one slot after each stage of the host, in order of depth")
        self.host = host
        self.slots = tuple(slots)
        self.seeds = nn.ModuleDict()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, channels, height, width)."""
        return self.trace(images).logits

    def trace(self, images: Tensor) -> Trace:
        """The forward pass of `images`, with the activation at each slot."""
        activations: list[Tensor] = []
        residuals: dict[int, Tensor] = {}
        h = images
        for slot, stage in zip(self.slots, self.host.stages, strict=True):
            h = stage(h)
            activations.append(h)
            if slot.is_live:
                residuals[slot.depth] = self.seed(slot)(h)
                h = _blend(slot, h, residuals[slot.depth])
        return Trace(self.host.head(h), tuple(activations), residuals)

    def downstream(self, slot: Slot, h: Tensor) -> Tensor:
        """Logits (batch, classes) when `h` leaves `slot`: the rest of the network as it is now."""
        for later in self.slots[slot.depth + 1 :]:
            h = self.host.stages[later.depth](h)
            if later.is_live:
                h = _blend(later, h, self.seed(later)(h))
        logits: Tensor = self.host.head(h)
        return logits

    def downstream_modules(self, slot: Slot) -> Iterable[nn.Module]:
        """Every module that `downstream` passes through, layers within layers included."""
        for later in self.slots[slot.depth + 1 :]:
            yield from self.host.stages[later.depth].modules()
            if later.is_live:
                yield from self.seed(later).modules()
        yield from self.host.head.modules()

    def plant(self, slot: Slot, seed: nn.Module) -> None:
        """Puts the module into the slot's place. The slot's stage says what it does there."""
        self.seeds[slot.slot_id] = seed

    def uproot(self, slot: Slot) -> None:
        """Drops the slot's module."""
        del self.seeds[slot.slot_id]

    def seed(self, slot: Slot) -> nn.Module:
        """The module in the slot's place; KeyError where there is none."""
        return self.seeds[slot.slot_id]

    def live_parameters(self) -> list[nn.Parameter]:
        """Parameters that the forward pass uses: the host's and those of live seeds."""
        parameters = list(self.host.parameters())
        for slot in self.slots:
            if slot.is_live:
                parameters += self.seed(slot).parameters()
        return parameters

    def parameter_count(self) -> int:
        """Number of parameters that the forward pass uses."""
        return sum(parameter.numel() for parameter in self.live_parameters())


def is_finite(module: nn.Module) -> bool:
    """Whether no parameter and no buffer of the module holds a NaN or an infinity."""
    tensors = [*module.parameters(), *module.buffers()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _blend(slot: Slot, h: Tensor, residual: Tensor) -> Tensor:
    if slot.stage is Stage.FOSSILIZED:
        return h + residual
    return h + slot.alpha * residual
