"""The reference of speed: torchvision's CIFAR-100 and a DataLoader, as tutorials have it.

Crop, flip, ToTensor and Normalize on one image at a time; fp32, NCHW, all cores. It takes the
number of loader's workers with which it is fastest here. Network, batches and validation are
Kasmina's.
"""

from __future__ import annotations

import os
import time

import torch
from tests.benchmarks.reference import answer
from tests.benchmarks.workload import (
    BATCH,
    CHANNELS,
    DATA,
    INTERVAL_BATCHES,
    LEARNING_RATE,
    MOMENTUM,
    VALIDATION_BATCH,
    WEIGHT_DECAY,
)
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import CIFAR100

from kasmina.data.dataset import load_dataset
from kasmina.data.images import Dataset, ImageSplit
from kasmina.network.host import HostShape
from kasmina.network.hosts import build_host

Batches = DataLoader[tuple[Tensor, Tensor]]


def cifar(split: ImageSplit, transform: transforms.Compose) -> CIFAR100:
    """torchvision's own data set over images that are in memory already.

    Its constructor reads Toronto's archive, which may not be here; what it costs to take an image
    is the rest of the class.
    """
    dataset = CIFAR100.__new__(CIFAR100)
    dataset.data = split.images.permute(0, 2, 3, 1).contiguous().numpy()
    dataset.targets = split.labels.tolist()
    dataset.transform = transform
    dataset.target_transform = None
    return dataset


class LoaderLoop:
    """The network, its optimiser and its loaders."""

    def __init__(self, dataset: Dataset, workers: int) -> None:
        shape = HostShape(dataset.shape, dataset.classes, channels=CHANNELS)
        self.network = build_host("weak-cnn", shape, seed=0)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            nesterov=True,
        )
        end = [
            transforms.ToTensor(),
            transforms.Normalize(dataset.mean.tolist(), dataset.deviation.tolist()),
        ]
        augmenting = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        images = cifar(dataset.train, transforms.Compose([*augmenting, *end]))
        # An interval's worth of images from a fresh shuffle.
        sampler = RandomSampler(images, num_samples=INTERVAL_BATCHES * BATCH)
        self.training: Batches = DataLoader(
            images, BATCH, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
        )
        self.validation: Batches = DataLoader(
            cifar(dataset.validation, transforms.Compose(end)),
            VALIDATION_BATCH,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def interval(self) -> float:
        """Trains and validates one interval; the validation accuracy in [0, 1]."""
        self.network.train()
        for images, labels in self.training:
            loss = functional.cross_entropy(self.network(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return self.validate()

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy on the validation split."""
        self.network.eval()
        right = images_seen = 0
        for images, labels in self.validation:
            right += int((self.network(images).argmax(1) == labels).sum())
            images_seen += len(labels)
        return right / images_seen


def fastest(dataset: Dataset) -> tuple[int, LoaderLoop]:
    """The best number of workers, none to one a core, by the second interval of each."""
    seconds = {}
    for workers in range((os.cpu_count() or 1) + 1):
        loop = LoaderLoop(dataset, workers)
        loop.interval()
        start = time.perf_counter()
        loop.interval()
        seconds[workers] = time.perf_counter() - start
    best = min(seconds, key=lambda workers: seconds[workers])
    return best, LoaderLoop(dataset, best)


if __name__ == "__main__":
    workers, loop = fastest(load_dataset(DATA))
    answer(f"loader with {workers} workers, {torch.get_num_threads()} threads, fp32", loop.interval)
