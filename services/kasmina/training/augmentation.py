"""From bytes to what a network sees: shifts and mirror images of whole batches, normalisation.

Both are a part of every step, so both are written for speed: rows of pixels are copied whole, with
channels innermost in memory, and a float is made once a byte.
"""

from __future__ import annotations

import torch
from torch import Tensor

PADDING = 4
"""Pixels by which an image may be shifted in each direction."""


class Augmentation:
    """Shifts images within black borders and mirrors half of them, by a generator of its own.

    The numbers are drawn on the processor, wherever the images are: the same everywhere.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """Changed copies of images (batch, channels, height, width) of bytes, channels innermost.

        Each image is shifted by up to `PADDING` pixels along both axes, and mirrored with
        probability 1/2.
        """
        count, channels, height, width = images.shape
        device = images.device
        rows, columns = self._draw(count, 2 * PADDING + 1), self._draw(count, 2 * PADDING + 1)
        mirrored = self._draw(count, 2).nonzero().squeeze(1)
        # The images with their borders, and behind them the mirror images of some: place tells
        # which of these a result is cut out of.
        place = torch.arange(count)
        place[mirrored] = torch.arange(count, count + len(mirrored))
        pixels = images.permute(0, 2, 3, 1)
        tall, wide = height + 2 * PADDING, width + 2 * PADDING
        padded = pixels.new_zeros(count + len(mirrored), tall, wide, channels)
        inside = padded[:, PADDING:-PADDING, PADDING:-PADDING]
        inside[:count] = pixels
        chosen = mirrored.to(device, non_blocking=True)
        inside[count:] = pixels.index_select(0, chosen).flip(2)
        # A strip of one image's width begins at every pixel; they overlap. A result is `height` of
        # them, each copied whole.
        strips = padded.as_strided(
            (len(padded) * tall * wide - width + 1, width * channels), (channels, 1)
        )
        corners = ((place * tall + rows) * wide + columns).to(device, non_blocking=True)
        starts = corners[:, None] + torch.arange(0, height * wide, wide, device=device)
        cut = strips.index_select(0, starts.flatten())
        return cut.view(count, height, width, channels).permute(0, 3, 1, 2)

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
    count, channels, height, width = images.shape
    # One factor for each place of an image, not for each channel: a loop over three numbers is too
    # short to be vectorised, and takes five times as long.
    places = height * width
    scale = (1.0 / (255.0 * deviation)).expand(places, channels).flatten()
    shift = (mean / deviation).expand(places, channels).flatten()
    pixels = images.permute(0, 2, 3, 1).reshape(count, places * channels).to(torch.float32)
    pixels.mul_(scale).sub_(shift)
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)
