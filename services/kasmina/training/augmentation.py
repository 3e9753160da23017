"""From bytes to what a network sees: shifts and mirror images of whole batches, normalisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PADDING = 4
"""Pixels by which an image may be shifted in each direction."""


class Augmentation:
    """Shifts images within black borders and mirrors half of them, by a generator of its own."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """Changed copies of images (batch, channels, height, width) of bytes.

        Each image is shifted by up to `PADDING` pixels along both axes, and mirrored with
        probability 1/2.
        """
        count, _, height, width = images.shape
        padded = functional.pad(images, [PADDING] * 4)
        rows = self._draw(count, 2 * PADDING + 1)[:, None] + torch.arange(height)
        columns = self._draw(count, 2 * PADDING + 1)[:, None] + torch.arange(width)
        mirrored = self._draw(count, 2).bool()[:, None]
        columns = torch.where(mirrored, columns.flip(1), columns)
        # Channels last for the gather alone: one look-up moves a whole pixel.
        pixels = padded.permute(0, 2, 3, 1)
        which = torch.arange(count)[:, None, None]
        return pixels[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def state(self) -> Tensor:
        """The generator's state, as bytes."""
        return self._generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Goes on from a state that `state` gave."""
        self._generator.set_state(state)

    def _draw(self, count: int, below: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator)


def normalise(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Images of bytes as float32 with mean 0 and deviation 1: (batch, channels, height, width).

    `mean` and `deviation` have one number a channel, in units of [0, 1]. Channels are innermost in
    memory: pooling, batch norm and their backward passes then take about half the time, on a
    processor too.
    """
    scale = 1.0 / (255.0 * deviation)
    shift = mean / deviation
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    return pixels.mul_(scale[:, None, None]).sub_(shift[:, None, None])
