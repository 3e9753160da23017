"""Looking at a network without leaving a trace, and counting what it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kasmina.randomness import set_aside


@contextlib.contextmanager
def at_rest(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module is in eval mode inside; modes and random numbers are then as they were."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with set_aside(0, device):
            yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Counts the multiply-adds of what is computed inside; the function given says how many so far.

    Those of convolutions, matrix products and attention; a pooling or a normalisation has none.
    What is compiled cannot be seen into: count before it is.
    """
    counter = FlopCounterMode(display=False)
    # Attention as matrix products: not every PyTorch counts each of its fused forms.
    with sdpa_kernel(SDPBackend.MATH), counter:
        yield lambda: int(counter.get_total_flops()) // 2
