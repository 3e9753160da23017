"""Evaluates the network that an episode left: the only reader of the test split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from kasmina.data.dataset import DatasetSettings, load_dataset, load_test_split
from kasmina.training.network_file import read_network
from kasmina.training.telemetry import bounded

_BATCH = 500


@dataclass(frozen=True)
class Evaluation:
    """How well a network classifies.

    Attributes:
        loss: mean cross-entropy in nats; bounded as in snapshots.
        accuracy: share of images classified right, in [0, 1].
    """

    loss: float
    accuracy: float
    images: int


@torch.no_grad()
def evaluate(
    network: Path, settings: DatasetSettings, *, on_test_split: bool, device: str = "cpu"
) -> Evaluation:
    """Loss and accuracy of a network file on the test split or on the validation split, in fp32.

    Raises `DatasetError` or `CheckpointError`.
    """
    grown = read_network(network)
    grown.network.to(device)
    split = load_test_split(settings) if on_test_split else load_dataset(settings).validation
    loss, right = 0.0, 0
    for some, truth in zip(split.images.split(_BATCH), split.labels.split(_BATCH), strict=True):
        labels = truth.to(device)
        logits = grown.classify(some.to(device))
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return Evaluation(bounded(loss / len(split)), right / len(split), len(split))
