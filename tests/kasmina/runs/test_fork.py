"""Forks: another run goes on from a checkpoint, whatever becomes of its parent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.kasmina.neighbours import coin
from tests.kasmina.runs.stage import Decide, Stage, by_coin, stage, striped

from kasmina.data.dataset import Dataset
from kasmina.runs import episode as episode_module
from kasmina.runs.episode_log import Decided
from kasmina.runs.run_control import RunFailed
from kasmina.runs.state_directory import StateDirectory
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.episode_pb2 import EpisodeReference, Fork, SituationRange
from leyline.v1.trainer_pb2 import HostSpec, RunSpec
from leyline.v1.transition_pb2 import DECIDER_POLICY, Transition

Build = Callable[..., Stage]

SITUATIONS = SituationRange(name="few", training_images=[64, 80], label_noise=[0.2])


@pytest.fixture
def build(tmp_path: Path, stripes: Dataset) -> Iterator[Build]:
    """Builds runs over one state folder."""
    state = StateDirectory.open(tmp_path / "state")
    runs: list[Stage] = []

    def built(spec: RunSpec, run_id: str, decide: Decide = by_coin) -> Stage:
        runs.append(stage(state, stripes, spec, decide, run_id))
        return runs[-1]

    threads = torch.get_num_threads()
    yield built
    torch.set_num_threads(threads)
    for run in runs:
        run.journal.close()


def like(transitions: list[Transition], first: int) -> Decide:
    """Decides as those transitions were, from one of them on."""

    def decide(query: DecisionQuery) -> Decided:
        decision = transitions[first + query.snapshot.step_id.step].decision
        return Decided(decision, DECIDER_POLICY, None)

    return decide


def fork(run_id: str, step: int, **parts: object) -> RunSpec:
    """Goes on from a step of a run's only episode."""
    parent = EpisodeReference(run_id=run_id)
    return RunSpec(fork=Fork(parent=parent, step=step), **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"situations": SITUATIONS},
        {"host": HostSpec(name="simulator"), "dataset": None, "training": None, "growth": None},
    ],
    ids=["network", "situations", "simulator"],
)
@pytest.mark.parametrize("step", [0, 3, 5])
def test_under_the_same_decisions_a_fork_is_bit_for_bit_its_parent(
    build: Build, parts: dict[str, object], step: int
) -> None:
    horizon = 30 if "host" in parts else 6
    parent = build(striped(horizon, keep_checkpoints=True, **parts), "parent")
    parent.play()
    child = build(fork("parent", step, seed=99), "child", like(parent.transitions, step))
    child.play()
    assert child.curve == parent.curve[step:]
    steps = [transition.step_id.step for transition in child.transitions]
    assert steps == list(range(horizon - step))
    assert child.transitions[0].snapshot.epoch == step
    assert child.transitions[-1].terminal
    assert child.decider.begun[0].horizon == child.setting.spec.training.horizon == horizon - step
    origin, of_parent = (
        record.origin
        for run in (child, parent)
        if (record := run.journal.episodes.get(run.setting.run_id, 0)) is not None
    )
    assert origin.fork == child.setting.spec.fork
    assert origin.seeds == of_parent.seeds
    assert origin.situation == of_parent.situation


def test_a_fork_under_another_policy_differs_from_there_on(build: Build) -> None:
    parent = build(striped(6, keep_checkpoints=True), "parent")
    parent.play()
    child = build(fork("parent", 2, seed=99), "child")
    child.play()
    assert child.transitions[0].snapshot.val_loss == parent.transitions[2].snapshot.val_loss
    assert child.curve != parent.curve[2:]
    for query in child.decider.asked:
        assert coin(query) == child.transitions[query.snapshot.step_id.step].decision


def test_a_fork_of_a_fork_is_bit_for_bit_the_first(build: Build) -> None:
    first = build(striped(6, keep_checkpoints=True), "first")
    first.play()
    decisions = first.transitions
    second = build(fork("first", 2, keep_checkpoints=True), "second", like(decisions, 2))
    second.play()
    third = build(fork("second", 3), "third", like(decisions, 5))
    third.play()
    assert third.curve == first.curve[5:]
    assert third.setting.spec.training.horizon == 1


class PowerCut(BaseException):
    """The end of a process, as far as a test in one process can have it."""


def test_a_fork_that_has_begun_needs_its_parent_no_more(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = build(striped(6, keep_checkpoints=True), "parent")
    parent.play()
    decisions = parent.transitions

    def cut_at_two(query: DecisionQuery) -> Decided:
        if query.snapshot.step_id.step == 2:
            raise PowerCut
        return like(decisions, 1)(query)

    specification = fork("parent", 1)
    cut = build(specification, "child", cut_at_two)
    with pytest.raises(PowerCut):
        cut.play()
    resumed = build(specification, "child", like(decisions, 1))
    shutil.rmtree(parent.setting.state.checkpoints("parent"))
    monkeypatch.setattr(episode_module, "origin_of", None)
    resumed.play()
    assert resumed.curve == parent.curve[1:]
    began = [e.episode_began for e in resumed.events if e.HasField("episode_began")]
    assert [event.first_step for event in began] == [0, 2]


def test_a_fork_whose_parent_was_forgotten_meanwhile_fails_with_the_reason(build: Build) -> None:
    build(striped(2, keep_checkpoints=True), "parent").play()
    child = build(fork("parent", 1), "child")
    child.setting.spec.fork.parent.run_id = "nobody"
    with pytest.raises(RunFailed, match="'nobody', which this one is forked from"):
        child.play()


def test_a_settled_fork_given_again_is_the_same_fork(build: Build) -> None:
    build(striped(4, keep_checkpoints=True), "parent").play()
    settled = build(fork("parent", 1), "child").setting.spec
    again = build(settled, "again").setting.spec
    assert again == settled
