"""What a demonstration shows and sums up, from events as a trainer sends them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from leyline.demo.plot import plot
from leyline.demo.preset import DEMO, Preset
from leyline.demo.session import Demonstration
from leyline.demo.summary import print_summary, summarize
from leyline.demo.view import LineView, LiveView
from leyline.v1.decision_pb2 import ActionType, Decision
from leyline.v1.experience_pb2 import ActionCount, GetStatisticsResponse, VersionCount
from leyline.v1.learner_pb2 import WatchTrainingResponse
from leyline.v1.registry_pb2 import PolicyManifest
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, SlotReading, Stage, StepId
from leyline.v1.trainer_pb2 import (
    RUN_STATE_COMPLETED,
    RUN_STATE_RUNNING,
    EpisodeBegan,
    Run,
    RunStateChanged,
    StepCompleted,
    StepDecided,
    WatchRunResponse,
)
from leyline.v1.transition_pb2 import (
    DECIDER_FALLBACK,
    DECIDER_POLICY,
    EXECUTION_RESULT_EXECUTED,
    EXECUTION_RESULT_NO_OP,
    NO_OP_REASON_SLOT_OCCUPIED,
    TERMINATION_HORIZON,
    EpisodeEnd,
    Execution,
)

WAIT, GERMINATE, ADVANCE, CULL = ActionType.values()[1:]
DORMANT, GERMINATED, TRAINING, BLENDING, FOSSILIZED = Stage.values()[1:]

# What is decided at slot-1 in each episode, whether it is a no-op, and the stage that follows.
STORY = [
    (GERMINATE, False, GERMINATED),
    (GERMINATE, True, GERMINATED),
    (ADVANCE, False, TRAINING),
    (ADVANCE, False, BLENDING),
    (WAIT, False, BLENDING),
    (CULL, False, DORMANT),
]
HORIZON = len(STORY)
EPISODES = 4


def snapshot(episode: int, step: int, stage: Any) -> MultiSlotSnapshot:
    alpha = 0.5 if stage == BLENDING else 0.0
    return MultiSlotSnapshot(
        step_id=StepId(run_id="r", episode_index=episode, step=step),
        val_accuracy=0.01 * (step + 1) + 0.001 * episode,
        slots=[
            SlotReading(
                slot_id=f"slot-{depth}",
                depth=depth,
                stage=stage if depth == 1 else DORMANT,
                has_seed=depth == 1 and stage != DORMANT,
                alpha=alpha if depth == 1 else 0,
            )
            for depth in (2, 0, 1)
        ],
    )


def events_of_step(episode: int, step: int) -> Iterator[WatchRunResponse]:
    action, is_no_op, stage = STORY[step]
    before = STORY[step - 1][2] if step else DORMANT
    step_id = StepId(run_id="r", episode_index=episode, step=step)
    decision = Decision(
        action_type=action,
        slot_id=None if action == WAIT else "slot-1",
        policy_version=None if action == WAIT else f"mlp-{episode // 2}",
    )
    execution = Execution(result=EXECUTION_RESULT_EXECUTED)
    if is_no_op:
        execution = Execution(
            result=EXECUTION_RESULT_NO_OP, no_op_reason=NO_OP_REASON_SLOT_OCCUPIED
        )
    yield WatchRunResponse(
        step_decided=StepDecided(
            step_id=step_id,
            decision=decision,
            decider=DECIDER_FALLBACK if action == WAIT else DECIDER_POLICY,
            execution=execution,
            snapshot=snapshot(episode, step, before),
        )
    )
    yield WatchRunResponse(
        step_completed=StepCompleted(
            step_id=step_id, next_snapshot=snapshot(episode, step + 1, stage)
        )
    )


def events() -> Iterator[WatchRunResponse]:
    yield WatchRunResponse(state_changed=RunStateChanged(state=RUN_STATE_RUNNING))
    for episode in range(EPISODES):
        yield WatchRunResponse(episode_began=EpisodeBegan(episode_index=episode))
        for step in range(HORIZON):
            yield from events_of_step(episode, step)
        yield WatchRunResponse(
            episode_ended=EpisodeEnd(episode_index=episode, termination=TERMINATION_HORIZON)
        )
    yield WatchRunResponse(state_changed=RunStateChanged(state=RUN_STATE_COMPLETED))


@pytest.fixture
def demonstration() -> Demonstration:
    """One in which everything adds up."""
    steps = EPISODES * HORIZON
    shown = Demonstration(Preset(episodes=EPISODES), "r", horizon=HORIZON, dataset="digits")
    for event in events():
        shown.record.add(event)
    shown.initial_version = "mlp-0"
    for number in (1, 2):
        shown.updates.append(
            WatchTrainingResponse(
                sequence=number, policy_version=f"mlp-{number}", episodes=2, gradient_steps=8
            )
        )
    shown.run = Run(steps_completed=steps, episodes_ended=EPISODES)
    shown.stored = GetStatisticsResponse(
        episodes=EPISODES,
        episodes_ended=EPISODES,
        transitions=steps,
        fallback_steps=EPISODES,
        actions=[
            ActionCount(action_type=WAIT, steps=EPISODES),
            ActionCount(action_type=GERMINATE, slot_id="slot-1", steps=8, no_ops=4),
        ],
        versions=[VersionCount(policy_version="mlp-0", steps=10, episodes=2)],
    )
    shown.versions_stored = {episode: {f"mlp-{episode // 2}"} for episode in range(EPISODES)}
    shown.manifests = [PolicyManifest(policy_version=f"mlp-{n}", ordinal=n + 1) for n in (0, 1, 2)]
    return shown


def test_a_summary_of_what_adds_up_has_no_problems(demonstration: Demonstration) -> None:
    summary = summarize(demonstration)
    assert summary["problems"] == []
    assert summary["steps"] == summary["transitions_stored"] == EPISODES * HORIZON
    assert summary["no_ops"] == {"SLOT_OCCUPIED": EPISODES}
    assert [episode["policy_version"] for episode in summary["episodes"]] == (
        ["mlp-0", "mlp-0", "mlp-1", "mlp-1"]
    )
    assert summary["episodes"][3]["final_accuracy"] == pytest.approx(0.073)
    assert [version["gradient_steps"] for version in summary["versions"]] == [0, 8, 8]


def test_a_transition_that_is_not_stored_is_a_problem(demonstration: Demonstration) -> None:
    demonstration.stored.transitions -= 1
    assert summarize(demonstration)["problems"] == ["23 transitions are stored of 24 steps"]


def test_a_step_that_was_not_taken_is_a_problem(demonstration: Demonstration) -> None:
    demonstration.run.steps_completed -= 1
    demonstration.stored.transitions -= 1
    assert summarize(demonstration)["problems"] == ["23 steps were taken instead of 24"]


def test_two_versions_in_one_episode_are_a_problem(demonstration: Demonstration) -> None:
    demonstration.versions_stored[2].add("mlp-9")
    assert summarize(demonstration)["problems"] == ["episode 2 was decided by 2 versions"]


@pytest.mark.parametrize("change", ["no gradient step", "one update", "the initial version again"])
def test_fewer_than_two_learned_versions_are_a_problem(
    demonstration: Demonstration, change: str
) -> None:
    if change == "no gradient step":
        demonstration.updates[1].gradient_steps = 0
    elif change == "one update":
        demonstration.updates.pop()
    else:
        demonstration.updates[1].policy_version = demonstration.initial_version
    assert summarize(demonstration)["problems"] == ["1 learned versions are fewer than 2"]


def test_the_printed_summary_says_every_fact(demonstration: Demonstration) -> None:
    console = Console(file=io.StringIO(), width=100)
    demonstration.stored.transitions -= 1
    print_summary(summarize(demonstration), {"picture": "/tmp/demo.png"}, console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    for fact in (
        "7.3 %",
        "GERMINATE",
        "8 (4)",
        "SLOT_OCCUPIED 4",
        "23 stored of 24 steps taken",
        "3, 2 learned in 16 gradient steps",
        "/tmp/demo.png",
        "does not add up: 23 transitions are stored of 24 steps",
    ):
        assert fact in printed


def test_the_picture_is_written(demonstration: Demonstration, tmp_path: Path) -> None:
    plot(demonstration, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_off_a_terminal_every_step_and_every_version_is_a_line(
    demonstration: Demonstration,
) -> None:
    file = io.StringIO()
    view = LineView(Console(file=file, width=200))
    view.update(demonstration)
    view.update(demonstration)
    lines = file.getvalue().splitlines()
    assert sum(line.startswith("episode") for line in lines) == EPISODES * HORIZON
    assert sum(line.startswith("learned") for line in lines) == 2
    assert lines[3] == (
        "episode  1/4 step  2/6    3.0 %  [D G D]  GERMINATE slot-1 (no-op: SLOT_OCCUPIED)"
    )
    assert lines[6].endswith("[D B0.5 D]  WAIT (fallback)")


def test_on_a_terminal_the_table_shows_slots_decision_version_and_progress(
    demonstration: Demonstration,
) -> None:
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True, color_system=None)
    with LiveView(console) as view:
        view.update(Demonstration(DEMO, "r", horizon=12))
        view.update(demonstration)
    shown = file.getvalue()
    for fact in ("episode 4 of 4", "CULL slot-1", "mlp-1", "24/24", "slot-2", "DORMANT", "7.3"):
        assert fact in shown


def test_a_step_that_is_told_again_after_a_crash_counts_once(demonstration: Demonstration) -> None:
    for event in events_of_step(3, HORIZON - 1):
        demonstration.record.add(event)
    assert sum(1 for _ in demonstration.record.steps) == EPISODES * HORIZON
