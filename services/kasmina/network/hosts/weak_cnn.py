"""A deliberately weak convolutional network, so that seeds can help."""

from __future__ import annotations

import itertools

from torch import nn

from kasmina.network.host import HostShape, StagedHost
from kasmina.network.hosts.options import HostOptions

CHANNELS = (16, 32, 64)
MAX_STAGES = 12


def weak_cnn(shape: HostShape) -> StagedHost:
    """1 to 12 stages of 3x3 convolutions, and a head of global average pooling and a linear layer.

    A stage is a 3x3 convolution without bias, batch norm, ReLU and 2x2 max-pooling; it does not
    pool where the map is a pixel wide or high already. With the option `blocks` (1), that many
    convolutions, each with its batch norm and ReLU, of which the last pools. Raises ValueError.
    """
    channels = shape.channels or CHANNELS
    if len(channels) > MAX_STAGES:
        raise ValueError(f"channels has {len(channels)} stages; weak-cnn has 1 to {MAX_STAGES}")
    blocks = HostOptions("weak-cnn", shape.options, {"blocks": 1}).count("blocks")
    side = min(shape.image[1:])
    stages = []
    for before, after in itertools.pairwise((shape.image[0], *channels)):
        pools = side >= 2
        widths = itertools.pairwise((before, *[after] * blocks))
        layers = [_block(*pair, pools and last == blocks) for last, pair in enumerate(widths, 1)]
        stages.append(nn.Sequential(*itertools.chain(*layers)))
        side //= 2 if pools else 1
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], shape.classes)
    )
    return StagedHost(stages, channels, head)


def _block(before: int, after: int, pools: bool) -> list[nn.Module]:
    # ReLU and max-pooling may change places without changing the function; this way round, ReLU has
    # a quarter to do.
    return [
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        *([nn.MaxPool2d(2)] if pools else []),
        nn.ReLU(),
    ]
