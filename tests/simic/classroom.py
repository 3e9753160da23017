"""A training over a store, which learns when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simic.episodes import Script
from tests.simic.versions import version

from leyline.v1.experience_pb2 import BeginEpisodeRequest
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.transition_pb2 import EpisodeEnd
from simic.database.database import Database
from simic.experience.store import ExperienceStore
from simic.learning.episode import Episode
from simic.learning.lesson import LearnedVersion, Lessons
from simic.learning.training import TrainingStore
from simic.learning.update import Update

UPDATE = Update(gradient_steps=32, mean_return=1.5, diagnostics={"kl": 0.01})


def as_it_is(_begin: BeginEpisodeRequest, _end: EpisodeEnd) -> None:
    pass


def indices(batch: Sequence[Episode]) -> list[int]:
    return [episode.steps[0].step_id.episode_index for episode in batch]


class Classroom:
    """A training over a store, with version 1 as the one that it began with."""

    def __init__(self, database: Database, **plan: int) -> None:
        self.experience = ExperienceStore(database)
        self.trainings = TrainingStore(database)
        asked = TrainingPlan(episodes_per_update=2, observation_spec="seed", **plan)  # type: ignore[arg-type]
        self.trainings.start("t", asked)
        self.lessons = Lessons(database, "t")
        self.first = version(1)
        self.lessons.begin(self.first)
        self.name = self.first.manifest.policy_version

    def play(
        self,
        index: int,
        deciding: str,
        change: Callable[[BeginEpisodeRequest, EpisodeEnd], None] = as_it_is,
    ) -> None:
        script = Script(index=index, version=deciding)
        begin, items = script.begin(), script.items()
        change(begin, items[-1].episode_end)
        self.experience.begin(begin)
        assert set(self.experience.record(items)) == {None}

    def fresh(self) -> list[int] | None:
        """Indices of the next batch; None until it is there."""
        batch = self.lessons.fresh()
        return None if batch is None else indices(batch)

    def learn(self, number: int, learned: LearnedVersion) -> None:
        """Commit an update from the next batch."""
        batch = self.lessons.fresh()
        assert batch is not None
        self.lessons.commit(number, UPDATE, batch, learned)
