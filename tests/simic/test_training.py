from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.simic.classroom import UPDATE, Classroom, indices
from tests.simic.versions import version

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.experience_pb2 import BeginEpisodeRequest
from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.transition_pb2 import EpisodeEnd, Termination
from simic.database.database import Database
from simic.learning.lesson import TrainingSuperseded
from simic.learning.plan import fill, masked_features
from simic.learning.training import TrainingStore
from simic.policies.registry import PolicyRegistry


def greedy(begin: BeginEpisodeRequest, _end: EpisodeEnd) -> None:
    begin.mode = SelectionMode.SELECTION_MODE_GREEDY


def by_another_policy(begin: BeginEpisodeRequest, _end: EpisodeEnd) -> None:
    begin.follows_registry = False


def cancelled(_begin: BeginEpisodeRequest, end: EpisodeEnd) -> None:
    end.termination = Termination.TERMINATION_CANCELLED


def not_whole(_begin: BeginEpisodeRequest, end: EpisodeEnd) -> None:
    end.steps = 4


def held_out(begin: BeginEpisodeRequest, _end: EpisodeEnd) -> None:
    begin.origin.situation.held_out = True


@pytest.fixture
def classroom(database: Database) -> Classroom:
    return Classroom(database)


def test_a_plan_is_filled_in_from_its_preset() -> None:
    filled = fill(TrainingPlan(preset="demo"))
    assert filled.episodes_per_update == 2
    assert (filled.algorithm, filled.reward) == ("ppo", "accuracy-delta")
    assert (filled.network, filled.slots, filled.observation_spec) == ("slot-shared", 0, "seed")
    default = fill(TrainingPlan(network="mlp"))
    assert (default.episodes_per_update, default.observation_spec) == (8, "extended")
    assert default.slots == 3


def test_every_name_that_is_not_known_is_reported_with_those_that_are() -> None:
    with pytest.raises(LeylineError) as caught:
        fill(TrainingPlan(preset="fast", network="transformer", reward="applause"))
    found = {violation.field: violation.description for violation in caught.value.violations}
    assert found.keys() == {"plan.preset", "plan.network", "plan.reward"}
    assert found["plan.preset"] == "there is no 'fast'; known: default, demo"


def test_numbers_of_the_recipe_can_be_replaced_and_others_are_refused() -> None:
    plan = TrainingPlan(hyperparameters={"clip": 0.3, "epochs": 2, "episodes_per_update": 4})
    assert fill(plan).episodes_per_update == 4
    for numbers, complaint in (
        ({"clipping": 0.3}, "there is no 'clipping'; known: annealing_updates, clip, "),
        ({"epochs": 2.5}, "epochs is 2.5, and must be a whole number"),
        ({"minibatches": 0}, "minibatches is 0, and must be at least 1"),
        ({"clip": float("nan")}, "clip is nan, and must be at least 0"),
    ):
        with pytest.raises(LeylineError) as caught:
            fill(TrainingPlan(hyperparameters=numbers))
        [violation] = caught.value.violations
        assert violation.field == "plan.hyperparameters"
        assert violation.description.startswith(complaint)


def test_a_mask_names_features_of_the_spec_or_all_telemetry() -> None:
    hidden = masked_features(fill(TrainingPlan(masked_features=["telemetry"])))
    assert {"val_accuracy", "gradmax_norm", "loss_history_1", "seed_improvement"} <= hidden
    assert not hidden & {"time_left", "seed_stage", "seed_cost", "reached_blending"}
    assert masked_features(fill(TrainingPlan(masked_features=["epoch"]))) == {"epoch"}
    with pytest.raises(LeylineError) as caught:
        fill(TrainingPlan(masked_features=["epochs"]))
    [violation] = caught.value.violations
    assert violation.field == "plan.masked_features"


def test_starting_a_training_twice_by_name_starts_it_once(trainings: TrainingStore) -> None:
    first = trainings.start("t", TrainingPlan(preset="demo"))
    assert trainings.start("t", TrainingPlan(preset="demo")) == first
    with pytest.raises(LeylineError) as caught:
        trainings.start("t", TrainingPlan(preset="default"))
    assert caught.value.code is ErrorCode.TRAINING_EXISTS


def test_one_training_runs_at_a_time(trainings: TrainingStore) -> None:
    named = trainings.start("", TrainingPlan())
    with pytest.raises(LeylineError) as caught:
        trainings.start("another", TrainingPlan())
    assert caught.value.code is ErrorCode.TRAINING_ALREADY_RUNNING
    assert caught.value.facts["training_id"] == named.training_id
    trainings.end(named.training_id, TrainingState.TRAINING_STATE_STOPPED, "")
    trainings.start("another", TrainingPlan())
    assert trainings.get("").training_id == "another"


def test_an_unknown_training_is_not_found(trainings: TrainingStore) -> None:
    for call in (trainings.get, trainings.request_stop):
        with pytest.raises(LeylineError) as caught:
            call("t")
        assert caught.value.code is ErrorCode.TRAINING_NOT_FOUND


def test_a_training_that_has_ended_stays_as_it_is(trainings: TrainingStore) -> None:
    trainings.start("t", TrainingPlan())
    trainings.end("t", TrainingState.TRAINING_STATE_FAILED, "lightning")
    ended = trainings.get("t")
    trainings.end("t", TrainingState.TRAINING_STATE_STOPPED, "")
    trainings.request_stop("t")
    assert trainings.get("t") == ended


def test_a_batch_is_given_when_it_is_full_in_the_order_of_completion(
    classroom: Classroom,
) -> None:
    classroom.play(5, classroom.name)
    assert classroom.fresh() is None
    classroom.play(3, classroom.name)
    classroom.play(4, classroom.name)
    assert classroom.fresh() == [5, 3]


def test_a_learner_refuses_situations_that_are_held_out(classroom: Classroom) -> None:
    def drawn(begin: BeginEpisodeRequest, _end: EpisodeEnd) -> None:
        begin.origin.situation.range = "mixed"

    classroom.play(0, classroom.name, held_out)
    classroom.play(1, classroom.name, drawn)
    classroom.play(2, classroom.name)
    assert classroom.fresh() == [1, 2]


@pytest.mark.parametrize("change", [greedy, by_another_policy, cancelled, not_whole])
def test_only_whole_sampled_episodes_of_the_registrys_policy_are_learned_from(
    classroom: Classroom, change: Callable[[BeginEpisodeRequest, EpisodeEnd], None]
) -> None:
    classroom.play(0, classroom.name, change)
    classroom.play(1, classroom.name)
    classroom.play(2, classroom.name)
    assert classroom.fresh() == [1, 2]


def test_episodes_of_a_version_that_is_not_of_this_training_are_left_alone(
    classroom: Classroom,
) -> None:
    for index in range(3):
        classroom.play(index, "mlp-somebodyelse")
    assert classroom.fresh() is None


def test_an_update_is_stored_whole(
    classroom: Classroom, trainings: TrainingStore, registry: PolicyRegistry
) -> None:
    for index in range(4):
        classroom.play(index, classroom.name)
    second = version(2, parent=classroom.name)
    classroom.learn(1, second)
    assert registry.get("").manifest.policy_version == second.manifest.policy_version
    progress = classroom.lessons.progress()
    assert (progress.updates, progress.episodes, progress.transitions) == (1, 2, 6)
    assert classroom.lessons.checkpoint() == b"checkpoint"
    [update] = trainings.updates("t", 0)
    assert (update.episodes, update.transitions, update.gradient_steps) == (2, 6, 32)
    assert update.diagnostics == {"kl": 0.01}
    assert classroom.fresh() == [2, 3]
    [batch] = classroom.lessons.replayed(1)
    assert indices(batch) == [0, 1]
    assert [each.made_by for each in batch] == [0, 0]
    assert classroom.lessons.replayed(0) == []


def test_a_learner_that_was_replaced_cannot_commit(
    classroom: Classroom, trainings: TrainingStore, registry: PolicyRegistry
) -> None:
    for index in range(4):
        classroom.play(index, classroom.name)
    batch = classroom.lessons.fresh()
    assert batch is not None
    classroom.lessons.commit(1, UPDATE, batch, version(2))
    active = registry.get("").manifest.policy_version
    with pytest.raises(TrainingSuperseded):
        classroom.lessons.commit(1, UPDATE, batch, version(3))
    with pytest.raises(TrainingSuperseded):
        classroom.lessons.begin(version(4))
    trainings.end("t", TrainingState.TRAINING_STATE_STOPPED, "")
    with pytest.raises(TrainingSuperseded):
        classroom.learn(2, version(3))
    assert registry.get("").manifest.policy_version == active


def test_the_last_update_of_the_plan_completes_the_training(database: Database) -> None:
    classroom = Classroom(database, max_updates=1)
    classroom.play(0, classroom.name)
    classroom.play(1, classroom.name)
    classroom.learn(1, version(2))
    assert classroom.trainings.get("t").state == TrainingState.TRAINING_STATE_COMPLETED
    assert classroom.trainings.unfinished() is None
