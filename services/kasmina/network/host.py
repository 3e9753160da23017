"""Hosts: the networks that grow, and the places in them where a seed can sit.

A host lets others visit the activation at each of its sites on the way from images to logits, and
takes up what they return. Whatever can do that can grow: `StagedHost` is a row of stages with a
slot after each; `kasmina.network.module_host` makes one of any module.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

Layout = Literal["map", "tokens", "features"]
"""How an activation is laid out: (batch, channels, height, width), (batch, tokens, channels) or
(batch, channels)."""

Visit = Callable[[int, Tensor], Tensor]
"""Gets the depth of a site and the activation there, and returns what goes on in its place, which
is laid out alike. It must not change the activation itself."""

_FORMS_OF_A_PART = 12
"""In which a part of a host may be met and compiled: in training, validation, shadow passes and
ablations, and in the last and smaller batch of each."""


@dataclass(frozen=True)
class HostShape:
    """What a host is built for."""

    image: tuple[int, int, int]
    """Channels, height and width of an input image."""
    classes: int
    """Number of classes: the length of the logits."""
    channels: tuple[int, ...] = ()
    """Width of each stage, from the input on; empty: the host's own."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What else the host is told."""


@dataclass(frozen=True)
class Site:
    """A place in a host where a seed can sit."""

    slot_id: str
    """Name of the slot there."""
    width: int
    """Channels of the activation."""
    layout: Layout = "map"

    def as_map(self, h: Tensor) -> Tensor:
        """The activation as seeds see it: (batch, channels, height, width), a view.

        Tokens are a column of pixels, features a single one.
        """
        match self.layout:
            case "map":
                return h
            case "tokens":
                return h.transpose(1, 2).unsqueeze(-1)
            case "features":
                return h[:, :, None, None]

    def from_map(self, pixels: Tensor) -> Tensor:
        """What `as_map` made a map of."""
        match self.layout:
            case "map":
                return pixels
            case "tokens":
                return pixels.squeeze(-1).transpose(1, 2)
            case "features":
                return pixels.flatten(1)


class Host(nn.Module, abc.ABC):
    """A network that can be visited at its sites."""

    sites: tuple[Site, ...]
    """In order of depth, from the input on: a site's place here is its depth."""

    @abc.abstractmethod
    def through(self, images: Tensor, visit: Visit) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width).

        Every site is visited once, in order of depth.
        """

    @abc.abstractmethod
    def downstream(self, depth: int, h: Tensor, images: Tensor, visit: Visit) -> Tensor:
        """Logits (batch, classes) when `h` leaves the site at `depth`, which is not visited.

        `images` are those that led to `h`. No gradient reaches anything before the site, nor
        passes by it. A host that has to compute again what lies before the site visits the sites
        there too.
        """

    @abc.abstractmethod
    def downstream_modules(self, depth: int) -> Iterable[nn.Module]:
        """Every module that `downstream` passes through, layers within layers included."""

    @abc.abstractmethod
    def section(self, depth: int) -> Iterable[nn.Parameter]:
        """Parameters of the part of the host that ends at the site: learning pressure at that depth
        is read from their gradient."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width), all slots empty."""
        return self.through(images, lambda depth, h: h)


class StagedHost(Host):
    """Stages with a slot after each, and a head that turns the last activation into logits.

    Slots are `slot-0` and so on. A stage must not change its input in place.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        widths: Sequence[int],
        head: nn.Module,
        layout: Layout = "map",
    ) -> None:
        super().__init__()
        if len(stages) != len(widths):
            raise ValueError(f"{len(stages)} stages but {len(widths)} widths")
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.sites = tuple(
            Site(f"slot-{depth}", width, layout) for depth, width in enumerate(widths)
        )

    def through(self, images: Tensor, visit: Visit) -> Tensor:
        h = images
        for depth, stage in enumerate(self.stages):
            h = visit(depth, stage(h))
        logits: Tensor = self.head(h)
        return logits

    def downstream(self, depth: int, h: Tensor, images: Tensor, visit: Visit) -> Tensor:
        for later in range(depth + 1, len(self.stages)):
            h = visit(later, self.stages[later](h))
        logits: Tensor = self.head(h)
        return logits

    def downstream_modules(self, depth: int) -> Iterable[nn.Module]:
        for stage in self.stages[depth + 1 :]:
            yield from stage.modules()
        yield from self.head.modules()

    def section(self, depth: int) -> Iterable[nn.Parameter]:
        return self.stages[depth].parameters()


def compile_host(host: Host) -> None:
    """Lets torch.compile compile each stage of the host, in place, and its head.

    Slots stay between what is compiled. Every shape is compiled by itself, so that what a stage
    computes does not depend on what else it has met. Raises ValueError for a host without stages.
    """
    if not isinstance(host, StagedHost):
        raise ValueError("compile asks for a host that is made of stages, and this one is not")
    from torch._dynamo import config  # 1 s to import, and needed here alone

    parts = (*host.stages, host.head)
    # All parts share one limit, past which the rest would silently run uncompiled.
    config.recompile_limit = max(config.recompile_limit, _FORMS_OF_A_PART * len(parts))
    for part in parts:
        part.compile(dynamic=False)
