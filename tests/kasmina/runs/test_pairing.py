"""Arms of a comparison: what they share is the same bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.kasmina.runs.stage import COMPUTE, Decide, Stage, at, stage, striped, wait
from torch import Tensor

from kasmina.data.dataset import Dataset
from kasmina.network.slot import Action
from kasmina.runs.network_source import NetworkSource
from kasmina.runs.run_defaults import fill_in, fill_in_data
from kasmina.runs.state_directory import StateDirectory
from kasmina.settings import KasminaSettings
from kasmina.training.trainer import GrowthTrainer
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
)
from leyline.v1.episode_pb2 import DoubleRange, EpisodeReference, Seeds, SituationRange
from leyline.v1.trainer_pb2 import RunSpec

RANGE = SituationRange(
    name="small",
    bottleneck_probability=0.5,
    bottleneck_factor=DoubleRange(low=0.3, high=0.6),
    training_images=[32, 48, 64, 96],
    label_noise=[0.0, 0.25, 0.5],
    learning_rate=DoubleRange(low=0.01, high=0.1),
    dud_probability=0.5,
)
SEEDS = Seeds(situation=1, data=2, initialization=3, order=4, augmentation=5, blueprint=6)

grow_late = at("slot-1", ACTION_TYPE_WAIT, ACTION_TYPE_WAIT, ACTION_TYPE_GERMINATE)
grow_at_once = at("slot-1", *[ACTION_TYPE_GERMINATE, *[ACTION_TYPE_ADVANCE] * 3])


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Trainers set the number of threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def play(
    tmp_path: Path, images: Dataset, run_id: str, decide: Decide, episode: int = 0, **parts: object
) -> Stage:
    """Plays an episode of a run of five steps."""
    state = StateDirectory.open(tmp_path / "state")
    run = stage(state, images, striped(5, **parts), decide, run_id)
    run.play(episode)
    run.journal.close()
    return stage(state, images, striped(5, **parts), decide, run_id)


def trainer(spec: RunSpec, images: Dataset, episode: int = 0) -> GrowthTrainer:
    """The trainer with which an episode begins."""
    settled = fill_in(spec, KasminaSettings())
    fill_in_data(settled, images)
    source = NetworkSource(settled, COMPUTE, images)
    made = source.fresh(source.origin(episode))
    assert isinstance(made, GrowthTrainer)
    return made


def weights(made: GrowthTrainer) -> dict[str, Tensor]:
    """All that the network holds."""
    return {name: tensor.clone() for name, tensor in made.network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two networks are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_runs_that_differ_in_their_decisions_are_the_same_until_the_first_action(
    tmp_path: Path, stripes: Dataset
) -> None:
    waiting = play(tmp_path, stripes, "waiting", wait)
    late = play(tmp_path, stripes, "late", grow_late)
    at_once = play(tmp_path, stripes, "at-once", grow_at_once)
    assert waiting.curve[:2] == late.curve[:2]
    assert waiting.curve[2] != late.curve[2]
    first = [run.transitions[0].snapshot for run in (waiting, late, at_once)]
    for snapshot in first:
        snapshot.ClearField("step_id")
    assert first[0] == first[1] == first[2]


@pytest.mark.parametrize(
    ("stream", "begins_alike", "trains_alike"),
    [
        ("initialization", False, False),
        ("order", True, False),
        ("augmentation", True, False),
        ("blueprint", True, True),
    ],
)
def test_a_seed_changes_what_it_feeds_and_nothing_else(
    stripes: Dataset, stream: str, begins_alike: bool, trains_alike: bool
) -> None:
    changed = Seeds()
    changed.CopyFrom(SEEDS)
    setattr(changed, stream, 99)
    before, after = (trainer(striped(seeds=seeds), stripes) for seeds in (SEEDS, changed))
    assert same(weights(before), weights(after)) is begins_alike
    for made in (before, after):
        made.train_interval()
    assert same(weights(before), weights(after)) is trains_alike


def test_the_blueprint_seed_is_that_of_the_weights_of_seeds(stripes: Dataset) -> None:
    changed = Seeds()
    changed.CopyFrom(SEEDS)
    changed.blueprint = 99
    runs = [trainer(striped(seeds=seeds), stripes) for seeds in (SEEDS, SEEDS, changed)]
    for made in runs:
        assert made.apply(Action.GERMINATE, "slot-1").executed
    assert same(weights(runs[0]), weights(runs[1]))
    assert not same(weights(runs[0]), weights(runs[2]))


def test_the_run_seed_does_not_matter_where_every_stream_has_its_own(stripes: Dataset) -> None:
    one, other = (trainer(striped(seed=seed, seeds=SEEDS), stripes) for seed in (1, 2))
    for made in (one, other):
        made.train_interval()
    assert same(weights(one), weights(other))


def test_episodes_of_a_run_with_situations_differ_and_can_be_repeated(
    tmp_path: Path, stripes: Dataset
) -> None:
    first = play(tmp_path, stripes, "first", wait, situations=RANGE, episodes=8)
    again = play(tmp_path, stripes, "again", wait, situations=RANGE, episodes=8)
    other = play(tmp_path, stripes, "other", wait, episode=1, situations=RANGE, episodes=8)
    assert first.curve == again.curve
    assert first.curve != other.curve
    records = [
        run.journal.episodes.get(run.setting.run_id, index)
        for run, index in ((first, 0), (again, 0), (other, 1))
    ]
    origins = [record.origin for record in records if record is not None]
    assert origins[0] == origins[1]
    assert origins[0].seeds.situation != origins[2].seeds.situation
    assert {origin.situation.range for origin in origins} == {"small"}


def test_an_interval_has_as_many_images_however_few_there_are(
    tmp_path: Path, stripes: Dataset
) -> None:
    few = SituationRange(name="few", training_images=[32])
    run = play(tmp_path, stripes, "few", wait, situations=few)
    plain = play(tmp_path, stripes, "plain", wait)
    seen = [
        transition.facts.training_images for each in (run, plain) for transition in each.transitions
    ]
    assert set(seen) == {96}
    assert {t.facts.validation_images for t in run.transitions} == {40}


def test_the_data_seed_chooses_the_images_that_a_situation_leaves(stripes: Dataset) -> None:
    few = SituationRange(name="few", training_images=[48], label_noise=[0.5])
    changed = Seeds()
    changed.CopyFrom(SEEDS)
    changed.data = 99
    runs = [
        trainer(striped(seeds=seeds, situations=few), stripes) for seeds in (SEEDS, SEEDS, changed)
    ]
    begun = [weights(made) for made in runs]
    assert same(begun[0], begun[2])
    for made in runs:
        made.train_interval()
    assert same(weights(runs[0]), weights(runs[1]))
    assert not same(weights(runs[0]), weights(runs[2]))


def test_a_run_with_a_twin_names_its_twins_episode(tmp_path: Path, stripes: Dataset) -> None:
    run = play(tmp_path, stripes, "grown", grow_at_once, episode=1, episodes=2, twin_run="twin")
    record = run.journal.episodes.get("grown", 1)
    assert record is not None
    assert record.origin.twin == EpisodeReference(run_id="twin", episode_index=1)
