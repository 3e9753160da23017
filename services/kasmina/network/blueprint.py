"""Blueprints: what a seed can be.

Each is a residual function f of the host's map, sized to the slot's channels. The last layer of f
starts at zero, so that f(h) = 0 until the seed has learnt something: germinating one changes
nothing.

A dud is a seed that sees zeros in place of h: it costs what the seed costs, and can learn a bias at
best. Experiments have them, to see whether a policy finds them out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from kasmina.network.observing import counting
from kasmina.randomness import set_aside
from kasmina.registry import Registry

BlueprintBuilder = Callable[[int], nn.Module]
"""Builds f for a slot of so many channels: maps (batch, channels, height, width) to the same. All
parameters of its last layer, and of no other, must start at zero."""

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear, nn.BatchNorm2d)


class UnknownBlueprint(ValueError):
    """No blueprint of that name is registered."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown blueprint {name!r}; known blueprints: {', '.join(known)}")
        self.name = name
        self.known = tuple(known)


_NARROWEST = 4
"""Fewest channels inside a seed that narrows its slot's to a quarter."""


def conv3x3(channels: int) -> nn.Module:
    """Two 3x3 convolutions with batch norm and ReLU between them."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        _zeroed(nn.Conv2d(channels, channels, kernel_size=3, padding=1)),
    )


def conv1x1(channels: int) -> nn.Module:
    """Two 1x1 convolutions with batch norm and ReLU between them: no pixel sees its neighbours."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        _zeroed(nn.Conv2d(channels, channels, kernel_size=1)),
    )


def depthwise(channels: int) -> nn.Module:
    """A 3x3 convolution within each channel, batch norm, ReLU, and a 1x1 one across channels."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        _zeroed(nn.Conv2d(channels, channels, kernel_size=1)),
    )


def bottleneck(channels: int) -> nn.Module:
    """1x1 down to a quarter of the channels, 3x3 there, and 1x1 up again (He et al. 2016)."""
    hidden = max(channels // 4, _NARROWEST)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, kernel_size=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        _zeroed(nn.Conv2d(hidden, channels, kernel_size=1)),
    )


def norm(channels: int) -> nn.Module:
    """Batch norm that learns how much of the normalised map to add, and how much to shift it."""
    return _zeroed(nn.BatchNorm2d(channels))


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2018) as a residual: f(h) = h * tanh(gate), one gate a channel.

    h + f(h) = 2 h * sigmoid(2 gate): with a gate of zero it is the identity, and no channel grows
    beyond twice itself.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, _NARROWEST)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = _zeroed(nn.Linear(hidden, channels))

    def forward(self, h: Tensor) -> Tensor:
        """f(h), shaped like the map h (batch, channels, height, width)."""
        gate = self.excite(torch.relu(self.squeeze(h.mean(dim=(2, 3)))))
        residual: Tensor = h * torch.tanh(gate)[:, :, None, None]
        return residual


def _zeroed(layer: _Layer) -> _Layer:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Dud(nn.Module):
    """A seed that sees zeros."""

    def __init__(self, seed: nn.Module) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, h: Tensor) -> Tensor:
        """The seed's answer to nothing, shaped like the map h."""
        residual: Tensor = self.seed(torch.zeros_like(h))
        return residual


BLUEPRINTS: Registry[BlueprintBuilder] = Registry(
    "blueprint",
    "leyline.blueprints",
    {
        "bottleneck": bottleneck,
        "conv1x1": conv1x1,
        "conv3x3": conv3x3,
        "depthwise": depthwise,
        "norm": norm,
        "squeeze-excite": SqueezeExcite,
    },
    UnknownBlueprint,
)


def blueprint_names() -> tuple[str, ...]:
    """Names of the known blueprints, sorted."""
    return BLUEPRINTS.names()


def register_blueprint(name: str, builder: BlueprintBuilder) -> None:
    """Makes a blueprint known by a name of its own."""
    BLUEPRINTS.register(name, builder)


def check_blueprint(name: str) -> None:
    """Raises `UnknownBlueprint`, or `PlugInBroken`, unless `name` can be planted."""
    BLUEPRINTS.get(name)


def plant(name: str, channels: int, seed: int, *, dud: bool = False) -> nn.Module:
    """A seed for a slot of `channels` channels, on the processor.

    Its weights are drawn from `seed` alone. Raises `UnknownBlueprint` or `PlugInBroken`.
    """
    builder = BLUEPRINTS.get(name)
    with set_aside(seed):
        module = builder(channels)
    return Dud(module) if dud else module


def output_parameters(fresh: nn.Module) -> list[nn.Parameter]:
    """Parameters of the last layer of a seed that has learnt nothing yet.

    It is known by what every blueprint promises: it is the layer that starts at zero.
    """
    layers = [list(module.parameters(recurse=False)) for module in fresh.modules()]
    return [
        parameter
        for layer in layers
        if not any(bool(parameter.any()) for parameter in layer)
        for parameter in layer
    ]


@functools.cache
def parameter_count(name: str, channels: int) -> int:
    """Parameters of such a seed in a slot of `channels` channels. Raises as `plant` does."""
    return sum(parameter.numel() for parameter in plant(name, channels, seed=0).parameters())


@functools.cache
def multiply_adds(name: str, pixels: tuple[int, int, int]) -> int:
    """Multiply-adds of such a seed's forward pass over one map of `pixels`.

    `pixels` is channels, height and width. Raises as `plant` does.
    """
    seed = plant(name, pixels[0], seed=0).eval()
    with set_aside(0), counting() as count, torch.no_grad():
        seed(torch.zeros(1, *pixels))
    return count()
