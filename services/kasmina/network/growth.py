"""The growing network: a host, its slots, and the seeds in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kasmina.network.host import Host, Site
from kasmina.network.slot import Slot, Stage


@dataclass(frozen=True)
class Trace:
    """One forward pass, with what went through the slots on the way."""

    images: Tensor
    """(batch, channels, height, width)"""
    logits: Tensor
    """(batch, classes)"""
    activations: dict[int, Tensor]
    """The host's activation h that enters each slot, by depth, in the layout that it has there."""
    residuals: dict[int, Tensor]
    """f(h) of each blending and fossilised seed, by depth, laid out like h."""


class GrowingNetwork(nn.Module):
    """Host and seeds as one network.

    A slot passes on h unless its seed blends (h + alpha * f(h)) or is fossilised (h + f(h)). h is
    never scaled and never detached, so the layers before a slot learn through the seed and past it.
    """

    def __init__(self, host: Host, slots: Sequence[Slot]) -> None:
        """`slots` are those of the host's sites that are to be used, in order of depth."""
        super().__init__()
        depths = [slot.depth for slot in slots]
        if depths != sorted(set(depths)) or not all(_fits(slot, host.sites) for slot in slots):
            raise ValueError("slots must be at sites of the host, in order of depth")
        self.host = host
        self.slots = tuple(slots)
        self.seeds = nn.ModuleDict()
        self._slot_at = {slot.depth: slot for slot in slots}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, channels, height, width)."""
        return self.host.through(images, self._grown)

    def trace(self, images: Tensor) -> Trace:
        """The forward pass of `images`, with the activation at each slot."""
        activations: dict[int, Tensor] = {}
        residuals: dict[int, Tensor] = {}

        def visit(depth: int, h: Tensor) -> Tensor:
            slot = self._slot_at.get(depth)
            if slot is None:
                return h
            activations[depth] = h
            if not slot.is_live:
                return h
            residuals[depth] = self.residual(slot, h)
            return blend(slot, h, residuals[depth])

        logits = self.host.through(images, visit)
        return Trace(images, logits, activations, residuals)

    def without(self, slot: Slot, images: Tensor) -> Tensor:
        """Logits (batch, classes) of `images` with the slot's seed left out."""

        def visit(depth: int, h: Tensor) -> Tensor:
            return h if depth == slot.depth else self._grown(depth, h)

        return self.host.through(images, visit)

    def downstream(self, slot: Slot, h: Tensor, images: Tensor) -> Tensor:
        """Logits (batch, classes) when `h` leaves `slot`: the rest of the network as it is now.

        `images` are those that led to `h`.
        """
        return self.host.downstream(slot.depth, h, images, self._grown)

    def downstream_modules(self, slot: Slot) -> Iterable[nn.Module]:
        """Every module that `downstream` may pass through, layers within layers included."""
        yield from self.host.downstream_modules(slot.depth)
        for other in self.slots:
            if other.is_live and other is not slot:
                yield from self.seed(other).modules()

    def residual(self, slot: Slot, h: Tensor, seed: nn.Module | None = None) -> Tensor:
        """f(h) for the seed in the slot, or for another one there, laid out like h."""
        site = self.site(slot)
        module = self.seed(slot) if seed is None else seed
        return site.from_map(module(site.as_map(h)))

    def plant(self, slot: Slot, seed: nn.Module) -> None:
        """Puts the module into the slot's place. The slot's stage says what it does there."""
        self.seeds[slot.slot_id] = seed

    def uproot(self, slot: Slot) -> None:
        """Drops the slot's module."""
        del self.seeds[slot.slot_id]

    def seed(self, slot: Slot) -> nn.Module:
        """The module in the slot's place; KeyError where there is none."""
        return self.seeds[slot.slot_id]

    def site(self, slot: Slot) -> Site:
        """Where the slot is."""
        return self.host.sites[slot.depth]

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

    def _grown(self, depth: int, h: Tensor) -> Tensor:
        slot = self._slot_at.get(depth)
        if slot is None or not slot.is_live:
            return h
        return blend(slot, h, self.residual(slot, h))


def is_finite(module: nn.Module) -> bool:
    """Whether no parameter and no buffer of the module holds a NaN or an infinity."""
    tensors = [*module.parameters(), *module.buffers()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _fits(slot: Slot, sites: Sequence[Site]) -> bool:
    return slot.depth < len(sites) and sites[slot.depth].slot_id == slot.slot_id


def blend(slot: Slot, h: Tensor, residual: Tensor) -> Tensor:
    """What leaves the slot of a live seed: `residual` is f(h)."""
    if slot.stage is Stage.FOSSILIZED:
        return h + residual
    return h + slot.alpha * residual
