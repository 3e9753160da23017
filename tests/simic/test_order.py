"""Deterministic trainings: which version decides an episode, and which episodes an update takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.simic.episodes import Script
from tests.simic.versions import version

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.experience_pb2 import (
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    ExperienceItem,
)
from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.transition_pb2 import Termination
from simic.database.database import Database
from simic.experience.store import ExperienceStore
from simic.learning.lesson import Lessons, TrainingSuperseded
from simic.learning.plan import fill
from simic.learning.training import TrainingStore
from simic.learning.update import Update

UPDATE = Update(gradient_steps=8, mean_return=0.5, diagnostics={})
HORIZON = Termination.TERMINATION_HORIZON
CANCELLED = Termination.TERMINATION_CANCELLED
FAILED = Termination.TERMINATION_FAILED
ABANDONED = Termination.TERMINATION_ABANDONED


Change = Callable[[BeginEpisodeRequest], None]


def as_it_is(_request: BeginEpisodeRequest) -> None:
    pass


class Study:
    """A deterministic training of two episodes an update over run "study", which has begun."""

    def __init__(self, database: Database, **plan: int) -> None:
        self.experience = ExperienceStore(database)
        self.trainings = TrainingStore(database)
        asked = TrainingPlan(
            observation_spec="seed",
            deterministic=True,
            run_id="study",
            episodes_per_update=2,
            **plan,  # type: ignore[arg-type]
        )
        self.trainings.start("t", asked)
        self.lessons = Lessons(database, "t")
        self.lessons.begin(version(0))

    def begin(self, index: int, change: Change = as_it_is) -> BeginEpisodeResponse:
        """Begin an episode, or begin it again."""
        request = Script(run="study", index=index).begin()
        change(request)
        return self.experience.begin(request)

    def pin(self, index: int, change: Change = as_it_is) -> str:
        """Begin an episode, or begin it again; the version that it is pinned to."""
        return self.begin(index, change).policy_version

    def play(
        self,
        index: int,
        ending: Termination.ValueType = HORIZON,
        deciding: str = "",
        change: Change = as_it_is,
    ) -> None:
        """Play an episode to its end: all of it, or a step where that is not the horizon."""
        begun = self.begin(index, change)
        script = Script(run="study", index=index, version=deciding or begun.policy_version)
        items = script.items(begun.fence)
        if ending != HORIZON:
            items = [items[0], items[-1]]
            items[-1].episode_end.termination = ending
            items[-1].episode_end.steps = 1
        self.record(items)

    def record(self, items: list[ExperienceItem]) -> None:
        assert set(self.experience.record(items)) == {None}

    def fresh(self) -> list[int] | None:
        """Indices of the next batch; None until it is there."""
        batch = self.lessons.fresh()
        if batch is None:
            return None
        return [episode.steps[0].step_id.episode_index for episode in batch]

    def learn(self, number: int) -> str:
        """Make an update from the next batch; the version that it made."""
        batch = self.lessons.fresh()
        assert batch
        made = version(number)
        self.lessons.commit(number, UPDATE, batch, made)
        return made.manifest.policy_version

    @property
    def waits_for(self) -> str:
        return self.trainings.get("t").status_message


@pytest.fixture
def study(database: Database) -> Study:
    return Study(database)


def refused(call: Callable[[], object], code: ErrorCode) -> LeylineError:
    with pytest.raises(LeylineError) as caught:
        call()
    assert caught.value.code is code
    return caught.value


def test_an_episode_is_pinned_by_its_index_and_waits_for_its_version(study: Study) -> None:
    initial = version(0).manifest.policy_version
    assert {study.pin(0), study.pin(1)} == {initial}
    error = refused(lambda: study.begin(2), ErrorCode.VERSION_NOT_READY)
    assert (error.facts["update"], error.retry_after_s) == (1, 0.25)
    assert refused(lambda: study.begin(5), ErrorCode.VERSION_NOT_READY).facts["update"] == 2
    unknown = refused(lambda: study.experience.cursor("study", 2), ErrorCode.EPISODE_NOT_FOUND)
    assert unknown.facts["episode_index"] == 2

    study.play(0)
    study.play(1)
    first = study.learn(1)
    assert study.pin(3) == first != initial
    assert study.pin(1) == initial, "an episode that begins again keeps its version"


def test_with_a_lag_trainers_are_ahead_of_the_learner_by_it(database: Database) -> None:
    study = Study(database, lag=1)
    initial = version(0).manifest.policy_version
    assert [study.pin(index) for index in range(4)] == [initial] * 4
    refused(lambda: study.begin(4), ErrorCode.VERSION_NOT_READY)
    study.play(0)
    study.play(1)
    assert [study.learn(1)] * 2 == [study.pin(4), study.pin(5)]


def test_before_the_first_version_is_there_every_episode_waits(database: Database) -> None:
    trainings = TrainingStore(database)
    trainings.start("t", TrainingPlan(deterministic=True, run_id="study"))
    begin = Script(run="study").begin()
    experience = ExperienceStore(database)
    assert (
        refused(lambda: experience.begin(begin), ErrorCode.VERSION_NOT_READY).facts["update"] == 0
    )
    trainings.end("t", TrainingState.TRAINING_STATE_FAILED, "lightning")
    assert not experience.begin(begin).HasField("policy_version")


def test_other_runs_and_other_policies_do_not_wait(study: Study) -> None:
    another = study.experience.begin(Script(run="another", index=99).begin())
    assert another.policy_version == version(0).manifest.policy_version

    def by_no_policy(request: BeginEpisodeRequest) -> None:
        request.follows_registry = False

    assert study.pin(99, by_no_policy) == ""


def test_after_the_end_of_a_training_its_last_version_decides_what_comes(study: Study) -> None:
    study.play(0)
    study.play(1)
    last = study.learn(1)
    study.trainings.end("t", TrainingState.TRAINING_STATE_STOPPED, "seen enough")
    study.trainings.start("next", TrainingPlan())
    assert {study.pin(2), study.pin(99)} == {last}


def test_a_batch_is_what_the_index_says_in_whatever_order_the_episodes_come(study: Study) -> None:
    study.play(1)
    study.play(0)
    assert study.fresh() == [0, 1]
    study.learn(1)
    study.play(3)
    assert study.fresh() is None
    study.play(2)
    assert study.fresh() == [2, 3]
    study.learn(2)
    replayed = [
        [episode.steps[0].step_id.episode_index for episode in batch]
        for batch in study.lessons.replayed(2)
    ]
    assert replayed == [[0, 1], [2, 3]]


@pytest.mark.parametrize("ending", [CANCELLED, FAILED, ABANDONED])
def test_an_episode_that_ends_early_is_passed_over_once_it_has_ended(
    study: Study, ending: Termination.ValueType
) -> None:
    study.play(1)
    study.begin(0)
    assert study.fresh() is None
    study.play(0, ending)
    assert study.fresh() == [1]


def test_an_update_without_an_episode_keeps_the_version(database: Database) -> None:
    study = Study(database, max_updates=2)
    study.play(0, CANCELLED)
    study.play(1, CANCELLED)
    assert study.fresh() == []
    study.lessons.pass_over(1)
    with pytest.raises(TrainingSuperseded):
        study.lessons.pass_over(1)
    initial = version(0).manifest.policy_version
    assert study.pin(2) == initial
    [update] = study.trainings.updates("t", 0)
    assert (update.policy_version, update.episodes, update.gradient_steps) == (initial, 0, 0)
    study.play(2, CANCELLED)
    study.play(3, CANCELLED)
    study.lessons.pass_over(2)
    assert study.trainings.get("t").state == TrainingState.TRAINING_STATE_COMPLETED


def test_a_training_says_which_episode_it_waits_for_and_why(study: Study) -> None:
    assert study.waits_for == "waits for episode 0 of run study, which has not begun"
    study.play(0)
    study.begin(1)
    assert study.waits_for == "waits for episode 1 of run study, which has not ended"
    items = Script(run="study", index=1, version=study.pin(1)).items(fence=2)
    study.record([items[0], items[-1]])
    awaited = "waits for episode 1 of run study, of which not all steps have come in"
    assert study.waits_for == awaited
    assert study.fresh() is None
    study.record(items[1:-1])
    assert study.waits_for == "learns from episodes 0 to 1 of run study"
    study.learn(1)
    assert study.waits_for == "waits for episode 2 of run study, which has not begun"
    study.trainings.note("t", "the learner ended with exit code 1 1 times in a row")
    assert study.waits_for.startswith("the learner ended")


def greedy(request: BeginEpisodeRequest) -> None:
    request.mode = SelectionMode.SELECTION_MODE_GREEDY


def of_no_registry(request: BeginEpisodeRequest) -> None:
    request.follows_registry = False


@pytest.mark.parametrize("change", [greedy, of_no_registry])
def test_whole_episodes_that_cannot_be_learned_from_are_passed_over(
    study: Study, change: Change
) -> None:
    study.play(0, change=change, deciding="mlp-000000000000")
    study.play(1)
    assert study.fresh() == [1]


def test_an_episode_that_its_own_version_did_not_decide_is_passed_over(study: Study) -> None:
    study.play(0, deciding="mlp-000000000000")
    study.play(1)
    assert study.fresh() == [1]


def test_a_held_out_situation_is_refused_in_a_run_that_is_learned_from(study: Study) -> None:
    def held_out(request: BeginEpisodeRequest) -> None:
        request.origin.situation.held_out = True

    error = refused(lambda: study.begin(0, held_out), ErrorCode.INVALID_ARGUMENT)
    [violation] = error.violations
    assert violation.field == "origin.situation.held_out"
    assert "'t' learns from the run" in violation.description
    evaluation = Script(run="evaluation").begin()
    held_out(evaluation)
    study.experience.begin(evaluation)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_of_held_out_situations_is_no_run_to_learn_from(
    database: Database, deterministic: bool
) -> None:
    begin = Script(run="study").begin()
    begin.origin.situation.held_out = True
    ExperienceStore(database).begin(begin)
    plan = TrainingPlan(run_id="study", deterministic=deterministic)
    error = refused(lambda: TrainingStore(database).start("t", plan), ErrorCode.INVALID_ARGUMENT)
    [violation] = error.violations
    assert violation.field == "plan.run_id"
    assert "held out for evaluation" in violation.description


def test_a_deterministic_training_is_there_before_its_run(database: Database) -> None:
    ExperienceStore(database).begin(Script(run="study").begin())
    trainings = TrainingStore(database)
    plan = TrainingPlan(run_id="study", deterministic=True)
    error = refused(lambda: trainings.start("t", plan), ErrorCode.INVALID_ARGUMENT)
    assert "start the training first" in error.violations[0].description
    plan.deterministic = False
    assert trainings.start("t", plan).plan.run_id == "study"


def test_a_training_that_there_is_can_be_started_again_when_its_run_has_begun(study: Study) -> None:
    study.begin(0)
    plan = TrainingPlan(
        observation_spec="seed", deterministic=True, run_id="study", episodes_per_update=2
    )
    assert study.trainings.start("t", plan).training_id == "t"


@pytest.mark.parametrize(
    ("plan", "fields"),
    [
        (TrainingPlan(deterministic=True), ["plan.run_id"]),
        (
            TrainingPlan(deterministic=True, activation="by-hand", experience="stored"),
            ["plan.run_id", "plan.activation", "plan.experience"],
        ),
        (
            TrainingPlan(deterministic=True, run_id="study", activation="if-not-worse"),
            ["plan.activation"],
        ),
        (TrainingPlan(lag=1), ["plan.lag"]),
    ],
)
def test_a_plan_that_cannot_be_deterministic_is_refused(
    plan: TrainingPlan, fields: list[str]
) -> None:
    error = refused(lambda: fill(plan), ErrorCode.INVALID_ARGUMENT)
    assert [violation.field for violation in error.violations] == fields
