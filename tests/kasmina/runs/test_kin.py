"""Specifications that refer to other runs, and how they are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.kasmina.runs.stage import Stage, at, stage, striped, wait

from chassis.errors import ErrorCode, LeylineError
from kasmina.data.dataset import Dataset
from kasmina.runs.admission import admit
from kasmina.runs.journal import Journal
from kasmina.runs.kin import Kin
from kasmina.runs.state_directory import StateDirectory
from kasmina.settings import KasminaSettings
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
)
from leyline.v1.episode_pb2 import EpisodeReference, Fork, Seeds, SituationRange
from leyline.v1.trainer_pb2 import (
    PRECISION_BF16,
    PRECISION_FP32,
    GrowthSpec,
    Plan,
    PlannedAction,
    PolicySpec,
    RunSpec,
    TrainingSpec,
)

SETTINGS = KasminaSettings()
GROWN = at("slot-1", ACTION_TYPE_GERMINATE, *[ACTION_TYPE_ADVANCE] * 3)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> StateDirectory:
    """A folder with a run that has grown, one that waits, and one that goes on."""
    return StateDirectory.open(tmp_path_factory.mktemp("kin") / "state")


@pytest.fixture(scope="module")
def played(state: StateDirectory, stripes: Dataset) -> Iterator[dict[str, Stage]]:
    """The runs, by name."""
    threads = torch.get_num_threads()
    runs = {
        "grown": stage(state, stripes, striped(5, keep_checkpoints=True), GROWN, "grown"),
        "waiting": stage(state, stripes, striped(5, seed=5), wait, "waiting"),
    }
    for run in runs.values():
        run.play()
        # A worker settles the precision that it has measured.
        settled = run.setting.spec
        settled.training.precision = PRECISION_FP32
        run.journal.runs.settle_spec(run.setting.run_id, settled)
    yield runs
    torch.set_num_threads(threads)
    for run in runs.values():
        run.journal.close()


@pytest.fixture
def journal(played: dict[str, Stage]) -> Journal:
    """Their journal."""
    return played["grown"].journal


def admitted(spec: RunSpec, state: StateDirectory, journal: Journal) -> RunSpec:
    """The specification as it is queued."""
    return admit(spec, SETTINGS, Kin(journal, state))


def refusal(spec: RunSpec, state: StateDirectory, journal: Journal) -> tuple[str, str]:
    """The field that is to blame, and why."""
    with pytest.raises(LeylineError) as error:
        admitted(spec, state, journal)
    assert error.value.code is ErrorCode.INVALID_ARGUMENT
    violation = error.value.violations[0]
    return violation.field, violation.description


def fork(run_id: str = "grown", episode: int = 0, step: int = 2, **parts: object) -> RunSpec:
    """A fork of an episode."""
    parent = EpisodeReference(run_id=run_id, episode_index=episode)
    return RunSpec(fork=Fork(parent=parent, step=step), **parts)  # type: ignore[arg-type]


def topology(run_id: str = "grown", episode: int = 0, **growth: object) -> GrowthSpec:
    """The topology of an episode."""
    reference = EpisodeReference(run_id=run_id, episode_index=episode)
    return GrowthSpec(topology=reference, **growth)  # type: ignore[arg-type]


def test_a_fork_has_what_its_parent_has(state: StateDirectory, journal: Journal) -> None:
    spec = admitted(fork(seed=4), state, journal)
    parent = journal.runs.get("grown")
    assert parent is not None
    assert spec.host == parent.spec.host
    assert spec.dataset == parent.spec.dataset
    assert spec.growth == parent.spec.growth
    assert spec.training.horizon == 3
    assert (spec.seed, spec.episodes) == (4, 1)
    assert admitted(spec, state, journal) == spec


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        (fork("nobody"), "spec.fork.parent.run_id", "no run 'nobody'"),
        (fork(episode=3), "spec.fork.parent.episode_index", "no episode 3 yet"),
        (fork(step=5), "spec.fork.step", "there are: 0, 1, 2, 3, 4"),
        (fork("waiting", step=1), "spec.fork.step", "there are: none"),
        (fork(episodes=2), "spec.episodes", "one episode"),
        (fork(training=TrainingSpec(horizon=9)), "spec.training", "parent, run 'grown'"),
        (fork(seeds=Seeds(order=1)), "spec.seeds", "parent, run 'grown'"),
        (
            fork(situations=SituationRange(name="mixed")),
            "spec.situations",
            "parent's situation",
        ),
    ],
)
def test_a_fork_of_what_there_is_not_is_refused(
    state: StateDirectory, journal: Journal, spec: RunSpec, field: str, words: str
) -> None:
    found, why = refusal(spec, state, journal)
    assert found == field
    assert words in why


def test_a_finished_topology_is_planted_and_still_named(
    state: StateDirectory, journal: Journal
) -> None:
    spec = admitted(striped(5, growth=topology()), state, journal)
    assert dict(spec.growth.planted) == {"slot-1": "conv3x3"}
    assert spec.growth.topology.run_id == "grown"
    assert sorted(spec.growth.blueprints) == ["slot-0", "slot-2"]
    assert admitted(spec, state, journal) == spec


@pytest.mark.parametrize(
    ("growth", "field", "words"),
    [
        (topology("nobody"), "spec.growth.topology.run_id", "no run 'nobody'"),
        (topology(episode=1), "spec.growth.topology.episode_index", "no episode 1 yet"),
        (topology(planted={"slot-0": "norm"}), "spec.growth.planted", "must be empty"),
    ],
)
def test_a_topology_that_there_is_not_is_refused(
    state: StateDirectory, journal: Journal, growth: GrowthSpec, field: str, words: str
) -> None:
    found, why = refusal(striped(5, growth=growth), state, journal)
    assert found == field
    assert words in why


def test_a_topology_is_that_of_an_episode_at_its_horizon(
    state: StateDirectory, journal: Journal, stripes: Dataset
) -> None:
    def cancel(query: object) -> object:
        raise KeyboardInterrupt

    unfinished = stage(state, stripes, striped(5), cancel, "unfinished")  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        unfinished.play()
    unfinished.journal.close()
    _, why = refusal(striped(5, growth=topology("unfinished")), state, journal)
    assert "has not come to its horizon" in why


def test_a_twin_that_waits_and_is_the_same_otherwise_is_taken(
    state: StateDirectory, journal: Journal
) -> None:
    spec = admitted(
        striped(5, seed=5, twin_run="waiting", title="grown", observation_spec="extended"),
        state,
        journal,
    )
    assert spec.twin_run == "waiting"
    assert spec.training.precision == PRECISION_FP32, "an open precision is that of the twin"
    settled = journal.runs.get("waiting")
    assert settled is not None
    again = RunSpec()
    again.CopyFrom(settled.spec)
    again.twin_run = "waiting"
    assert admitted(again, state, journal) == again


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (striped(5, seed=5, twin_run="nobody"), "no run 'nobody'"),
        (striped(5, seed=6, twin_run="waiting"), "differs in seed"),
        (striped(6, seed=5, twin_run="waiting"), "differs in training.horizon"),
        (striped(5, seed=5, seeds=Seeds(order=1), twin_run="waiting"), "differs in seeds"),
        (
            striped(5, seed=5, growth=GrowthSpec(planted={"slot-0": "norm"}), twin_run="waiting"),
            "differs in growth.blueprints, growth.blend_intervals, growth.planted",
        ),
        (
            striped(5, seed=5, episodes=2, twin_run="waiting"),
            "has episodes 0, and this has episode 1",
        ),
        (striped(5, seed=5, first_episode=3, twin_run="waiting"), "and this has episode 3"),
        (
            striped(
                5,
                seed=5,
                training=TrainingSpec(horizon=5, batch_size=32, precision=PRECISION_BF16),
                twin_run="waiting",
            ),
            "differs in training.precision",
        ),
        (striped(5, twin_run="grown"), "does not only wait"),
    ],
)
def test_a_twin_that_is_none_is_refused_with_the_field_that_differs(
    state: StateDirectory, journal: Journal, spec: RunSpec, words: str
) -> None:
    field, why = refusal(spec, state, journal)
    assert field == "spec.twin_run"
    assert words in why


def queued(journal: Journal, run_id: str, spec: RunSpec) -> None:
    """A run that has not started, under a name that may be taken."""
    kin = Kin(journal, StateDirectory(Path("nowhere")))
    journal.runs.create(run_id, spec, admit(spec, SETTINGS, kin), queue_limit=99)


def test_a_twins_plan_must_only_wait(state: StateDirectory, journal: Journal) -> None:
    fp32 = TrainingSpec(horizon=5, batch_size=32, precision=PRECISION_FP32)
    action = PlannedAction(step=1, action_type=ACTION_TYPE_GERMINATE, slot_id="slot-0")
    pause = PlannedAction(step=1, action_type=ACTION_TYPE_WAIT)
    for run_id, actions in (("acting", [action]), ("patient", [pause])):
        plan = PolicySpec(plan=Plan(actions=actions))
        queued(journal, run_id, striped(training=fp32, policy=plan))
    _, why = refusal(striped(training=fp32, twin_run="acting"), state, journal)
    assert "does not only wait" in why
    admitted(striped(training=fp32, twin_run="patient"), state, journal)


def test_a_twin_has_all_the_episodes_of_a_share(state: StateDirectory, journal: Journal) -> None:
    fp32 = TrainingSpec(horizon=5, batch_size=32, precision=PRECISION_FP32)
    whole = striped(training=fp32, episodes=8, policy=PolicySpec(plan=Plan()))
    queued(journal, "whole", whole)
    parts = {"first_episode": 1, "episode_stride": 3}
    admitted(striped(training=fp32, twin_run="whole", episodes=3, **parts), state, journal)
    _, why = refusal(striped(training=fp32, twin_run="whole", episodes=4, **parts), state, journal)
    assert "has episodes 0 to 7, and this has episode 10" in why


def test_while_a_twin_has_not_started_both_must_say_the_precision(
    state: StateDirectory, journal: Journal
) -> None:
    queued(journal, "open", striped(7))
    field, why = refusal(striped(7, twin_run="open"), state, journal)
    assert field == "spec.training.precision"
    assert "has not started" in why
