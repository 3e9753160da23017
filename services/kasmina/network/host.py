"""Hosts: the networks that grow. A host is a row of stages with a slot after each, and a head.

The slot at depth d sits between stage d and what follows it, so that a seed there sees, and adds
to, a map of `widths[d]` channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kasmina.randomness import set_aside


class UnknownHost(ValueError):
    """No host of that name is registered."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown host {name!r}; known hosts: {', '.join(known)}")
        self.name = name
        self.known = tuple(known)


@dataclass(frozen=True)
class HostShape:
    """What a host is built for."""

    image: tuple[int, int, int]
    """Channels, height and width of an input image."""
    classes: int
    """Number of classes: the length of the logits."""
    channels: tuple[int, ...]
    """Width of each stage, from the input on."""


class Host(nn.Module):
    """Stages with a slot after each, and a head that turns the last map into logits.

    Subclass or fill it with your own stages; nothing else is asked of a host.
    """

    def __init__(self, stages: Sequence[nn.Module], widths: Sequence[int], head: nn.Module) -> None:
        super().__init__()
        if len(stages) != len(widths):
            raise ValueError(f"{len(stages)} stages but {len(widths)} widths")
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.widths = tuple(widths)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width), all slots empty."""
        h = images
        for stage in self.stages:
            h = stage(h)
        logits: Tensor = self.head(h)
        return logits


HostBuilder = Callable[[HostShape], Host]


def weak_cnn(shape: HostShape) -> Host:
    """A deliberately weak convolutional network, so that seeds can help.

    A stage is a 3x3 convolution without bias, batch norm, ReLU and 2x2 max-pooling; the head is
    global average pooling and a linear layer. Images from 8x8 on leave a map for each of three
    stages.
    """
    smallest = 2 ** len(shape.channels)
    if min(shape.image[1:]) < smallest:
        raise ValueError(
            f"weak-cnn with {len(shape.channels)} stages needs images of at least"
            f" {smallest}x{smallest}, not {shape.image[1]}x{shape.image[2]}"
        )
    widths = [shape.image[0], *shape.channels]
    stages = [_block(before, after) for before, after in itertools.pairwise(widths)]
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape.channels[-1], shape.classes)
    )
    return Host(stages, shape.channels, head)


def _block(before: int, after: int) -> nn.Module:
    # ReLU and max-pooling may change places without changing the function; this way round, ReLU has
    # a quarter to do.
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.MaxPool2d(2),
        nn.ReLU(),
    )


_BUILDERS: dict[str, HostBuilder] = {"weak-cnn": weak_cnn}


def host_names() -> tuple[str, ...]:
    """Names of the registered hosts, sorted."""
    return tuple(sorted(_BUILDERS))


def register_host(name: str, builder: HostBuilder) -> None:
    """Makes a host known by `name`. A name is given once."""
    if name in _BUILDERS:
        raise ValueError(f"a host named {name!r} is registered already")
    _BUILDERS[name] = builder


def check_host(name: str) -> None:
    """Raises `UnknownHost` unless `name` is registered."""
    if name not in _BUILDERS:
        raise UnknownHost(name, host_names())


def build_host(name: str, shape: HostShape, seed: int) -> Host:
    """A host with weights drawn from `seed` alone, on the processor. Raises `UnknownHost`."""
    check_host(name)
    with set_aside(seed):
        return _BUILDERS[name](shape)
