"""The reference: a plain PyTorch loop over the weak host, as somebody would write it without slots.

    python -m tests.benchmarks.bare_loop --intervals 5

prints the seconds of each interval, validation included, as a JSON list. Host, data, batches,
augmentation and normalisation are Kasmina's, so that what differs is the slots and all that comes
with them.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor
from torch.nn import functional

from kasmina.data.dataset import Dataset, DatasetSettings, load_dataset
from kasmina.network.host import HostShape, build_host
from kasmina.training.augmentation import Augmentation, normalise
from kasmina.training.order import BatchOrder

BATCH = 100
INTERVAL_BATCHES = 50
TRAIN_IMAGES = 20_000
VALIDATION_IMAGES = 2_000


class BareLoop:
    """The network, its optimiser and its data."""

    def __init__(self, dataset: Dataset, intervals: int) -> None:
        self.dataset = dataset
        shape = HostShape(dataset.shape, dataset.classes, channels=(16, 32, 64))
        self.network = build_host("weak-cnn", shape, seed=0).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        steps = intervals * INTERVAL_BATCHES
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.order = BatchOrder(len(dataset.train), BATCH, seed=0)
        self.augmentation = Augmentation(seed=0)

    def interval(self) -> float:
        """Trains and validates one interval; the validation accuracy in [0, 1]."""
        self.network.train()
        total = torch.zeros(())
        for _ in range(INTERVAL_BATCHES):
            indices = self.order.next_batch()
            images = self.augmentation(self.dataset.train.images[indices])
            loss = functional.cross_entropy(
                self.network(self.prepared(images)), self.dataset.train.labels[indices]
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
        return self.validate()

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy on the validation split."""
        self.network.eval()
        split = self.dataset.validation
        right = 0
        for images, labels in zip(split.images.split(500), split.labels.split(500), strict=True):
            right += int((self.network(self.prepared(images)).argmax(1) == labels).sum())
        return right / len(split)

    def prepared(self, images: Tensor) -> Tensor:
        return normalise(images, self.dataset.mean, self.dataset.deviation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--intervals", type=int, required=True)
    parser.add_argument("--dataset", default="cifar100")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = DatasetSettings(
        name=arguments.dataset, train_images=TRAIN_IMAGES, validation_images=VALIDATION_IMAGES
    )
    loop = BareLoop(load_dataset(settings), arguments.intervals)
    seconds = []
    for _ in range(arguments.intervals):
        start = time.perf_counter()
        loop.interval()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
