"""What Prometheus is told of runs, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import CollectorRegistry
from tests.kasmina.neighbours import step_id

from kasmina.runs.decider import fallback
from kasmina.runs.episode_log import Beginning
from kasmina.runs.journal import Journal
from kasmina.runs.metrics import RunMetrics
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    EpisodeBegan,
    RunSpec,
    StepCompleted,
    StepDecided,
)
from leyline.v1.transition_pb2 import (
    DECIDER_FALLBACK,
    DECIDER_POLICY,
    EXECUTION_RESULT_EXECUTED,
    Decider,
    Execution,
    IntervalFacts,
    Transition,
)

BEGINNING = Beginning("coin", True, None, SELECTION_MODE_SAMPLED, None)


class Page:
    """A journal with a run in it, and what is shown of it."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "journal.sqlite3")
        self._begin("before")
        self.play("before", 0)
        self._registry = CollectorRegistry()
        self._registry.register(RunMetrics(self.journal))
        self._begin("run")

    def _begin(self, run_id: str) -> None:
        self.journal.runs.create(run_id, RunSpec(), RunSpec(episodes=2), queue_limit=5)
        self.journal.runs.take(run_id)
        self.journal.episodes.begin(BEGINNING, EpisodeBegan(episode_index=0), run_id)

    def play(self, run_id: str, step: int, decider: Decider.ValueType = DECIDER_POLICY) -> None:
        """A step of 640 images and two seconds, decided within 10 ms."""
        name = step_id(run_id, 0, step)
        told = StepDecided(step_id=name, decider=decider, latency=Duration(nanos=10_000_000))
        facts = IntervalFacts(training_images=640, duration=Duration(seconds=2))
        transition = Transition(step_id=name, decider=decider, facts=facts)
        transition.completed_at.FromNanoseconds(time.time_ns())
        episodes = self.journal.episodes
        episodes.write_decision(name, fallback(name, "away"), None)
        episodes.write_execution(Execution(result=EXECUTION_RESULT_EXECUTED), told)
        episodes.complete(transition, StepCompleted(step_id=name, facts=facts), None)

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(name, labels)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path)
    yield page
    page.journal.close()


def test_steps_are_counted_once_by_who_decided_them(page: Page) -> None:
    page.play("run", 0)
    assert page.value("leyline_steps_total", decider="POLICY") == 1
    page.play("run", 1, DECIDER_FALLBACK)
    page.play("run", 2)
    page.play("before", 1)
    for _ in range(2):
        assert page.value("leyline_steps_total", decider="POLICY") == 3
        assert page.value("leyline_steps_total", decider="FALLBACK") == 1
    assert page.value("leyline_policy_latency_seconds_count") == 4
    assert page.value("leyline_images_total") == 4 * 640
    assert page.value("leyline_interval_seconds_sum") == 8


def test_what_waits_for_the_experience_service_is_shown_with_its_age(page: Page) -> None:
    depth = page.value("leyline_outbox_items")
    assert depth == 1
    waits = page.value("leyline_outbox_age_seconds")
    assert waits is not None
    assert 0 < waits < 300
    [entry] = page.journal.outbox.head(9, 1 << 20)
    page.journal.outbox.settle([entry.sequence])
    assert page.value("leyline_outbox_items") == 0
    assert page.value("leyline_outbox_age_seconds") == 0
    assert page.value("leyline_refused_items") == 0


def test_ends_are_counted_by_how_and_runs_by_state(page: Page) -> None:
    page.journal.runs.end("run", RUN_STATE_CANCELLED, "enough")
    assert page.value("leyline_episodes_total", termination="CANCELLED") == 1
    assert page.value("leyline_runs_ended_total", state="CANCELLED") == 1
    assert page.value("leyline_runs", state="CANCELLED") == 1
    assert page.value("leyline_runs", state="RUNNING") == 1


def test_a_run_that_is_forgotten_between_two_scrapes_takes_nothing_else_with_it(
    page: Page,
) -> None:
    page.play("run", 0)
    assert page.value("leyline_images_total") == 640
    for run_id in ("before", "run"):
        page.journal.runs.end(run_id, RUN_STATE_CANCELLED, "enough")
    page.journal.outbox.settle([entry.sequence for entry in page.journal.outbox.head(9, 1 << 20)])
    assert page.journal.archive.forget_next(keep=1, ended_before=None) == "before"
    assert page.value("leyline_images_total") == 640
    assert page.value("leyline_runs", state="CANCELLED") == 1
