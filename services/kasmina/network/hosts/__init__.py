"""The hosts that come with Kasmina, each in a module of its own, and those that packages bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kasmina.network.host import Host, HostShape
from kasmina.network.hosts.resnet import resnet18
from kasmina.network.hosts.vit import vit
from kasmina.network.hosts.weak_cnn import weak_cnn
from kasmina.randomness import set_aside
from kasmina.registry import Registry

HostBuilder = Callable[[HostShape], Host]
"""Builds a host. It raises ValueError where there is none for a shape: the message begins with
"channels" or "host_options" where one of those is to blame."""


class UnknownHost(ValueError):
    """No host of that name is known."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown host {name!r}; known hosts: {', '.join(known)}")
        self.name = name
        self.known = tuple(known)


HOSTS: Registry[HostBuilder] = Registry(
    "host",
    "leyline.hosts",
    {"weak-cnn": weak_cnn, "resnet18": resnet18, "vit": vit},
    UnknownHost,
)


def host_names() -> tuple[str, ...]:
    """Names of the known hosts, sorted."""
    return HOSTS.names()


def register_host(name: str, builder: HostBuilder) -> None:
    """Makes a host known by `name`. A name is given once."""
    HOSTS.register(name, builder)


def check_host(name: str) -> None:
    """Raises `UnknownHost`, or `PlugInBroken`, unless `name` can be built."""
    HOSTS.get(name)


def build_host(name: str, shape: HostShape, seed: int) -> Host:
    """A host with weights drawn from `seed` alone, on the processor.

    Raises `UnknownHost`, `PlugInBroken`, or ValueError where it cannot be built for the shape.
    """
    builder = HOSTS.get(name)
    with set_aside(seed):
        return builder(shape)
