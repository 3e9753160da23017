"""Blueprints: what a seed can be.

Each is a residual function f of the host's map, sized to the slot's channels. The last layer of f
starts at zero, so that f(h) = 0 until the seed has learnt something: germinating one changes
nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from kasmina.randomness import set_aside

BlueprintBuilder = Callable[[int], nn.Module]

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


class UnknownBlueprint(ValueError):
    """No blueprint of that name is registered."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown blueprint {name!r}; known blueprints: {', '.join(known)}")
        self.name = name
        self.known = tuple(known)


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


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2018) as a residual: f(h) = h * tanh(gate), one gate a channel.

    h + f(h) = 2 h * sigmoid(2 gate): with a gate of zero it is the identity, and no channel grows
    beyond twice itself.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 4)
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


_BUILDERS: dict[str, BlueprintBuilder] = {
    "conv3x3": conv3x3,
    "conv1x1": conv1x1,
    "depthwise": depthwise,
    "squeeze-excite": SqueezeExcite,
}


def blueprint_names() -> tuple[str, ...]:
    """Names of the registered blueprints, sorted."""
    return tuple(sorted(_BUILDERS))


def register_blueprint(name: str, builder: BlueprintBuilder) -> None:
    """Makes a blueprint known by a name of its own. Its last layer must start at zero."""
    if name in _BUILDERS:
        raise ValueError(f"a blueprint named {name!r} is registered already")
    _BUILDERS[name] = builder


def check_blueprint(name: str) -> None:
    """Raises `UnknownBlueprint` unless `name` is registered."""
    if name not in _BUILDERS:
        raise UnknownBlueprint(name, blueprint_names())


def plant(name: str, channels: int, seed: int) -> nn.Module:
    """A seed for a slot of `channels` channels, on the processor.

    Its weights are drawn from `seed` alone. Raises `UnknownBlueprint`.
    """
    check_blueprint(name)
    with set_aside(seed):
        return _BUILDERS[name](channels)


@functools.cache
def parameter_count(name: str, channels: int) -> int:
    """Parameters of such a seed in a slot of `channels` channels. Raises `UnknownBlueprint`."""
    return sum(parameter.numel() for parameter in plant(name, channels, seed=0).parameters())
