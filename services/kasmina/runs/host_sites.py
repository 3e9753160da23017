"""The slots of a host that a specification names, found before there is an image."""

from __future__ import annotations

import functools

import torch

from kasmina.network.host import HostShape, Site
from kasmina.network.hosts import build_host, check_host
from leyline.v1.trainer_pb2 import HostSpec

_USUAL_SIDES = (32, 28, 64, 96, 224, 8)
_CLASSES = 10


def sites_of(host: HostSpec, image_size: int) -> tuple[Site, ...]:
    """The host's sites, in order of depth, for square images of that side; 0 where it is not known.

    Raises `UnknownHost`, `PlugInBroken`, or ValueError where there is no such host; without a size
    only where there is none for any of the usual ones.
    """
    check_host(host.name)
    described = host.name, tuple(host.channels), tuple(sorted(host.options.items()))
    refusals: list[ValueError] = []
    for side in (image_size,) if image_size else _USUAL_SIDES:
        try:
            return _sites(*described, side)
        except ValueError as refusal:
            refusals.append(refusal)
    raise refusals[0]


def own_channels(host: HostSpec, image_size: int) -> tuple[int, ...]:
    """Widths of the host's stages, where it has stages of a width that can be chosen; else none.

    Raises as `sites_of`.
    """
    widths = tuple(site.width for site in sites_of(host, image_size))
    return widths if _widths_of(host, image_size, widths) == widths else ()


def can_narrow_each_stage(host: HostSpec, image_size: int, factor: float) -> bool:
    """Whether every stage alone can be narrowed by that factor."""
    channels = tuple(host.channels)
    narrowed = [
        (*channels[:depth], max(round(width * factor), 1), *channels[depth + 1 :])
        for depth, width in enumerate(channels)
    ]
    return bool(narrowed) and all(
        _widths_of(host, image_size, widths) == widths for widths in narrowed
    )


def _widths_of(
    host: HostSpec, image_size: int, channels: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Widths at the sites when those are asked for; None where the host refuses."""
    chosen = HostSpec(name=host.name, channels=channels, options=host.options)
    try:
        return tuple(site.width for site in sites_of(chosen, image_size))
    except ValueError:
        return None


@functools.lru_cache(maxsize=256)
def _sites(
    name: str, channels: tuple[int, ...], options: tuple[tuple[str, str], ...], side: int
) -> tuple[Site, ...]:
    shape = HostShape((3, side, side), _CLASSES, channels, dict(options))
    with torch.device("meta"):  # whatever widths were asked for, nothing is allocated
        return build_host(name, shape, seed=0).sites
