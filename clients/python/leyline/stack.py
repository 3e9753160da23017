"""The three services as one machine runs them: who listens where, and who is told of whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from leyline.supervision import Service, free_address

NAMES = ("simic", "tamiyo", "kasmina")
"""The services, those first that others call."""


@dataclass(frozen=True)
class Addresses:
    """Where the services listen, and where clients find them. The values are the defaults."""

    kasmina: str = "127.0.0.1:50051"
    tamiyo: str = "127.0.0.1:50052"
    simic: str = "127.0.0.1:50053"

    @classmethod
    def free(cls) -> Addresses:
        """Return addresses on loopback that nobody listens on now."""
        chosen: set[str] = set()
        while len(chosen) < len(fields(cls)):
            chosen.add(free_address())
        return cls(*chosen)


def services(addresses: Addresses, directory: Path, policy: str | None) -> Iterator[Service]:
    """Return what a supervisor runs.

    Args:
        addresses: where each listens.
        directory: each keeps its state in a folder of its name below it.
        policy: name of Tamiyo's policy; None leaves it to Tamiyo's own settings.
    """
    neighbours = {
        "simic": (),
        "tamiyo": (
            *("--registry", addresses.simic),
            *(("--policy", policy) if policy is not None else ()),
        ),
        "kasmina": (
            *("--policy", f"default={addresses.tamiyo}"),
            *("--experience", addresses.simic),
        ),
    }
    for name in NAMES:
        state = ("--state-dir", str(directory / name))
        yield Service(name, getattr(addresses, name), (*state, *neighbours[name]))
