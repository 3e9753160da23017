"""What Prometheus is told of runs, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import CollectorRegistry
from tests.kasmina.neighbours import step_id
from tests.kasmina.running import kasmina, simulated_spec
from tests.scraping import scraped

from kasmina.runs.decider import fallback
from kasmina.runs.episode_log import Beginning
from kasmina.runs.journal import Journal
from kasmina.runs.metrics import RunMetrics
from leyline.supervision import free_address
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
        self.begin("before")
        self.play("before", 0)
        self._registry = CollectorRegistry()
        self._registry.register(RunMetrics(self.journal))
        self.begin("run")

    def begin(self, run_id: str) -> None:
        self.journal.runs.create(run_id, RunSpec(), RunSpec(episodes=2), queue_limit=5)
        self.journal.runs.take(run_id)
        self.journal.episodes.begin(BEGINNING, EpisodeBegan(episode_index=0), run_id)

    def forget(self, run_id: str) -> None:
        """Ends a run, and deletes it as retention does."""
        self.journal.runs.end(run_id, RUN_STATE_CANCELLED, "enough")
        outbox = self.journal.outbox
        outbox.settle([entry.sequence for entry in outbox.head(999, 1 << 20)])
        assert self.journal.archive.forget_next(keep=0, ended_before=None) == run_id

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


def test_two_who_scrape_at_once_count_each_event_once(page: Page) -> None:
    for step in range(40):
        page.play("run", step)
    with ThreadPoolExecutor(4) as scrapers:
        list(scrapers.map(lambda _: page.value("leyline_images_total"), range(8)))
    assert page.value("leyline_images_total") == 40 * 640


def test_a_name_that_is_used_again_is_another_run(page: Page) -> None:
    page.play("run", 0)
    page.play("run", 1)
    assert page.value("leyline_images_total") == 2 * 640
    page.forget("run")
    page.begin("run")
    page.play("run", 0)
    assert page.value("leyline_images_total") == 3 * 640


def test_what_has_not_happened_yet_is_there_as_nothing(page: Page) -> None:
    assert page.value("leyline_steps_total", decider="FALLBACK") == 0
    assert page.value("leyline_episodes_total", termination="FAILED") == 0
    assert page.value("leyline_runs_ended_total", state="FAILED") == 0
    assert page.value("leyline_runs", state="PAUSED") == 0


def test_what_waits_for_the_experience_service_is_shown_with_its_age(page: Page) -> None:
    assert page.value("leyline_outbox_items") == 1
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
    page.forget("before")
    assert page.value("leyline_images_total") == 640
    assert page.value("leyline_runs", state="CANCELLED") == 0
    assert page.value("leyline_runs", state="RUNNING") == 1


async def test_a_service_shows_them_where_its_settings_say(tmp_path: Path) -> None:
    address = free_address()
    environment = {"LEYLINE_KASMINA_METRICS_LISTEN": address}
    async with kasmina(tmp_path, "127.0.0.1:1", "127.0.0.1:1", environment) as service:
        spec = simulated_spec(horizon=3)
        spec.policy.plan.SetInParent()
        await service.start_run("run", spec)
        await service.finish("run")
        shown = await scraped(address)
    assert shown.value("leyline_steps_total", decider="PLAN") == 3
    assert shown.value("leyline_runs_ended_total", state="COMPLETED") == 1
    assert shown.value("leyline_outbox_items") == 4
