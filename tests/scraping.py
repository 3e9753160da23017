"""A scrape, as Prometheus makes it."""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Scrape:
    """What a service showed at one moment."""

    text: str

    def value(self, name: str, **labels: str) -> float | None:
        """Value of the sample with exactly these labels; None where there is none."""
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    def total(self, name: str) -> float:
        """Sum over all labels."""
        families = text_string_to_metric_families(self.text)
        return sum(
            sample.value for family in families for sample in family.samples if sample.name == name
        )


OPENMETRICS = "application/openmetrics-text; version=1.0.0"
"""The format that Prometheus asks for first."""


async def scraped(
    address: object, context: ssl.SSLContext | None = None, accept: str = "text/plain"
) -> Scrape:
    """Scrape `HOST:PORT`; over HTTPS where a context is given."""

    def get() -> str:
        scheme = "http" if context is None else "https"
        where = urllib.request.Request(f"{scheme}://{address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(where, timeout=60, context=context) as response:
            text: str = response.read().decode()
            return text

    return Scrape(await asyncio.to_thread(get))
