"""The reference of cost: a plain PyTorch loop over the weak host, without slots.

Host, data, batches, augmentation, normalisation and precision are Kasmina's, so that what differs
is the slots and all that comes with them. One thread.
"""

from __future__ import annotations

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

from kasmina.data.dataset import load_dataset
from kasmina.data.images import Dataset
from kasmina.network.host import HostShape
from kasmina.network.hosts import build_host
from kasmina.training.augmentation import Augmentation, normalise
from kasmina.training.order import BatchOrder


class BareLoop:
    """The network, its optimiser and its data."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        shape = HostShape(dataset.shape, dataset.classes, channels=CHANNELS)
        self.network = build_host("weak-cnn", shape, seed=0).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            nesterov=True,
        )
        self.order = BatchOrder(len(dataset.train), BATCH, seed=0)
        self.augmentation = Augmentation(seed=0)

    def interval(self) -> float:
        """Trains and validates one interval; the validation accuracy in [0, 1]."""
        self.network.train()
        total = torch.zeros(())
        for _ in range(INTERVAL_BATCHES):
            images, labels = self.dataset.train.take(self.order.next_batch())
            logits = self.network(self.prepared(self.augmentation(images)))
            loss = functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return self.validate()

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy on the validation split."""
        self.network.eval()
        split, size = self.dataset.validation, VALIDATION_BATCH
        right = 0
        for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
            right += int((self.network(self.prepared(images)).argmax(1) == labels).sum())
        return right / len(split)

    def prepared(self, images: Tensor) -> Tensor:
        return normalise(images, self.dataset.mean, self.dataset.deviation)


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer("bare loop, one thread, fp32", BareLoop(load_dataset(DATA)).interval)
