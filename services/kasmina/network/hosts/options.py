"""Options of hosts: text by name, as a run names them, read as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping


class HostOptions:
    """What a host was told, checked against what it knows."""

    def __init__(
        self, host: str, given: Mapping[str, str], known: Mapping[str, int | float]
    ) -> None:
        """`known` has the defaults. Raises ValueError for an option that is not among them."""
        unknown = sorted(set(given) - set(known))
        if unknown:
            knows = f"knows {', '.join(sorted(known))}" if known else "has no options"
            raise ValueError(f"host_options has {', '.join(map(repr, unknown))}; {host} {knows}")
        self._host = host
        self._given = given
        self._known = known

    def count(self, name: str) -> int:
        """A whole number from 1 on. Raises ValueError for anything else."""
        text = self._given.get(name, str(self._known[name]))
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise self._refusal(name, text, "a whole number from 1 on")
        return int(text)

    def share(self, name: str) -> float:
        """A number in [0, 1). Raises ValueError for anything else."""
        text = self._given.get(name, str(self._known[name]))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0.0 <= value < 1.0:
            raise self._refusal(name, text, "a number in [0, 1)")
        return value

    def _refusal(self, name: str, text: str, allowed: str) -> ValueError:
        return ValueError(f"host_options {name} of {self._host} is {text!r}; it must be {allowed}")
