"""Evaluations: which episodes are handed out for one, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from tests.simic.episodes import Script
from tests.simic.versions import version

from chassis.errors import ErrorCode, LeylineError
from leyline.observation import EXTENDED_SPEC
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.episode_pb2 import EpisodeOrigin, Seeds, Situation
from leyline.v1.experience_pb2 import BeginEpisodeRequest, BeginEpisodeResponse
from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.registry_pb2 import PolicyEvaluation, PolicyReport
from leyline.v1.transition_pb2 import Termination
from simic.database.database import Database
from simic.experience.store import ExperienceStore
from simic.learning.comparison import compare
from simic.learning.episode import Episode
from simic.learning.evaluation import Evaluations
from simic.learning.lesson import LearnedVersion, Lessons
from simic.learning.reward import accuracy_delta
from simic.learning.student import quantile
from simic.learning.training import TrainingStore
from simic.learning.update import Update
from simic.policies.registry import PolicyRegistry

PLAN = TrainingPlan(
    observation_spec="seed", activation="if-not-worse", evaluation_episodes=3, episodes_per_update=2
)
GREEDY = SelectionMode.SELECTION_MODE_GREEDY
SAMPLED = SelectionMode.SELECTION_MODE_SAMPLED

Accuracy = Mapping[str, float]
"""What each version comes to, as a fraction."""


class School:
    """A training, a trainer that plays what it is asked to, and time between the two."""

    def __init__(self, database: Database, experience: ExperienceStore) -> None:
        self.experience = experience
        self.trainings = TrainingStore(database)
        self.registry = PolicyRegistry(database)
        self.lessons = Lessons(database, "t")
        self.evaluations = Evaluations(database, "t", accuracy_delta)
        self._next: dict[str, int] = {}
        self._updates = 0

    def start(self, plan: TrainingPlan = PLAN) -> str:
        """Starts the training; the version that it begins with, which is the active one."""
        self.trainings.start("t", plan)
        self.lessons.begin(version(0))
        return version(0).manifest.policy_version

    def learn(self, learned: LearnedVersion, run: str = "batch") -> str:
        """Makes an update from two sampled episodes, and a version of it."""
        active = self.registry.get("").manifest.policy_version
        batch: list[Episode] = []
        while not batch:
            self.play({active: 0.4}, run=run, offers_evaluation=False)
            batch = self.lessons.fresh() or []
        self._updates += 1
        self.lessons.commit(self._updates, Update(1, 0.3, {}), batch, learned)
        return learned.manifest.policy_version

    def begin(self, index: int, run: str = "run", **fields: object) -> BeginEpisodeResponse:
        """Begins an episode, as a trainer that can play for an evaluation."""
        return self.experience.begin(request(index, run, **fields))

    def play(
        self, accuracies: Accuracy, run: str = "run", **fields: object
    ) -> BeginEpisodeResponse:
        """Plays the next episode of a run, to the accuracy that its version comes to."""
        index = self._next.get(run, 0)
        self._next[run] = index + 1
        begun = self.begin(index, run, **fields)
        if begun.HasField("evaluation_pair"):
            self.begin(index, run, origin=of_pair(begun.evaluation_pair))
        deciding = begun.policy_version
        end = accuracies[deciding]
        script = Script(run=run, index=index, version=deciding, accuracies=(0.1, 0.2, end))
        fence = self.begin(index, run, offers_evaluation=False, origin=EpisodeOrigin()).fence
        assert not any(self.experience.record(script.items(fence)))
        return begun

    def evaluate(self, accuracies: Accuracy) -> PolicyEvaluation:
        """Plays until the candidate is judged."""
        while (evaluation := self.evaluations.conclude()) is None:
            self.play(accuracies)
        return evaluation

    @property
    def active(self) -> str:
        return self.registry.get("").manifest.policy_version


def request(index: int, run: str, **fields: object) -> BeginEpisodeRequest:
    asked = Script(run=run, index=index, accuracies=(0.1, 0.2, 0.3)).begin()
    asked.offers_evaluation = True
    for name, value in fields.items():
        asked.ClearField(name)  # type: ignore[arg-type]
        asked.MergeFrom(BeginEpisodeRequest(**{name: value}))  # type: ignore[arg-type]
    return asked


def of_pair(pair: int) -> EpisodeOrigin:
    return EpisodeOrigin(seeds=Seeds(order=100 + pair), evaluation_pair=pair)


@pytest.fixture
def school(database: Database, experience: ExperienceStore) -> School:
    return School(database, experience)


def asked(begun: BeginEpisodeResponse) -> tuple[str, int | None, int]:
    """Who decides, for which pair, and how."""
    pair = begun.evaluation_pair if begun.HasField("evaluation_pair") else None
    return begun.policy_version, pair, begun.mode


def test_a_candidate_plays_pairs_with_the_active_version_and_becomes_it(school: School) -> None:
    old = school.start()
    new = school.learn(version(1))
    assert school.active == old, "a new version is a candidate first"
    ends = {old: 0.3, new: 0.5}
    played = [asked(school.play(ends)) for _ in range(6)]
    assert played == [(name, pair, GREEDY) for pair in range(3) for name in (new, old)]
    assert asked(school.begin(6)) == (old, None, SAMPLED), "all pairs are being played"

    evaluation = school.evaluations.conclude()
    assert evaluation is not None
    assert (evaluation.policy_version, evaluation.baseline_version) == (new, old)
    assert (evaluation.pairs, evaluation.activated) == (3, True)
    assert evaluation.mean_return == pytest.approx(4.0)
    assert evaluation.baseline_mean_return == pytest.approx(2.0)
    assert evaluation.mean_difference == pytest.approx(2.0)
    assert (evaluation.interval_low, evaluation.interval_high) == pytest.approx((2.0, 2.0))
    assert school.active == new
    assert list(school.registry.get(new).evaluations) == [evaluation]
    evaluated, activated = school.registry.events(0)[-2:]
    assert evaluated.evaluated == evaluation
    assert activated.activated.reason == f"not worse than {old} on 3 pairs of episodes"
    assert school.evaluations.conclude() is None
    assert asked(school.begin(7)) == (new, None, SAMPLED)


def test_a_candidate_that_is_worse_stays_one(school: School) -> None:
    old = school.start()
    new = school.learn(version(1))
    evaluation = school.evaluate({old: 0.5, new: 0.3})
    assert not evaluation.activated
    assert evaluation.interval_high < 0
    assert school.active == old
    assert school.registry.events(0)[-1].evaluated == evaluation


def test_what_a_version_has_played_in_a_run_is_not_played_again(school: School) -> None:
    old = school.start()
    bad = school.learn(version(1))
    school.evaluate({old: 0.5, bad: 0.3})
    good = school.learn(version(2))
    played = [asked(school.play({old: 0.5, good: 0.6})) for _ in range(4)]
    assert played == [*[(good, pair, GREEDY) for pair in range(3)], (old, None, SAMPLED)]
    evaluation = school.evaluations.conclude()
    assert evaluation is not None
    assert (evaluation.pairs, evaluation.activated) == (3, True)
    better = school.learn(version(3))
    played = [asked(school.play({good: 0.6, better: 0.7})) for _ in range(3)]
    assert played == [(better, pair, GREEDY) for pair in range(3)], "the baseline's are there"


def test_a_version_that_comes_again_is_judged_by_what_it_has_played(school: School) -> None:
    old = school.start()
    new = school.learn(version(1))
    first = school.evaluate({old: 0.5, new: 0.3})
    school.learn(version(1))
    again = school.evaluations.conclude()
    assert again is not None
    assert (again.pairs, again.mean_difference) == (first.pairs, first.mean_difference)


def test_beginning_again_is_the_same_assignment_and_takes_the_origin_of_the_pair(
    school: School,
) -> None:
    school.start()
    new = school.learn(version(1))
    own = EpisodeOrigin(seeds=Seeds(order=1))
    for _ in range(2):
        assert asked(school.begin(0, origin=own)) == (new, 0, GREEDY)
    begun = school.begin(0, origin=of_pair(0))
    assert (asked(begun), begun.fence) == ((new, 0, GREEDY), 3)
    assert asked(school.begin(0, origin=own, offers_evaluation=False)) == (new, 0, GREEDY)


def test_a_trainer_that_has_not_heard_of_it_plays_an_ordinary_episode(school: School) -> None:
    old = school.start()
    new = school.learn(version(1))
    assert asked(school.begin(0)) == (new, 0, GREEDY)
    own = EpisodeOrigin(seeds=Seeds(order=1))
    later = school.begin(0, offers_evaluation=False, origin=own)
    assert asked(later) == (old, None, SAMPLED)
    script = Script(run="run", index=0, version=old, accuracies=(0.1, 0.2, 0.3))
    assert not any(school.experience.record(script.items(later.fence)))
    assert asked(school.begin(1)) == (new, 0, GREEDY), "somebody else plays it"


@pytest.mark.parametrize("how", ["cancelled", "fallback", "another version", "without its origin"])
def test_an_episode_that_cannot_count_is_handed_out_again(school: School, how: str) -> None:
    old = school.start()
    new = school.learn(version(1))
    assert asked(school.begin(0)) == (new, 0, GREEDY)
    if how != "without its origin":
        school.begin(0, origin=of_pair(0))
    deciding = {"fallback": None, "another version": old}.get(how, new)
    script = Script(run="run", index=0, version=deciding, accuracies=(0.1, 0.2, 0.3))
    items = script.items(school.begin(0, origin=EpisodeOrigin(seeds=Seeds())).fence)
    if how == "cancelled":
        items[-1].episode_end.termination = Termination.TERMINATION_CANCELLED
    assert not any(school.experience.record(items))
    assert asked(school.begin(1)) == (new, 0, GREEDY)


@pytest.mark.parametrize(
    "fields",
    [
        {"offers_evaluation": False},
        {"follows_registry": False},
        {"mode": GREEDY},
        {"slots": 6},
        {"spec_fingerprint": EXTENDED_SPEC.fingerprint},
        {"origin": EpisodeOrigin(situation=Situation(range="held-out", held_out=True))},
        {"run_id": "another"},
    ],
    ids=lambda fields: ", ".join(fields),
)
def test_an_episode_that_the_training_does_not_learn_from_is_left_alone(
    school: School, fields: dict[str, Any]
) -> None:
    plan = TrainingPlan(observation_spec="seed", run_id="run")
    plan.MergeFrom(PLAN)
    school.start(plan)
    new = school.learn(version(1), run="run")
    assert not school.begin(90, **fields).HasField("evaluation_pair")
    assert asked(school.begin(91)) == (new, 0, GREEDY)


def test_no_learner_learns_from_an_evaluation(school: School, experience: ExperienceStore) -> None:
    school.start()
    new = school.learn(version(1))
    sampled = school.begin(0)
    school.begin(0, origin=of_pair(0))
    assert sampled.HasField("evaluation_pair")
    # A store that has never heard of the evaluation is told of it by the origin.
    fence = school.begin(1, offers_evaluation=False, origin=of_pair(7)).fence
    script = Script(run="run", index=1, version=new, accuracies=(0.1, 0.2, 0.3))
    assert not any(experience.record(script.items(fence)))
    for index in (2, 3):
        assert school.lessons.fresh() is None
        fence = school.begin(index, offers_evaluation=False).fence
        script = Script(run="run", index=index, version=new, accuracies=(0.1, 0.2, 0.3))
        assert not any(experience.record(script.items(fence)))
    assert len(school.lessons.fresh() or []) == 2


def test_another_run_goes_on_where_one_has_ended(school: School) -> None:
    old = school.start()
    new = school.learn(version(1))
    ends = {old: 0.3, new: 0.5}
    for _ in range(3):
        school.play(ends, run="first")
    played = [asked(school.play(ends, run="second")) for _ in range(5)]
    assert played == [
        *[(name, pair, GREEDY) for pair in range(2) for name in (new, old)],
        (old, None, SAMPLED),
    ]
    evaluation = school.evaluations.conclude()
    assert evaluation is not None
    assert evaluation.pairs == 3


def test_a_newer_version_takes_the_place_of_one_whose_evaluation_has_not_begun(
    school: School,
) -> None:
    old = school.start()
    overtaken, first = school.learn(version(1)), school.learn(version(2))
    ends = {old: 0.3, first: 0.5}
    assert asked(school.play(ends)) == (first, 0, GREEDY)
    waiting, last = school.learn(version(3)), school.learn(version(4))
    assert school.evaluate(ends).policy_version == first
    evaluation = school.evaluate({first: 0.5, last: 0.4})
    assert (evaluation.policy_version, evaluation.baseline_version) == (last, first)
    for name in (overtaken, waiting):
        assert not school.registry.get(name).evaluations


def test_a_version_that_a_policy_server_refuses_is_not_waited_for(school: School) -> None:
    old = school.start()
    refused = school.learn(version(1))
    school.play({refused: 0.3})
    school.registry.report(PolicyReport(policy_version=refused, reason="GOLDEN_MISMATCH"))
    assert asked(school.begin(1)) == (old, None, SAMPLED)
    assert school.evaluations.conclude() is None
    new = school.learn(version(2))
    assert asked(school.begin(2)) == (new, 0, GREEDY)


def test_a_version_that_was_activated_by_hand_is_not_judged_any_more(school: School) -> None:
    school.start()
    new = school.learn(version(1))
    school.begin(0)
    school.registry.activate(new, "by hand")
    assert asked(school.begin(1)) == (new, None, SAMPLED)
    assert school.evaluations.conclude() is None
    assert not school.registry.get(new).evaluations


def test_where_another_version_is_activated_meanwhile_the_candidate_is_compared_with_that(
    school: School,
) -> None:
    old = school.start()
    new = school.learn(version(1))
    school.play({new: 0.5})
    by_hand = version(2)
    school.registry.register(by_hand.manifest, by_hand.artifact)
    school.registry.activate(by_hand.manifest.policy_version, "")
    evaluation = school.evaluate({old: 0.3, new: 0.5, by_hand.manifest.policy_version: 0.6})
    assert evaluation.baseline_version == by_hand.manifest.policy_version
    assert not evaluation.activated


def test_a_training_ends_when_its_last_version_is_judged(school: School) -> None:
    plan = TrainingPlan(observation_spec="seed", max_updates=1)
    plan.MergeFrom(PLAN)
    old = school.start(plan)
    new = school.learn(version(1))
    training = school.trainings.get("t")
    assert training.state == TrainingState.TRAINING_STATE_RUNNING
    assert training.status_message == "made all of its 1 updates; waits for the last evaluation"
    for _ in range(2):
        school.play({old: 0.3, new: 0.5}, run="batch", offers_evaluation=False)
    assert school.lessons.fresh() is None, "there is no second update"
    school.evaluate({old: 0.3, new: 0.5})
    assert school.trainings.get("t").state == TrainingState.TRAINING_STATE_COMPLETED


def test_a_training_that_is_stopped_has_nothing_evaluated_any_more(school: School) -> None:
    old = school.start()
    school.learn(version(1))
    school.begin(0)
    school.trainings.end("t", TrainingState.TRAINING_STATE_STOPPED, "stopped on request")
    assert asked(school.begin(1)) == (old, None, SAMPLED)
    assert school.active == old
    assert school.evaluations.conclude() is None


def test_a_candidate_is_no_garbage(school: School) -> None:
    school.start()
    new = school.learn(version(1))
    for seed in range(2, 4):
        learned = version(seed)
        school.registry.register(learned.manifest, learned.artifact)
    garbage = school.registry.collect_garbage(1, dry_run=False).policy_versions
    assert list(garbage) == [version(2).manifest.policy_version]
    assert school.registry.read_artifact(new, 0).data


@pytest.mark.parametrize(("rule", "activates"), [("always", True), ("by-hand", False)])
def test_other_rules_evaluate_nothing(school: School, rule: str, activates: bool) -> None:
    old = school.start(
        TrainingPlan(observation_spec="seed", activation=rule, episodes_per_update=2)
    )
    new = school.learn(version(1))
    assert school.active == (new if activates else old)
    assert asked(school.begin(0)) == (school.active, None, SAMPLED)


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (TrainingPlan(observation_spec="seed", activation="sometimes"), "plan.activation"),
        (
            TrainingPlan(observation_spec="seed", activation="if-not-worse", evaluation_episodes=1),
            "plan.evaluation_episodes",
        ),
        (
            TrainingPlan(
                observation_spec="seed", activation="if-not-worse", deterministic=True, run_id="run"
            ),
            "plan.activation",
        ),
    ],
)
def test_a_plan_whose_evaluations_could_not_be_is_refused(
    trainings: TrainingStore, plan: TrainingPlan, field: str
) -> None:
    with pytest.raises(LeylineError) as caught:
        trainings.start("t", plan)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_plan_shows_how_its_versions_are_activated(trainings: TrainingStore) -> None:
    plan = trainings.start("t", TrainingPlan(observation_spec="seed")).plan
    assert (plan.activation, plan.evaluation_episodes) == ("always", 8)


T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365, 10: 2.228, 30: 2.042, 120: 1.980}
"""By degrees of freedom, from the table in any book."""


@pytest.mark.parametrize("freedom", T_975)
def test_the_quantiles_are_those_of_the_tables(freedom: int) -> None:
    assert quantile(0.975, freedom) == pytest.approx(T_975[freedom], abs=5e-4)


@pytest.mark.parametrize(
    ("returns", "worse"),
    [
        ([1.0, 1.0, 1.0], False),
        ([0.9, 0.9, 0.9], True),
        ([0.9, 0.8, 1.0], False),
        ([0.9, 0.8, 0.85], True),
        ([0.0], False),
    ],
)
def test_only_what_is_surely_worse_is_worse(returns: Sequence[float], worse: bool) -> None:
    assert compare(returns, [1.0] * len(returns)).is_worse is worse


def test_the_interval_has_its_coverage() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(4000):
        comparison = compare(random.normal(0.5, 2.0, 5).tolist(), [0.0] * 5)
        assert comparison.interval is not None
        inside += comparison.interval[0] <= 0.5 <= comparison.interval[1]
    assert 0.94 < inside / 4000 < 0.96
