"""Multiply-adds: of a network as it stands, and of everything that is done with it.

What is counted, an image at a time:

- a forward pass: the host's, counted once while it runs over one image, and that of each blending
  and fossilised seed. They add up, since seeds change no shape;
- training: three forward passes, for the host and live seeds. For every product of the forward
  pass, the backward pass has two of the same size: one for the gradient of the layer's weights, one
  for that of its input (Kaplan et al. 2020, section 2.1). The first layer needs the first alone;
  that it is charged for both is the one thing that this overstates;
- a shadow pass: three forward passes of the seed that learns, one of what `Host.downstream` runs,
  and, since nothing but the way back to the seed is computed there, one more of what lies
  downstream;
- validation: a forward pass;
- an ablation: a forward pass of the network without the seed;
- a GradMax measurement: two forward passes of the seed. Its last layer alone is differentiated, so
  it takes less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kasmina.network.blueprint import multiply_adds
from kasmina.network.host import Host
from kasmina.network.observing import at_rest, counting
from kasmina.network.slot import Slot, Stage


@dataclass(frozen=True)
class HostCost:
    """Multiply-adds of a host for one image, and with those of seeds in it, of what is done."""

    forward: int
    """Of the bare host's forward pass."""
    after: tuple[int, ...]
    """The part of them that lies after each site."""
    downstream: tuple[int, ...]
    """Of `Host.downstream` from each site on: more than `after` where the host runs as a whole."""
    pixels: tuple[tuple[int, int, int], ...]
    """Channels, height and width of what a seed at each site sees."""

    def network(self, slots: Iterable[Slot]) -> int:
        """The forward pass of the host with the seeds that are live in `slots`."""
        return self.forward + sum(self._seed(slot) for slot in slots if slot.is_live)

    def training(self, slots: Sequence[Slot]) -> int:
        """A step of training, shadow passes included."""
        apart = (self._shadow(slot, slots) for slot in slots if slot.stage is Stage.TRAINING)
        return 3 * self.network(slots) + sum(apart)

    def ablation(self, slots: Sequence[Slot]) -> int:
        """Forward passes of the network as it is, and without each live seed in turn."""
        live = [slot for slot in slots if slot.is_live]
        whole = self.network(slots)
        return whole + sum(whole - self._seed(slot) for slot in live) if live else 0

    def gradmax(self, depth: int, blueprint: str) -> int:
        """A GradMax measurement with a seed of that blueprint."""
        return 2 * multiply_adds(blueprint, self.pixels[depth])

    def _shadow(self, slot: Slot, slots: Sequence[Slot]) -> int:
        later = sum(self._seed(other) for other in slots if other.is_live and _after(other, slot))
        again = self.downstream[slot.depth] - self.after[slot.depth]
        if again > 0:
            again += sum(
                self._seed(other) for other in slots if other.is_live and _after(slot, other)
            )
        return 3 * self._seed(slot) + again + 2 * (self.after[slot.depth] + later)

    def _seed(self, slot: Slot) -> int:
        assert slot.blueprint is not None
        return multiply_adds(slot.blueprint, self.pixels[slot.depth])


def host_cost(host: Host, image: Sequence[int], dtype: torch.dtype | None = None) -> HostCost:
    """What the host costs for one image of that shape (channels, height and width) and type.

    Nothing of it changes.
    """
    device = next(host.parameters()).device
    images = torch.zeros(1, *image, dtype=dtype, device=device)
    activations: list[Tensor] = []
    before: list[int] = []

    with at_rest(host, device), torch.no_grad():
        with counting() as count:

            def look(depth: int, h: Tensor) -> Tensor:
                activations.append(h)
                before.append(count())
                return h

            host.through(images, look)
        forward = count()
        downstream = []
        for depth, h in enumerate(activations):
            with counting() as count:
                host.downstream(depth, h, images, lambda depth, h: h)
            downstream.append(count())
    maps = [site.as_map(h) for site, h in zip(host.sites, activations, strict=True)]
    return HostCost(
        forward=forward,
        after=tuple(forward - spent for spent in before),
        downstream=tuple(downstream),
        pixels=tuple((h.shape[1], h.shape[2], h.shape[3]) for h in maps),
    )


def _after(one: Slot, other: Slot) -> bool:
    return one.depth > other.depth
