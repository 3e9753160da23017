"""The Prometheus of a stack, as a test asks it."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

# Of how far back a query is answered, and how fine: no finer than it is scraped.
_STEP_S = 1


class Prometheus:
    """A server at HOST:PORT."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._began = time.time()

    def values(self, expression: str) -> list[float]:
        """Numbers that an expression has had since this was made, over all series.

        What is not a number is none: a panel shows nothing for it, too.
        """
        found = self._ask(
            "query_range",
            query=expression,
            start=f"{self._began:.3f}",
            end=f"{time.time():.3f}",
            step=str(_STEP_S),
        )
        numbers = [float(value) for series in found["result"] for _, value in series["values"]]
        return [number for number in numbers if math.isfinite(number)]

    def labels(self, name: str, expression: str) -> list[str]:
        """Values of a label on the series of a selector."""
        found: list[str] = self._ask(f"label/{name}/values", **{"match[]": expression})
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with what became of its last evaluation."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, what: str, **parameters: str) -> Any:
        where = f"http://{self._address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(where, timeout=120) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
