"""Hosts of every kind, small enough to be quick: the same laws hold for all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from kasmina.network.host import Host, HostShape
from kasmina.network.hosts import host_names, register_host
from kasmina.network.hosts.weak_cnn import weak_cnn
from kasmina.network.module_host import ModuleHost


def noisy_cnn(shape: HostShape) -> Host:
    """A host whose layers draw random numbers while it trains."""
    host = weak_cnn(shape)
    host.head.insert(2, nn.Dropout(0.3))  # type: ignore[operator]
    host.stages[1].append(nn.Dropout2d(0.2))  # type: ignore[operator]
    return host


class Foreign(nn.Module):
    """Somebody's own module, with what makes it hard to grow in.

    What the stem gives is overwritten in place and bypasses every later slot; layers draw random
    numbers; a spectral norm keeps vectors that move in every pass; activations are maps, tokens and
    features.
    """

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)
        )
        self.overwrite = nn.ReLU(inplace=True)
        self.middle = nn.Sequential(
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(0.2),
        )
        self.tokens = nn.Linear(width, width)
        self.features = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        h = self.overwrite(self.stem(images))
        middle = self.middle(h) + h
        tokens = self.tokens(middle[:, :, ::2, ::2].flatten(2).transpose(1, 2))
        features = self.features(torch.relu(tokens).mean(1)) + h.mean((2, 3))
        logits: Tensor = self.classifier(torch.relu(features))
        return logits


FOREIGN = "foreign"
SUBMODULES = ("stem", "middle", "tokens", "features")


def foreign(shape: HostShape) -> Host:
    return ModuleHost(Foreign(shape.classes), SUBMODULES, sample=torch.zeros(2, *shape.image))


for name, builder in (("noisy-cnn", noisy_cnn), (FOREIGN, foreign)):
    if name not in host_names():
        register_host(name, builder)

HOSTS: dict[str, dict[str, Any]] = {
    "noisy-cnn": {"channels": (4, 6, 8)},
    "resnet18": {"channels": (4, 4, 6, 8)},
    "vit": {
        "channels": (8, 8, 8),
        "host_options": {"depth": "3", "heads": "2", "dropout": "0.2"},
    },
    FOREIGN: {},
}
"""Settings of a trainer by host; each has slots from `slot-0` to `slot-2`, and maybe more."""
