"""What Prometheus is told of a training."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import CollectorRegistry
from tests.scraping import scraped
from tests.simic.classroom import UPDATE, Classroom
from tests.simic.episodes import Script
from tests.simic.running import running
from tests.simic.versions import version

from chassis.address import Address
from leyline.supervision import free_address
from leyline.v1.experience_pb2 import ExperienceItem, RecordTransitionsRequest
from leyline.v1.learner_pb2 import (
    StartTrainingRequest,
    StopTrainingRequest,
    TrainingPlan,
    TrainingState,
)
from simic.database.database import Database
from simic.learning.metrics import DatabaseMetrics
from simic.learning.training import TrainingStore


def _shown(database: Database) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(DatabaseMetrics(TrainingStore(database)))
    found = {}
    for family in registry.collect():
        [sample] = family.samples
        assert sample.labels == {}
        found[sample.name.removeprefix("leyline_learner_")] = sample.value
    return found


def test_before_the_first_training_the_database_is_shown_alone(database: Database) -> None:
    assert _shown(database) == {"leyline_database_up": 1}


def test_before_the_first_update_none_is_shown(database: Database) -> None:
    Classroom(database)
    of_training = {"running", "failed", "updates", "episodes"}
    assert _shown(database).keys() == {"leyline_database_up", *of_training}


def test_an_update_that_changed_nothing_has_measured_nothing(database: Database) -> None:
    classroom = Classroom(database)
    classroom.lessons.pass_over(1)
    shown = _shown(database)
    assert shown["updates"] == 1
    assert "mean_return" not in shown
    assert shown["last_update_timestamp_seconds"] > 0


def test_a_training_shows_how_far_it_is_and_what_its_last_update_was(database: Database) -> None:
    classroom = Classroom(database)
    for number in (1, 2):
        for index in (2 * number, 2 * number + 1):
            classroom.play(index, classroom.name)
        classroom.learn(number, version(number + 1))
    shown = _shown(database)
    assert (shown["running"], shown["updates"], shown["episodes"]) == (1, 2, 4)
    assert (shown["kl"], shown["mean_return"]) == (UPDATE.diagnostics["kl"], UPDATE.mean_return)
    assert shown["alarms"] == 0
    assert 0 <= time.time() - shown["last_update_timestamp_seconds"] < 300


def test_a_training_that_has_ended_is_shown_as_such(database: Database) -> None:
    classroom = Classroom(database)
    classroom.trainings.end("t", TrainingState.TRAINING_STATE_STOPPED, "enough")
    shown = _shown(database)
    assert (shown["running"], shown["failed"]) == (0, 0)


def test_a_training_that_has_failed_is_shown_as_such(database: Database) -> None:
    classroom = Classroom(database)
    classroom.trainings.end("t", TrainingState.TRAINING_STATE_FAILED, "a loss is not finite")
    shown = _shown(database)
    assert (shown["running"], shown["failed"]) == (0, 1)


async def test_simic_shows_it_where_its_settings_say(tmp_path: Path, served: str) -> None:
    address = free_address()
    async with running(tmp_path, metrics_listen=Address.parse(address)) as client:
        plan = TrainingPlan(preset="demo")
        await client.learner.StartTraining(StartTrainingRequest(training_id="t", plan=plan))
        assert (await scraped(address)).value("leyline_learner_running") == 1
        await client.learner.StopTraining(StopTrainingRequest(training_id="t"))


async def test_what_is_recorded_is_counted_with_its_time_and_its_lag(
    tmp_path: Path, served: str
) -> None:
    address = free_address()
    async with running(tmp_path, metrics_listen=Address.parse(address)) as client:
        script = Script()
        await client.experience.BeginEpisode(script.begin())
        items = script.items()
        broken = ExperienceItem(sequence=items[-1].sequence + 1, fence=items[-1].fence)
        request = RecordTransitionsRequest(items=[*items, broken])
        await client.experience.RecordTransitions(request)
        shown = await scraped(address)
    assert shown.value("leyline_ingested_items_total", outcome="accepted") == len(items)
    assert shown.value("leyline_ingested_items_total", outcome="rejected") == 1
    assert shown.value("leyline_commit_items_sum") == len(items) + 1
    assert shown.value("leyline_ingest_seconds_count") == 1
    assert shown.value("leyline_ingest_lag_seconds_count") == 1
    assert shown.value("leyline_database_up") == 1
