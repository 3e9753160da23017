"""What Prometheus is told of ingest: how much, how fast, and how far behind the trainers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from leyline.v1.experience_pb2 import ExperienceItem

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAGS = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 86400)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class IngestMetrics:
    """Numbers of the one writer of experience."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Count into ``registry``."""
        self._items = Counter(
            "leyline_ingested_items_total",
            "Transitions and ends of episodes: accepted, known ones included, or rejected.",
            ("outcome",),
            registry=registry,
        )
        self._seconds = Histogram(
            "leyline_ingest_seconds",
            "From a message's arrival to its commit, in seconds.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._lag = Histogram(
            "leyline_ingest_lag_seconds",
            "From when a message's first item came to be, by its trainer's clock, to its commit.",
            registry=registry,
            buckets=_LAGS,
        )
        self._group = Histogram(
            "leyline_commit_items",
            "Items that were committed together.",
            registry=registry,
            buckets=_ITEMS,
        )

    def committed(self, items: int) -> None:
        """Count a commit."""
        self._group.observe(items)

    def recorded(self, items: Sequence[ExperienceItem], rejected: int, seconds: float) -> None:
        """Count a message of which so many items were rejected, so long after it came."""
        self._items.labels("accepted").inc(len(items) - rejected)
        self._items.labels("rejected").inc(rejected)
        self._seconds.observe(seconds)
        completed_s = _completed_s(items[0]) if len(items) > rejected else 0.0
        if completed_s:
            self._lag.observe(max(0.0, time.time() - completed_s))


def _completed_s(item: ExperienceItem) -> float:
    """When an item came to be, in seconds since 1970; 0 where it does not say so."""
    ended = item.WhichOneof("item") == "episode_end"
    then = item.episode_end.ended_at if ended else item.transition.completed_at
    # Not by its own methods, which raise for a time that breaks the rules.
    return float(then.seconds + then.nanos / 1e9)
