"""An episode in one process: what is asked, what is applied, what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.kasmina.neighbours import coin
from tests.kasmina.runs.stage import Decide, Stage, at, by_coin, striped
from tests.kasmina.runs.stage import stage as build_stage

from chassis.validation import violations
from kasmina.data.dataset import Dataset
from kasmina.runs import episode as episode_module
from kasmina.runs.decider import fallback
from kasmina.runs.episode_log import Beginning, Decided
from kasmina.runs.fault import Point
from kasmina.runs.journal import Journal
from kasmina.runs.run_control import RunCancelled, RunFailed
from kasmina.runs.state_directory import StateDirectory
from kasmina.training.network_file import read_network
from leyline.identity import sampling_seed
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_CULL,
    ACTION_TYPE_GERMINATE,
    SELECTION_MODE_GREEDY,
    DecisionQuery,
)
from leyline.v1.trainer_pb2 import RUN_STATE_PAUSED, RUN_STATE_RUNNING, HostSpec
from leyline.v1.transition_pb2 import (
    DECIDER_FALLBACK,
    EXECUTION_RESULT_EXECUTED,
    EXECUTION_RESULT_NO_OP,
    NO_OP_REASON_SLOT_EMPTY,
    NO_OP_REASON_SLOT_OCCUPIED,
    NO_OP_REASON_UNKNOWN_SLOT,
    TERMINATION_HORIZON,
)

Build = Callable[..., Stage]


@pytest.fixture
def stage(tmp_path: Path, stripes: Dataset) -> Iterator[Build]:
    """Builds a run on stripes, over the same state folder each time."""
    state = StateDirectory.open(tmp_path / "state")
    journals: list[Journal] = []

    def build(decide: Decide = by_coin, horizon: int = 4, **parts: object) -> Stage:
        built = build_stage(state, stripes, striped(horizon, **parts), decide)
        journals.append(built.journal)
        return built

    threads = torch.get_num_threads()
    yield build
    torch.set_num_threads(threads)
    for journal in journals:
        journal.close()


def test_an_episode_asks_once_a_step_with_all_that_a_pure_policy_needs(stage: Build) -> None:
    run = stage()
    run.play()
    assert [query.snapshot.step_id.step for query in run.decider.asked] == [0, 1, 2, 3]
    for step, query in enumerate(run.decider.asked):
        assert violations(query) == ()
        assert query.sampling_seed == sampling_seed(11, 0, step)
        assert query.spec_fingerprint == SEED_SPEC.fingerprint
        assert query.mode == SELECTION_MODE_GREEDY
    pins = [query.policy_version for query in run.decider.asked]
    assert pins == ["", "coin-1", "coin-1", "coin-1"], "the first decision pins the others"
    assert run.decider.ended == 1


def test_every_transition_keeps_the_contract_and_continues_the_one_before(stage: Build) -> None:
    run = stage(horizon=6)
    run.play()
    transitions = run.transitions
    assert [violations(transition) for transition in transitions] == [()] * 6
    for earlier, later in pairwise(transitions):
        assert earlier.next_snapshot == later.snapshot
    assert [transition.terminal for transition in transitions] == [False] * 5 + [True]
    first = transitions[0].snapshot
    assert not first.HasField("train_loss"), "nothing was trained before the first decision"
    assert first.HasField("val_accuracy")
    assert transitions[-1].next_snapshot.time_left == 0
    assert transitions[0].facts.training_images == 96
    assert len(transitions[0].facts.validation_correct) == 5  # 40 images, a bit each


def test_the_end_has_its_network_and_leaves_no_checkpoint(stage: Build, stripes: Dataset) -> None:
    run = stage()
    run.play()
    record = run.journal.episodes.get("run", 0)
    assert record is not None
    assert (record.steps, record.termination) == (4, TERMINATION_HORIZON)
    path = run.setting.state.network("run", 0)
    assert path.stat().st_size == record.network_size
    grown = read_network(path)
    assert grown.manifest["origin"] == {"run_id": "run", "episode_index": 0}
    validation = stripes.validation
    right = (grown.classify(validation.images).argmax(1) == validation.labels).double().mean()
    assert float(right) == pytest.approx(run.transitions[-1].next_snapshot.val_accuracy)
    assert not list(run.setting.state.checkpoints("run").iterdir())


def test_what_was_done_stands_beside_what_was_decided(stage: Build) -> None:
    run = stage(at("slot-1", ACTION_TYPE_GERMINATE, ACTION_TYPE_GERMINATE, ACTION_TYPE_CULL))
    run.play()
    executions = [transition.execution for transition in run.transitions]
    assert executions[0].blueprint == "conv3x3"
    assert [execution.result for execution in executions] == [
        EXECUTION_RESULT_EXECUTED,
        EXECUTION_RESULT_NO_OP,
        EXECUTION_RESULT_EXECUTED,
        EXECUTION_RESULT_NO_OP,
    ]
    assert executions[1].no_op_reason == NO_OP_REASON_SLOT_OCCUPIED
    assert executions[3].no_op_reason == NO_OP_REASON_SLOT_EMPTY
    assert not executions[1].HasField("blueprint")


@pytest.mark.parametrize("slot_id", ["attic", "slot-0"])
def test_a_slot_that_the_run_does_not_use_is_unknown_to_it(stage: Build, slot_id: str) -> None:
    host = HostSpec(channels=[4, 6, 8], slots=["slot-1", "slot-2"])
    run = stage(at(slot_id, ACTION_TYPE_ADVANCE), horizon=1, host=host)
    run.play()
    (transition,) = run.transitions
    assert transition.execution.no_op_reason == NO_OP_REASON_UNKNOWN_SLOT
    assert [slot.slot_id for slot in transition.snapshot.slots] == ["slot-1", "slot-2"]
    assert [slot.depth for slot in transition.snapshot.slots] == [1, 2]
    assert run.decider.begun[0].slots == 2


def test_a_fallback_is_a_valid_transition_with_its_reason(stage: Build) -> None:
    run = stage(lambda query: fallback(query.snapshot.step_id, "nobody there"), horizon=1)
    run.play()
    (transition,) = run.transitions
    assert violations(transition) == ()
    assert transition.decider == DECIDER_FALLBACK
    assert transition.fallback_reason == "nobody there"


def test_watchers_see_begin_decisions_intervals_and_end_in_order(stage: Build) -> None:
    run = stage(horizon=2)
    run.play()
    kinds = [event.WhichOneof("event") for event in run.events]
    step = ["step_decided", "step_completed"]
    assert kinds == ["episode_began", *step, *step, "episode_ended"]
    began, decided = run.events[0].episode_began, run.events[1].step_decided
    assert [slot.slot_id for slot in began.slots] == ["slot-0", "slot-1", "slot-2"]
    assert decided.latency.ToMilliseconds() == 250
    assert decided.snapshot.step_id.step == 0


class PowerCut(BaseException):
    """The end of a process, as far as a test in one process can have it."""


@pytest.mark.parametrize("cut_at", [0, 2, 3])
@pytest.mark.parametrize("point", list(Point))
def test_an_episode_cut_off_anywhere_goes_on_with_the_same_decision_and_doubles_nothing(
    stage: Build, monkeypatch: pytest.MonkeyPatch, point: Point, cut_at: int
) -> None:
    def cut(here: Point, episode_index: int, step: int, marks: Path) -> None:
        if (here, step) == (point, cut_at):
            raise PowerCut

    interrupted = stage(horizon=4)
    with monkeypatch.context() as patch:
        patch.setattr(episode_module, "reached", cut)
        with pytest.raises(PowerCut):
            interrupted.play()
    known = interrupted.decider.asked

    resumed = stage(horizon=4)
    resumed.play()
    transitions = resumed.transitions
    assert [transition.step_id.step for transition in transitions] == [0, 1, 2, 3]
    for query, transition in zip([*known, *resumed.decider.asked], transitions, strict=True):
        assert transition.snapshot == query.snapshot
        assert transition.decision == coin(query)
    kinds = [event.WhichOneof("event") for event in resumed.events]
    assert (kinds.count("step_decided"), kinds.count("step_completed")) == (4, 4)
    assert kinds.count("episode_ended") == 1
    assert not list(resumed.setting.state.checkpoints("run").iterdir())


def test_an_episode_that_has_ended_is_not_played_again(stage: Build) -> None:
    run = stage(horizon=1)
    run.play()
    run.play()
    assert len(run.decider.asked) == 1
    assert len(run.transitions) == 1


def test_the_end_that_was_asked_for_comes_between_two_steps(stage: Build) -> None:
    def cancel_at_two(query: DecisionQuery) -> Decided:
        if query.snapshot.step_id.step == 1:
            run.journal.runs.request_cancel("run", "enough")
        return by_coin(query)

    run = stage(cancel_at_two)
    with pytest.raises(RunCancelled):
        run.play()
    assert [transition.step_id.step for transition in run.transitions] == [0, 1]
    assert run.decider.ended == 1


def test_a_host_that_cannot_be_built_for_the_images_fails_the_run_with_the_reason(
    stage: Build,
) -> None:
    run = stage(host=HostSpec(name="vit", options={"patch": "7"}))
    with pytest.raises(RunFailed, match="patch of vit is 7; it does not divide images of 16x16"):
        run.play()


def test_an_episode_that_nobody_can_decide_is_begun_and_fails_the_run(stage: Build) -> None:
    run = stage()
    run.decider.beginnings = [beginning(fence=1, refusal="SLOT_COUNT_MISMATCH: so and so")]
    with pytest.raises(RunFailed, match="SLOT_COUNT_MISMATCH: so and so"):
        run.play()
    record = run.journal.episodes.get("run", 0)
    assert record is not None
    assert (record.fence, record.steps) == (1, 0)
    assert run.decider.asked == []


def test_whoever_may_know_of_a_version_that_decides_is_waited_for(
    stage: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_module, "_RETRY_S", 0.01)
    run = stage()
    away = beginning(fence=None, refusal="unless the experience service pins one")
    run.decider.beginnings = [away, away, beginning(fence=1, refusal=None)]
    run.play()
    assert len(run.decider.begun) == 3
    states = [e.state_changed for e in run.events if e.HasField("state_changed")]
    assert [state.state for state in states] == [RUN_STATE_PAUSED, RUN_STATE_RUNNING]
    assert "unless the experience service" in states[0].message
    assert len(run.transitions) == 4


def beginning(fence: int | None, refusal: str | None) -> Beginning:
    """What a policy that follows the registry begins with."""
    return Beginning("learned", True, None, SELECTION_MODE_GREEDY, fence, refusal)


def test_an_episodes_origin_is_told_to_watchers_and_deciders_and_to_no_snapshot(
    stage: Build,
) -> None:
    run = stage(horizon=1)
    run.play()
    record = run.journal.episodes.get("run", 0)
    assert record is not None
    began = run.events[0].episode_began
    assert record.origin == began.origin == run.decider.begun[0].origin
    used = {field.name for field, _ in record.origin.seeds.ListFields()}
    assert used == {"initialization", "order", "augmentation", "blueprint"}
    assert not record.origin.HasField("situation")


def test_checkpoints_that_are_to_be_kept_are(stage: Build) -> None:
    run = stage(horizon=3, keep_checkpoints=True)
    run.play()
    kept = run.setting.state.checkpoints("run").iterdir()
    assert sorted(path.name for path in kept) == [f"0-{step}.safetensors" for step in range(3)]
