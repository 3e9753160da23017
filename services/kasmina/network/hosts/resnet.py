"""ResNet-18 as it is built for small images (He et al. 2016): a 3x3 stem and no max-pooling."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from kasmina.network.host import HostShape, StagedHost
from kasmina.network.hosts.options import HostOptions

CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm, and a way past them.

    The way past is a 1x1 convolution with batch norm where width or size change.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(after),
            )

    def forward(self, h: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, after, height / stride, width / stride)."""
        return torch.relu(self.residual(h) + self.shortcut(h))


def resnet18(shape: HostShape) -> StagedHost:
    """Four stages of two basic blocks, each but the first halving the map, with a slot after each.

    The first stage has the stem; the head is global average pooling and a linear layer. There are
    no options. Raises ValueError.
    """
    channels = shape.channels or CHANNELS
    if len(channels) != len(CHANNELS):
        raise ValueError(f"channels has {len(channels)} stages; resnet18 has {len(CHANNELS)}")
    HostOptions("resnet18", shape.options, {})
    stem = [
        nn.Conv2d(shape.image[0], channels[0], kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
    ]
    stages = [_stage(channels[0], channels[0], stride=1, before_it=stem)]
    stages += [_stage(before, after, stride=2) for before, after in itertools.pairwise(channels)]
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], shape.classes)
    )
    host = StagedHost(stages, channels, head)
    for module in host.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return host


def _stage(
    before: int, after: int, stride: int, before_it: list[nn.Module] | None = None
) -> nn.Module:
    blocks = BasicBlock(before, after, stride), BasicBlock(after, after, stride=1)
    return nn.Sequential(*(before_it or []), *blocks)
