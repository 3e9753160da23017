"""Trainings and their learners, in the test's own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.simic.episodes import Script

from leyline.v1.learner_pb2 import Training, TrainingPlan, TrainingState, WatchTrainingResponse
from simic.database.database import Database
from simic.experience.store import ExperienceStore
from simic.learning.learner import Learner
from simic.learning.lesson import Lessons
from simic.learning.training import TrainingStore
from simic.policies.artifact import read_weights


class School:
    """Trainings over a database, one after the other."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.trainings = TrainingStore(database)
        self.experience = ExperienceStore(database)
        self.folder = folder

    @staticmethod
    def plan(**plan: object) -> TrainingPlan:
        """A plan for the observations that scripts have."""
        return TrainingPlan(observation_spec="seed", **plan)  # type: ignore[arg-type]

    def begin(self, name: str, **plan: object) -> str:
        """Begin a training as its learner does, and end it; the version that it began with."""
        self.trainings.start(name, self.plan(**plan))
        try:
            Learner(self.database, name, self.folder)
        finally:
            self.trainings.end(name, TrainingState.TRAINING_STATE_STOPPED, "")
        version = Lessons(self.database, name).progress().policy_version
        assert version is not None
        return version

    def seen(self, version: str) -> NDArray[np.float32]:
        """Which features a version's network sees: 1 or 0 for each."""
        found = Lessons(self.database, "").version(version)
        assert found is not None
        weights: NDArray[np.float32] = read_weights(found[1])["observation_seen"]
        return weights

    def play(self, script: Script, *, held_out: bool = False, twin: Script | None = None) -> None:
        """Store an episode."""
        begin = script.begin()
        begin.follows_registry = script.version is not None
        if held_out:
            begin.origin.situation.range, begin.origin.situation.held_out = "far", True
        if twin is not None:
            begin.origin.twin.run_id, begin.origin.twin.episode_index = twin.run, twin.index
        fence = self.experience.begin(begin).fence
        assert set(self.experience.record(script.items(fence))) == {None}

    def learn(self, name: str, **plan: object) -> Training:
        """A training to its end, which the plan must have."""
        self.trainings.start(name, self.plan(**plan))
        Learner(self.database, name, self.folder).run()
        return self.trainings.get(name)

    def updates(self, name: str) -> list[WatchTrainingResponse]:
        """The updates of a training, without the version that it began with."""
        return self.trainings.updates(name, 0)
