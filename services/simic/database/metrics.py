"""Whether the database answers, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text

from chassis.errors import LeylineError
from simic.database.database import Database


class DatabaseMetrics(Collector):
    """Asks the database at each scrape."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: the database need not be there yet."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give 1 where it answers now, else 0; blocks on it."""
        try:
            with self._database.read() as connection:
                connection.execute(text("SELECT 1"))
            answers = 1
        except LeylineError:
            answers = 0
        yield GaugeMetricFamily(
            "leyline_database_up", "Whether the database answers: 0 or 1.", value=answers
        )
