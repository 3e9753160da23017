"""What a seed could do for a slot, before there is one (GradMax, Evci et al. 2022).

The gradient that the last layer of a seed would get in its first step says how steeply the loss
could fall. That layer starts at zero, so f(h) = 0 and dL/d(h + f(h)) = dL/dh: the gradient that the
host's own backward pass leaves at h is all that is needed of the network.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from kasmina.network.blueprint import output_parameters
from kasmina.network.growth import GrowingNetwork
from kasmina.network.slot import Slot
from kasmina.randomness import set_aside

GRADMAX_IMAGES = 32
"""Most images of the batch that it is measured on: three seeds on all of a batch would cost as much
as a training step."""


def gradmax_norm(
    network: GrowingNetwork,
    slot: Slot,
    fresh: nn.Module,
    activation: Tensor,
    autocast: AbstractContextManager[object],
) -> Tensor | None:
    """Norm of the gradient that the last layer of `fresh`, a new seed, would get in the slot, of
    the mean loss of the batch's first images, at most `GRADMAX_IMAGES`.

    `activation` is h of a pass in training mode whose backward pass has left dL/dh at it: a scalar,
    in nats per unit of weight. None where no layer of the seed starts at zero, or no gradient came
    to h. Nothing of the network changes.
    """
    outputs = output_parameters(fresh)
    arrived = activation.grad if activation.retains_grad else None
    if arrived is None or not outputs:
        return None
    h = activation.detach()[:GRADMAX_IMAGES]
    # The loss is a mean over the batch: each image has its share of it in the gradient.
    pull = arrived[:GRADMAX_IMAGES] * (len(activation) / len(h))
    with set_aside(0, activation.device), torch.enable_grad(), autocast:
        residual = network.residual(slot, h, fresh)
    gradients = torch.autograd.grad(residual, outputs, pull.to(residual.dtype), allow_unused=True)
    norms = [gradient.float().norm() for gradient in gradients if gradient is not None]
    return torch.stack(norms).norm() if norms else None
