"""Whatever fails on the containers' network, every step that a run took is stored, and stored once.

With LEYLINE_FAULTS=full each container is killed in turn twenty times over: `make faults`.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from tests.containers.stack import SERVICES, Stack

from leyline.v1.trainer_pb2 import (
    PRECISION_FP32,
    DatasetSpec,
    GrowthSpec,
    RunSpec,
    RunState,
    TrainingSpec,
)

FULL = os.environ.get("LEYLINE_FAULTS") == "full"
ROUNDS = 20 if FULL else 3
HORIZON = 24
# So few that a run of two episodes a round lasts longer than its kills.
MOST_BETWEEN_KILLS = 6

pytestmark = pytest.mark.timeout(7200 if FULL else 1800)


def spec(episodes: int) -> RunSpec:
    """Some seconds an episode: long enough to be hit, short enough to end."""
    return RunSpec(
        dataset=DatasetSpec(name="digits", validation_images=360),
        training=TrainingSpec(
            batch_size=32, interval_batches=10, horizon=HORIZON, precision=PRECISION_FP32
        ),
        growth=GrowthSpec(blend_intervals=2),
        episodes=episodes,
        seed=1,
    )


def settled(one: Stack, run_id: str, episodes: int) -> None:
    """Wait for the end of a run, and count."""
    run = one.ended(run_id)
    counted = one.count(run_id)
    print(f"{run_id}: {counted}")
    assert run.state == RunState.RUN_STATE_COMPLETED, run.status_message
    assert counted.sent == episodes * HORIZON
    assert (counted.lost, counted.doubled) == (0, 0)


def test_each_container_is_killed_in_turn(running: Stack) -> None:
    episodes = 2 * ROUNDS
    draw = random.Random(7)
    running.start("kills", spec(episodes))
    done = 0
    for number in range(1, ROUNDS + 1):
        for service in reversed(SERVICES):
            done = running.steps("kills", done + draw.randint(1, MOST_BETWEEN_KILLS))
            running.kill(service)
            print(f"round {number} of {ROUNDS}: {service} killed after {done} steps")
    assert running.run("kills").state == RunState.RUN_STATE_RUNNING
    settled(running, "kills", episodes)


def test_tamiyo_stands_still_for_half_a_minute(running: Stack) -> None:
    running.start("paused", spec(3))
    running.steps("paused", 5)
    running.compose("pause", "tamiyo")
    time.sleep(30)
    running.compose("unpause", "tamiyo")
    settled(running, "paused", 3)


def test_simic_is_cut_off_for_a_minute(running: Stack) -> None:
    running.start("cut-off", spec(3))
    running.steps("cut-off", 5)
    running.network("disconnect", "simic")
    time.sleep(60)
    running.network("connect", "simic")
    settled(running, "cut-off", 3)
