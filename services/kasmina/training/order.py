"""The order in which training images are shown."""

from __future__ import annotations

import torch
from torch import Tensor

from kasmina.randomness import derive_seed


class BatchOrder:
    """An endless row of batches of whole passes, each pass in an order of its own.

    The order of a pass is a function of the seed and the pass's number, so the cursor alone says
    where to go on. A batch may span two passes: all batches are full, and an interval may have any
    number of them.
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._pass = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self.cursor = 0
        """Images shown so far."""

    def next_batch(self) -> Tensor:
        """Indices of the next batch of training images: int64, (batch_size,)."""
        parts: list[Tensor] = []
        missing = self._batch_size
        while missing > 0:
            number, start = divmod(self.cursor, self._images)
            part = self._order_of(number)[start : start + missing]
            parts.append(part)
            self.cursor += len(part)
            missing -= len(part)
        return torch.cat(parts)

    def _order_of(self, number: int) -> Tensor:
        if number != self._pass:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "pass", number))
            self._order = torch.randperm(self._images, generator=generator)
            self._pass = number
        return self._order
