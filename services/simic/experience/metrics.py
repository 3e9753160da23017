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
            "From a message's first accepted item, by its trainer's clock, to its commit.",
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

    def recorded(self, accepted: Sequence[ExperienceItem], rejected: int, seconds: float) -> None:
        """Count a message, so long after it came."""
        self._items.labels("accepted").inc(len(accepted))
        self._items.labels("rejected").inc(rejected)
        self._seconds.observe(seconds)
        if accepted:
            self._lag.observe(max(0.0, time.time() - _completed_s(accepted[0])))


def _completed_s(item: ExperienceItem) -> float:
    """When an item came to be, in seconds since 1970."""
    ended = item.WhichOneof("item") == "episode_end"
    then = item.episode_end.ended_at if ended else item.transition.completed_at
    return then.ToNanoseconds() / 1e9
