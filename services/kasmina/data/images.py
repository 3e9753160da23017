"""Images in memory: splits of them, and what a network is trained and validated on."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kasmina.data.split import stratified_split

_EXACT_IN_FLOAT32 = 256
"""Bytes whose squares float32 adds up without rounding: 256 x 255^2 < 2^24."""


@dataclass(frozen=True)
class ImageSplit:
    """Images and what they show."""

    images: Tensor
    """Bytes, (n, channels, height, width). Fastest with channels innermost in memory
    (`torch.channels_last`), as loaded datasets have them."""
    labels: Tensor
    """int64, (n,), in [0, classes)."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of some images and labels, on the device of the split; channels are innermost.

        `indices` are int64, (batch,). Six times as fast as indexing: whole images are copied.
        """
        where = indices.to(self.labels.device, non_blocking=True)
        pixels = self.images.permute(0, 2, 3, 1).index_select(0, where)
        return pixels.permute(0, 3, 1, 2), self.labels.index_select(0, where)

    def to(self, device: torch.device | str) -> ImageSplit:
        """The split on a device; itself where it is there already."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """What a network is trained and validated on."""

    name: str
    train: ImageSplit
    validation: ImageSplit
    classes: int
    augmented: bool
    """Whether training images may be shifted and mirrored: not so for digits."""
    class_names: tuple[str, ...] = ()
    """By label; empty where the files do not say."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def mean(self) -> Tensor:
        """Mean of each channel over the training images, in [0, 1]; on the processor."""
        return self._moments[0]

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel over the training images, in units of [0, 1]; on the
        processor."""
        return self._moments[1]

    def subset(self, images: int, seed: int) -> Dataset:
        """The dataset with `images` of its training images, every class in its proportion.

        The validation split stays whole. A function of the training labels and the seed alone.
        Raises ValueError unless 1 <= images <= len(train).
        """
        if not 1 <= images <= len(self.train):
            raise ValueError(
                f"a subset of {images} images was asked for; {self.name} has {len(self.train)}"
                " training images, and a subset at least one"
            )
        kept, _ = stratified_split(self.train.labels.cpu().numpy(), images, seed)
        return replace(self, train=ImageSplit(*self.train.take(torch.from_numpy(kept))))

    def with_label_noise(self, share: float, seed: int) -> Dataset:
        """The dataset with `share` of its training labels wrong, to the nearest image.

        Each wrong label is drawn uniformly from the other classes. The validation split stays as it
        is. A function of the training labels and the seed alone. Raises ValueError unless
        0 <= share <= 1 and there are two classes.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"the share of wrong labels is {share}; it must be in [0, 1]")
        if self.classes < 2:
            raise ValueError(f"{self.name} has one class: no label of it can be wrong")
        draw = np.random.Generator(np.random.PCG64(seed))
        labels = self.train.labels.cpu().numpy().copy()
        wrong = draw.permutation(len(labels))[: round(share * len(labels))]
        labels[wrong] = (labels[wrong] + draw.integers(1, self.classes, len(wrong))) % self.classes
        noisy = torch.from_numpy(labels).to(self.train.labels.device)
        return replace(self, train=replace(self.train, labels=noisy))

    def to(self, device: torch.device | str) -> Dataset:
        """The dataset with images and labels on a device, still as bytes.

        Digest and moments come along: they are computed on the processor.
        """
        moved = replace(self, train=self.train.to(device), validation=self.validation.to(device))
        for name in ("digest", "_moments"):
            moved.__dict__[name] = getattr(self, name)
        return moved

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all images, labels and what is said about them, in hexadecimal: checkpoints go
        on with the same only."""
        digest = hashlib.sha256(f"{self.name}\n{self.classes}\n{self.augmented}\n".encode())
        for split in (self.train, self.validation):
            for tensor in (split.images.permute(0, 2, 3, 1), split.labels):
                digest.update(str(tuple(tensor.shape)).encode())
                digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @functools.cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        # Sums of whole numbers, each without rounding: the same in any order, on any number of
        # threads.
        pixels = self.train.images.cpu().permute(0, 2, 3, 1).flatten(1)
        sums, squares = torch.zeros(2, pixels.shape[1], dtype=torch.float64)
        for block in pixels.split(_EXACT_IN_FLOAT32):
            values = block.float()
            sums += values.sum(0)
            squares += values.square().sum(0)
        channels = self.shape[0]
        count = len(pixels) * pixels.shape[1] // channels
        mean = sums.view(-1, channels).sum(0) / count
        variance = squares.view(-1, channels).sum(0) / count - mean.square()
        deviation = variance.clamp_min(0.0).sqrt() / 255.0
        return (mean / 255.0).float(), deviation.clamp_min(1e-6).float()
