"""How far a run is, and how long it will yet take."""

from __future__ import annotations

import pytest

from leyline.pace import Pace
from leyline.v1.snapshot_pb2 import StepId
from leyline.v1.trainer_pb2 import (
    RUN_STATE_PAUSED,
    EpisodeBegan,
    RunSpec,
    RunStateChanged,
    StepCompleted,
    TrainingSpec,
    WatchRunResponse,
)
from leyline.v1.transition_pb2 import TERMINATION_FAILED, EpisodeEnd


def completed(at_s: float, step: int, episode: int = 0) -> WatchRunResponse:
    step_id = StepId(run_id="r", episode_index=episode, step=step)
    return timed(at_s, WatchRunResponse(step_completed=StepCompleted(step_id=step_id)))


def timed(at_s: float, event: WatchRunResponse) -> WatchRunResponse:
    event.time.FromNanoseconds(int(at_s * 1e9))
    return event


@pytest.fixture
def pace() -> Pace:
    return Pace(RunSpec(episodes=3, training=TrainingSpec(horizon=10)))


def test_the_time_left_is_the_rest_at_the_pace_of_the_recent_steps(pace: Pace) -> None:
    assert (str(pace), pace.seconds_left) == ("0 of 30", None)
    pace.add(timed(100, WatchRunResponse(episode_began=EpisodeBegan())))
    for step in range(4):
        pace.add(completed(102 + 2 * step, step))
    assert pace.seconds_left == pytest.approx(26 * 2)
    assert str(pace) == "4 of 30, 52 s left"


def test_a_pause_is_not_taken_for_a_slow_step(pace: Pace) -> None:
    for step in range(3):
        pace.add(completed(100 + step, step))
    paused = RunStateChanged(state=RUN_STATE_PAUSED)
    pace.add(timed(103, WatchRunResponse(state_changed=paused)))
    pace.add(completed(9000, 3))
    pace.add(completed(9001, 4))
    assert pace.seconds_left == pytest.approx(25)


def test_a_watch_from_the_middle_on_counts_what_it_has_not_seen(pace: Pace) -> None:
    pace.add(completed(100, 4, episode=1))
    assert (pace.done, pace.total) == (15, 30)


def test_a_share_of_a_run_counts_its_own_episodes() -> None:
    training = TrainingSpec(horizon=10)
    pace = Pace(RunSpec(episodes=3, first_episode=1, episode_stride=8, training=training))
    pace.add(completed(100, 4, episode=9))
    assert (pace.done, pace.total) == (15, 30)
    ended = EpisodeEnd(episode_index=17, termination=TERMINATION_FAILED)
    pace.add(timed(101, WatchRunResponse(episode_ended=ended)))
    assert pace.done == 30


def test_a_step_that_is_told_again_counts_once(pace: Pace) -> None:
    for at_s in (100, 101):
        pace.add(completed(at_s, 5))
    assert pace.done == 6


def test_an_episode_that_ended_early_leaves_no_steps_to_come(pace: Pace) -> None:
    pace.add(completed(100, 0))
    ended = EpisodeEnd(episode_index=0, termination=TERMINATION_FAILED)
    pace.add(timed(101, WatchRunResponse(episode_ended=ended)))
    assert pace.done == 10


@pytest.mark.parametrize(
    ("step_s", "said"),
    [(0.1, "3 s"), (3, "81 s"), (10, "4 min"), (600, "4 h 30 min"), (36_000, "11 days")],
)
def test_times_are_said_as_people_do(pace: Pace, step_s: float, said: str) -> None:
    for step in range(3):
        pace.add(completed(step * step_s, step))
    assert str(pace) == f"3 of 30, {said} left"


def test_nothing_is_left_in_the_end(pace: Pace) -> None:
    for step in range(10):
        pace.add(completed(step, step, episode=2))
    assert str(pace) == "30 of 30"
