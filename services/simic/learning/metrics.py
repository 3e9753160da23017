"""Whether the database answers, and how the newest training does, as numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.learner_pb2 import Training, TrainingState, WatchTrainingResponse
from simic.learning.training import TrainingStore


class DatabaseMetrics(Collector):
    """What the database says at each scrape: the learner, which writes there, is another process.

    Diagnostics have a metric each, ``leyline_learner_`` and their name, because they have a unit
    each. Nothing has a training's name for a label: a series for each would never end.
    """

    def __init__(self, trainings: TrainingStore) -> None:
        """Ask ``trainings``."""
        self._trainings = trainings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give what is known now; blocks on the database."""
        found: list[GaugeMetricFamily] = []
        answers = True
        try:
            found.extend(self._newest())
        except LeylineError as error:
            answers = error.code is ErrorCode.TRAINING_NOT_FOUND
        except SQLAlchemyError:
            answers = False
        yield GaugeMetricFamily(
            "leyline_database_up", "Whether the database answers: 0 or 1.", value=answers
        )
        yield from found

    def _newest(self) -> Iterator[GaugeMetricFamily]:
        training = self._trainings.get("")
        yield from _of_training(training)
        if training.updates:
            for update in self._trainings.updates(training.training_id, training.updates - 1):
                yield from _of_update(update)


def _of_training(training: Training) -> Iterator[GaugeMetricFamily]:
    running = training.state == TrainingState.TRAINING_STATE_RUNNING
    yield _gauge("running", "Whether the newest training runs: 0 or 1.", running)
    failed = training.state == TrainingState.TRAINING_STATE_FAILED
    yield _gauge("failed", "Whether it ended because it could not go on: 0 or 1.", failed)
    yield _gauge("updates", "Updates of the newest training.", training.updates)
    yield _gauge("episodes", "Episodes that it has learned from.", training.episodes)


def _of_update(update: WatchTrainingResponse) -> Iterator[GaugeMetricFamily]:
    yield _gauge(
        "last_update_timestamp_seconds",
        "When the last update was stored, in seconds since 1970.",
        update.time.ToNanoseconds() / 1e9,
    )
    if not update.gradient_steps:
        return  # no episode to learn from, so that nothing was measured
    yield _gauge("mean_return", "Mean return of the last update's episodes.", update.mean_return)
    yield _gauge("alarms", "What somebody should look at in the last update.", len(update.alarms))
    for name, value in sorted(update.diagnostics.items()):
        yield _gauge(name, "A diagnostic of the last update, by its name in WatchTraining.", value)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"leyline_learner_{name}", documentation, value=value)
