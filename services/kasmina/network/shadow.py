"""The shadow path: how a seed learns before the network sees it.

A seed in TRAINING is trained on downstream(h + f(h)), with h cut off from the host and everything
downstream frozen: it sees its own effect on the loss, and nothing else changes. (With the cheaper
straight-through trick, h + s - s.detach(), it would follow a gradient that never answers to it, and
grow without bound.)

What may not change, and why it does not:

- weights and optimiser state: gradients are computed for the seed's parameters alone and handed
  back, no `.grad` of anybody else is written;
- buffers, running statistics among them: they are copies while the pass runs. Batch norms
  downstream normalise with the shadow batch, as they will while the seed blends;
- random numbers: layers that draw any (dropout) draw from a stream of the shadow pass;
- numbers: the pass is a graph of its own, so a NaN in the seed stays there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kasmina.network.growth import GrowingNetwork, Trace
from kasmina.network.slot import Slot
from kasmina.randomness import set_aside


@dataclass(frozen=True)
class ShadowPass:
    """What a shadow pass found out."""

    gradients: tuple[Tensor, ...]
    """Gradient for each of the seed's parameters, in their order."""
    residual: Tensor
    """f(h), detached, laid out like h."""


def shadow_pass(
    network: GrowingNetwork,
    slot: Slot,
    trace: Trace,
    loss: Callable[[Tensor], Tensor],
    autocast: AbstractContextManager[object],
    seed: int,
) -> ShadowPass:
    """Gradient of the loss of downstream(h + f(h)) for the seed in `slot`.

    `trace` is the network's own pass in training mode, `loss` turns logits (batch, classes) into a
    scalar, `autocast` is the precision of the forward pass, `seed` feeds layers that draw random
    numbers. Call it before the optimiser's step, so that h and what follows it are of one network.
    Only the seed's own buffers move.
    """
    h = trace.activations[slot.depth].detach()
    with set_aside(seed, h.device), kept_buffers(network.downstream_modules(slot)), autocast:
        residual = network.residual(slot, h)
        value = loss(network.downstream(slot, h + residual, trace.images))
    gradients = torch.autograd.grad(value, list(network.seed(slot).parameters()))
    return ShadowPass(gradients, residual.detach())


@contextlib.contextmanager
def kept_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Passes through `modules` inside leave their buffers as they are: they work on copies that are
    then dropped."""
    buffers = [
        (module, name, buffer)
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for owner, name, buffer in buffers:
        setattr(owner, name, buffer.clone())
    try:
        yield
    finally:
        for owner, name, buffer in buffers:
            setattr(owner, name, buffer)
