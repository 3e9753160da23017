"""What a policy server tells Prometheus beside its calls: decisions, batches, versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.decision_pb2 import ActionType, Decision

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class PolicyMetrics:
    """Numbers of one policy. None has an episode, a run or a version for a label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Count into ``registry``."""
        self._decisions = Counter(
            "leyline_decisions_total", "Decisions made.", ("action_type",), registry=registry
        )
        self._decisions_of = {
            number: self._decisions.labels(ActionType.Name(number).removeprefix("ACTION_TYPE_"))
            for number in ActionType.values()[1:]
        }
        self._errors = Counter(
            "leyline_decision_errors_total",
            "Queries that got an error instead, by its reason.",
            ("reason",),
            registry=registry,
        )
        self._seconds = Histogram(
            "leyline_decision_seconds",
            "From a query's arrival to its decision, in seconds.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._sizes = Histogram(
            "leyline_decision_batch_size",
            "Queries that a version answered together.",
            registry=registry,
            buckets=_SIZES,
        )
        self._shadow = Counter(
            "leyline_shadow_decisions_total",
            "Decisions of the shadow, by whether it agreed with what was served.",
            ("agrees",),
            registry=registry,
        )
        for agrees in ("true", "false"):
            self._shadow.labels(agrees)

    def decided(self, decision: Decision, seconds: float) -> None:
        """Count a decision that took so long."""
        self._decisions_of[decision.action_type].inc()
        self._seconds.observe(seconds)

    def failed(self, error: Exception) -> None:
        """Count a query that got an error."""
        code = error.code if isinstance(error, LeylineError) else ErrorCode.INTERNAL
        self._errors.labels(code.name).inc()

    def answered(self, queries: int) -> None:
        """Count a batch."""
        self._sizes.observe(queries)

    def compared(self, *, agrees: bool) -> None:
        """Count a decision of the shadow."""
        self._shadow.labels(str(agrees).lower()).inc()


class Loading(Protocol):
    """Versions that come from elsewhere."""

    @property
    def loaded(self) -> int:
        """How often one was taken from the registry."""

    @property
    def refused(self) -> int:
        """How often one could not be used."""


class VersionMetrics(Collector):
    """How often versions were loaded and refused."""

    def __init__(self, versions: Loading) -> None:
        """Ask ``versions`` at each scrape."""
        self._versions = versions

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Give the counts of now."""
        yield CounterMetricFamily(
            "leyline_policy_loads",
            "How often a version was taken from the registry.",
            value=self._versions.loaded,
        )
        yield CounterMetricFamily(
            "leyline_policy_refusals",
            "How often a version of the registry could not be used; the log has the reasons.",
            value=self._versions.refused,
        )
