"""Episodes that are played for an evaluation: both of a pair are the same but for who decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.kasmina.runs.stage import Decide, Stage, at, by_coin, striped, wait
from tests.kasmina.runs.stage import stage as build_stage

from kasmina.data.dataset import Dataset
from kasmina.runs import episode as episode_module
from kasmina.runs.episode_log import Beginning
from kasmina.runs.fault import Point
from kasmina.runs.journal import Journal
from kasmina.runs.state_directory import StateDirectory
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_GERMINATE,
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
)
from leyline.v1.episode_pb2 import DoubleRange, EpisodeOrigin, SituationRange
from leyline.v1.trainer_pb2 import HostSpec, RunSpec, TrainingSpec

Build = Callable[..., Stage]

RANGE = SituationRange(
    name="small", training_images=[32, 64, 96], learning_rate=DoubleRange(low=0.01, high=0.1)
)
FIRST = Beginning("learned", True, "mlp-new", SELECTION_MODE_GREEDY, 1, evaluation_pair=2)
AGAIN = replace(FIRST, fence=2)
SIMULATED = RunSpec(
    host=HostSpec(name="simulator"), training=TrainingSpec(horizon=4), episodes=9, seed=11
)


@pytest.fixture
def stage(tmp_path: Path, stripes: Dataset) -> Iterator[Build]:
    """Builds a run over the same state folder each time."""
    state = StateDirectory.open(tmp_path / "state")
    journals: list[Journal] = []

    def build(spec: RunSpec, decide: Decide = by_coin, run_id: str = "run") -> Stage:
        built = build_stage(state, stripes, spec, decide, run_id)
        journals.append(built.journal)
        return built

    threads = torch.get_num_threads()
    yield build
    torch.set_num_threads(threads)
    for journal in journals:
        journal.close()


def origin(run: Stage, index: int) -> EpisodeOrigin:
    """As the journal has it."""
    record = run.journal.episodes.get(run.setting.run_id, index)
    assert record is not None
    return record.origin


def test_both_episodes_of_a_pair_are_the_same_until_their_policies_differ(stage: Build) -> None:
    spec = striped(4, situations=RANGE, episodes=9)
    new, old = stage(spec, wait), stage(spec, at("slot-1", ACTION_TYPE_GERMINATE))
    new.decider.beginnings = [FIRST, AGAIN]
    new.play(3)
    first = new.curve
    old.decider.beginnings = [replace(FIRST, policy_version="mlp-old"), AGAIN]
    old.play(7)
    other = old.curve[len(first) :]
    assert origin(new, 3) == origin(new, 7)
    assert origin(new, 3).evaluation_pair == 2
    assert origin(new, 3).situation.range == "small"
    same = [one.snapshot for one in new.transitions if one.step_id.episode_index == 3][:1]
    same += [one.snapshot for one in old.transitions if one.step_id.episode_index == 7][:1]
    for snapshot in same:
        snapshot.ClearField("step_id")
    assert same[0] == same[1]
    assert first != other


@pytest.mark.parametrize("spec", [SIMULATED, striped(4, episodes=9)], ids=["simulated", "trained"])
def test_the_seeds_of_a_pair_are_of_no_episode_and_no_other_pair(
    stage: Build, spec: RunSpec
) -> None:
    run = stage(spec)
    source = run.setting.source
    origins = [source.evaluation_origin(pair) for pair in range(3)]
    origins += [source.origin(index) for index in range(3)]
    seeds = {each.seeds.SerializeToString(deterministic=True) for each in origins}
    assert len(seeds) == 6
    assert [each.HasField("evaluation_pair") for each in origins] == [True] * 3 + [False] * 3


def test_an_episode_begins_again_with_the_origin_of_its_pair(stage: Build) -> None:
    run = stage(SIMULATED)
    run.decider.beginnings = [FIRST, AGAIN]
    run.play()
    offered, settled = run.decider.begun
    assert offered.offers_evaluation
    assert offered.origin == run.setting.source.origin(0)
    assert settled.origin == origin(run, 0) == run.setting.source.evaluation_origin(2)
    assert settled.policy_version == "mlp-new"
    record = run.journal.episodes.get("run", 0)
    assert record is not None
    assert (record.policy_version, record.mode, record.fence) == (
        "mlp-new",
        SELECTION_MODE_GREEDY,
        2,
    )
    assert {query.mode for query in run.decider.asked} == {SELECTION_MODE_GREEDY}
    assert {query.policy_version for query in run.decider.asked} == {"mlp-new"}
    began = next(event for event in run.events if event.HasField("episode_began"))
    assert began.episode_began.origin.evaluation_pair == 2


def test_where_the_second_beginning_is_not_heard_the_drainer_tells_the_origin(
    stage: Build,
) -> None:
    run = stage(SIMULATED)
    away = Beginning("learned", True, "mlp-new", SELECTION_MODE_SAMPLED, None)
    run.decider.beginnings = [FIRST, away]
    run.play()
    record = run.journal.episodes.get("run", 0)
    assert record is not None
    assert record.fence is None, "without a fence the drainer begins the episode again"
    assert record.origin.evaluation_pair == 2
    assert record.mode == SELECTION_MODE_GREEDY


def test_an_episode_of_an_evaluation_goes_on_after_a_crash(
    stage: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(point: Point, episode: int, step: int, folder: Path) -> None:
        if (point, step) == (Point.DECISION_APPLIED, 2):
            raise InterruptedError

    whole = stage(SIMULATED, run_id="whole")
    whole.decider.beginnings = [FIRST, AGAIN]
    whole.play()
    run = stage(SIMULATED)
    run.decider.beginnings = [FIRST, AGAIN]
    monkeypatch.setattr(episode_module, "reached", crash)
    with pytest.raises(InterruptedError):
        run.play()
    monkeypatch.undo()
    run.decider.beginnings = [replace(AGAIN, fence=3)]
    run.play()
    resumed = run.decider.begun[-1]
    assert not resumed.offers_evaluation, "it is what it is"
    assert resumed.origin.evaluation_pair == 2
    assert len(run.decider.begun) == 3
    assert run.curve == whole.curve


def test_an_episode_of_an_evaluation_has_no_twin(stage: Build) -> None:
    stage(SIMULATED, wait, "twin")
    spec = RunSpec(twin_run="twin")
    spec.MergeFrom(SIMULATED)
    run = stage(spec)
    run.decider.beginnings = [FIRST, AGAIN]
    run.play(0)
    run.play(1)
    assert not origin(run, 0).HasField("twin")
    assert origin(run, 1).twin.episode_index == 1


def test_a_fork_is_not_offered(stage: Build) -> None:
    spec = striped(4)
    spec.keep_checkpoints = True
    stage(spec, run_id="parent").play()
    forked = RunSpec()
    forked.fork.parent.run_id = "parent"
    forked.fork.step = 2
    fork = stage(forked, run_id="fork")
    fork.play()
    assert [terms.offers_evaluation for terms in fork.decider.begun] == [False]
