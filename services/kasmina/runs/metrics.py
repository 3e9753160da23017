"""What Prometheus is told of runs: counted from the journal, which knows of every step once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kasmina.runs.journal import Journal
from kasmina.runs.outbox import OutboxItem
from kasmina.runs.run_log import ENDED
from leyline.v1.trainer_pb2 import RunState, StepCompleted, StepDecided, WatchRunResponse
from leyline.v1.transition_pb2 import Decider, Termination

_DECISION_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_INTERVAL_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


class RunMetrics(Collector):
    """Steps, images, episodes and runs since the service began, and the outbox as it is.

    Each scrape reads the events that have come since the one before: workers have nothing to
    report, and a crash of one neither loses nor doubles a count.
    """

    def __init__(self, journal: Journal) -> None:
        """Count what comes from now on."""
        self._journal = journal
        self._seen = {number: last for number, _, last in journal.events.latest()}
        """Sequence of the last event that was counted, by the run's number."""
        self._one_at_a_time = threading.Lock()
        self._steps = Counter(
            "leyline_steps_total",
            "Decisions carried out, by who made them.",
            ("decider",),
            registry=None,
        )
        self._latency = Histogram(
            "leyline_policy_latency_seconds",
            "From asking the policy to its decision, in seconds; fallbacks included.",
            registry=None,
            buckets=_DECISION_SECONDS,
        )
        self._images = Counter(
            "leyline_images_total", "Training images seen, repetitions counted.", registry=None
        )
        self._intervals = Histogram(
            "leyline_interval_seconds",
            "Training and validation of an interval, in seconds.",
            registry=None,
            buckets=_INTERVAL_SECONDS,
        )
        self._episodes = Counter(
            "leyline_episodes_total",
            "Episodes that ended, by how.",
            ("termination",),
            registry=None,
        )
        self._ended = Counter(
            "leyline_runs_ended_total", "Runs that ended, by how.", ("state",), registry=None
        )
        # From the beginning, so that a first failure is a rise and not a new series.
        for decider in Decider.values()[1:]:
            self._steps.labels(_decider(decider))
        for termination in Termination.values()[1:]:
            self._episodes.labels(_termination(termination))
        for state in ENDED:
            self._ended.labels(_state(state))

    def collect(self) -> Iterator[Metric]:
        """Count what is new, and give it all; blocks on the journal."""
        counted = (
            self._steps,
            self._latency,
            self._images,
            self._intervals,
            self._episodes,
            self._ended,
        )
        with self._one_at_a_time:
            self._catch_up()
            for each in counted:
                yield from each.collect()
        yield from self._outbox()
        yield self._runs()

    def _runs(self) -> Metric:
        runs = GaugeMetricFamily("leyline_runs", "Runs that are kept, by state.", labels=["state"])
        found = self._journal.runs.by_state()
        for state in RunState.values()[1:]:
            runs.add_metric([_state(state)], found.get(state, 0))
        return runs

    def _outbox(self) -> Iterator[Metric]:
        outbox = self._journal.outbox
        yield GaugeMetricFamily(
            "leyline_outbox_items",
            "What the experience service has not acknowledged yet.",
            value=outbox.depth(),
        )
        yield GaugeMetricFamily(
            "leyline_outbox_age_seconds",
            "How long the oldest of it waits, in seconds.",
            value=sum(_age_s(entry) for entry in outbox.head(1, 0)),
        )
        yield GaugeMetricFamily(
            "leyline_refused_items",
            "What the experience service would not take; the runs' status has why.",
            value=outbox.refusals(),
        )

    def _catch_up(self) -> None:
        kept = set()
        for number, run_id, last in self._journal.events.latest():
            kept.add(number)
            while self._seen.get(number, 0) < last:
                events = self._journal.events.after(run_id, self._seen.get(number, 0))
                if not events:
                    break  # forgotten meanwhile
                for event in events:
                    self._seen[number] = event.sequence
                    self._count(event)
        for number in self._seen.keys() - kept:
            del self._seen[number]

    def _count(self, event: WatchRunResponse) -> None:
        if event.HasField("step_decided"):
            self._count_decision(event.step_decided)
        elif event.HasField("step_completed"):
            self._count_interval(event.step_completed)
        elif event.HasField("episode_ended"):
            self._episodes.labels(_termination(event.episode_ended.termination)).inc()
        elif event.HasField("state_changed") and event.state_changed.state in ENDED:
            self._ended.labels(_state(event.state_changed.state)).inc()

    def _count_decision(self, event: StepDecided) -> None:
        self._steps.labels(_decider(event.decider)).inc()
        if event.HasField("latency"):
            self._latency.observe(event.latency.ToNanoseconds() / 1e9)

    def _count_interval(self, event: StepCompleted) -> None:
        self._images.inc(event.facts.training_images)
        if event.facts.HasField("duration"):
            self._intervals.observe(event.facts.duration.ToNanoseconds() / 1e9)


def _age_s(entry: OutboxItem) -> float:
    item = entry.item
    happened = (
        item.transition.completed_at if item.HasField("transition") else item.episode_end.ended_at
    )
    return max(0.0, time.time() - happened.ToNanoseconds() / 1e9)


def _decider(number: Decider.ValueType) -> str:
    return Decider.Name(number).removeprefix("DECIDER_")


def _termination(number: Termination.ValueType) -> str:
    return Termination.Name(number).removeprefix("TERMINATION_")


def _state(number: RunState.ValueType) -> str:
    return RunState.Name(number).removeprefix("RUN_STATE_")
