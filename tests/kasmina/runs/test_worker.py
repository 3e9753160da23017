"""Runs in real processes, some of which are killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from tests.kasmina.neighbours import Experience, Policy, serving, until
from tests.kasmina.running import kasmina, simulated_spec, small_spec

from chassis.errors import ErrorCode, LeylineError
from kasmina.runs.fault import VARIABLE, Point
from leyline.indices import episode_indices
from leyline.v1.experience_pb2 import ExperienceItem
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    RUN_STATE_FAILED,
    RUN_STATE_PAUSED,
    CancelRunRequest,
    Run,
    RunSpec,
)
from leyline.v1.transition_pb2 import (
    DECIDER_POLICY,
    TERMINATION_CANCELLED,
    TERMINATION_HORIZON,
    Transition,
)

ENDED_EPISODE = "episode_ended"


def without_clocks(transition: Transition) -> bytes:
    """A transition as it would be in any run of the same spec at any time."""
    same = Transition()
    same.CopyFrom(transition)
    same.ClearField("completed_at")
    same.facts.ClearField("duration")
    for named in (same.step_id, same.snapshot.step_id, same.next_snapshot.step_id):
        named.run_id = "any"
    return same.SerializeToString(deterministic=True)


@pytest.mark.lengthy
@pytest.mark.timeout(900)  # nine workers, one after the other, each of which imports torch
async def test_killed_at_every_point_of_a_step_a_run_is_bit_for_bit_the_uninterrupted_one(
    tmp_path: Path,
) -> None:
    policy, experience = Policy(), Experience()
    points = ",".join(f"{point}:0:{step}" for step, point in enumerate(Point))
    points += f",{Point.CHECKPOINT_WRITTEN}:0:7"
    spec = small_spec(horizon=8)
    async with (
        serving(policy, experience) as neighbours,
        kasmina(tmp_path, neighbours, neighbours, {VARIABLE: points}) as service,
    ):
        await service.start_run("killed", spec)
        events = await service.finish("killed")
        asked = len(policy.asked)
        await service.start_run("whole", spec)
        await service.finish("whole")
        await until(lambda: len(experience.ends) == 2)

    assert events[-1].state_changed.state == RUN_STATE_COMPLETED
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    killed, whole = experience.episode("killed", 0), experience.episode("whole", 0)
    assert len(killed) == len(whole) == 8
    assert list(map(without_clocks, killed)) == list(map(without_clocks, whole))
    # Only the step whose decision was not on the disk yet is asked for again.
    assert asked == 8
    for kind, count in (("step_decided", 8), ("step_completed", 8), (ENDED_EPISODE, 1)):
        assert sum(event.WhichOneof("event") == kind for event in events) == count
    assert sum(event.WhichOneof("event") == "episode_began" for event in events) == 1 + 7
    assert not list((tmp_path / "state" / "checkpoints").rglob("*.safetensors"))


@pytest.mark.lengthy
async def test_trainers_that_share_a_run_play_the_episodes_of_one(tmp_path: Path) -> None:
    def share(first: int, stride: int, episodes: int) -> RunSpec:
        spec = simulated_spec(episodes=episodes)
        spec.first_episode, spec.episode_stride = first, stride
        return spec

    async def play(place: str, experience: Experience, spec: RunSpec) -> Run:
        (tmp_path / place).mkdir()
        async with (
            serving(Policy(), experience) as neighbours,
            kasmina(tmp_path / place, neighbours, neighbours) as service,
        ):
            await service.start_run("shared", spec)
            await service.finish("shared")
            last = episode_indices(spec)[-1]
            await until(lambda: ("shared", last) in experience.ends)
            return await service.run("shared")

    alone, together = Experience(), Experience()
    await play("alone", alone, share(0, 1, 4))
    await play("even", together, share(0, 2, 2))
    odd = await play("odd", together, share(1, 2, 2))

    assert (odd.state, odd.episodes_ended, odd.steps_completed) == (RUN_STATE_COMPLETED, 2, 8)
    assert sorted(together.ends) == sorted(alone.ends) == [("shared", each) for each in range(4)]
    for key, transition in alone.transitions.items():
        assert without_clocks(together.transitions[key]) == without_clocks(transition)


@pytest.mark.lengthy
async def test_a_run_outlives_the_service_and_its_worker_dies_with_it(tmp_path: Path) -> None:
    policy, experience = Policy(), Experience()
    spec = small_spec(horizon=40, episodes=2)
    async with serving(policy, experience) as neighbours:
        async with kasmina(tmp_path, neighbours, neighbours) as service:
            await service.start_run("long", spec)
            await until(lambda: len(policy.asked) >= 5)
            await service.kill()
        async with kasmina(tmp_path, neighbours, neighbours) as service:
            events = await service.finish("long")
            await until(lambda: len(experience.ends) == 2)
            run = await service.run("long")

    assert run.state == RUN_STATE_COMPLETED
    assert run.steps_completed == len(experience.transitions) == 80
    assert {end.termination for end in experience.ends.values()} == {TERMINATION_HORIZON}
    assert all(t.decider == DECIDER_POLICY for t in experience.transitions.values())
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert len(policy.asked) <= 81


@pytest.mark.lengthy
async def test_a_worker_that_always_dies_at_the_same_step_fails_the_run_and_not_the_next(
    tmp_path: Path,
) -> None:
    policy, experience = Policy(), Experience()
    state = tmp_path / "state"
    spec = small_spec(horizon=3)
    async with (
        serving(policy, experience) as neighbours,
        kasmina(tmp_path, neighbours, neighbours, {"LEYLINE_KASMINA_CRASH_LIMIT": "2"}) as service,
    ):
        # A folder in the place of the file that the first checkpoint is written to.
        (state / "checkpoints" / "doomed" / "0-1.safetensors").mkdir(parents=True)
        await service.start_run("doomed", spec)
        await service.start_run("next", spec)
        await service.finish("doomed")
        await service.finish("next")
        doomed, after = await service.run("doomed"), await service.run("next")
        await until(lambda: len(experience.ends) == 2)

    assert doomed.state == RUN_STATE_FAILED
    assert "2 times" in doomed.status_message
    assert "IsADirectoryError" in doomed.status_message
    assert after.state == RUN_STATE_COMPLETED


async def test_a_run_that_waits_to_be_stored_is_not_completed_before_its_end_is(
    tmp_path: Path,
) -> None:
    def away_at_the_end(item: ExperienceItem) -> LeylineError | None:
        last = item.transition.terminal or item.HasField("episode_end")
        return LeylineError(ErrorCode.DATABASE_UNAVAILABLE) if last else None

    experience = Experience(reject=away_at_the_end)
    waits = {"LEYLINE_KASMINA_WAIT_FOR_EXPERIENCE": "true"}
    async with (
        serving(Policy(), experience) as neighbours,
        kasmina(tmp_path, neighbours, neighbours, waits) as service,
    ):
        await service.start_run("last", simulated_spec())
        async for event in service.watch("last"):
            if event.state_changed.state in (RUN_STATE_PAUSED, RUN_STATE_COMPLETED):
                break
        assert event.state_changed.state == RUN_STATE_PAUSED
        assert "to store what the run has done" in event.state_changed.message
        experience.reject = lambda item: None
        events = await service.finish("last")
        assert events[-1].state_changed.state == RUN_STATE_COMPLETED
        assert experience.ends["last", 0].termination == TERMINATION_HORIZON


async def test_a_cancelled_run_ends_after_its_interval_and_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    policy, experience = Policy(), Experience()
    async with (
        serving(policy, experience) as neighbours,
        kasmina(tmp_path, neighbours, neighbours) as service,
    ):
        await service.start_run("endless", small_spec(horizon=100_000))
        await until(lambda: len(policy.asked) >= 3)
        await service.stub.CancelRun(CancelRunRequest(run_id="endless", reason="seen enough"))
        events = await service.finish("endless")
        run = await service.run("endless")
        await until(lambda: bool(experience.ends))

    assert run.state == RUN_STATE_CANCELLED
    assert run.status_message == "seen enough"
    end = experience.ends["endless", 0]
    assert end.termination == TERMINATION_CANCELLED
    assert end.steps == run.steps_completed == len(experience.transitions)
    assert [event.WhichOneof("event") for event in events[-2:]] == [ENDED_EPISODE, "state_changed"]
    assert not list((tmp_path / "state" / "checkpoints").iterdir())


async def test_a_damaged_data_file_fails_the_run_with_its_name(tmp_path: Path) -> None:
    data = tmp_path / "data" / "cifar100"
    data.mkdir(parents=True)
    # It begins and ends like a parquet file, so only decoding finds out.
    (data / "train-00000.parquet").write_bytes(b"PAR1" + bytes(64) + b"PAR1")
    spec = small_spec(horizon=2)
    spec.dataset.name = "cifar100"
    environment = {"LEYLINE_DATA": str(tmp_path / "data"), "LEYLINE_CACHE": str(tmp_path / "cache")}
    policy, experience = Policy(), Experience()
    async with (
        serving(policy, experience) as neighbours,
        kasmina(tmp_path, neighbours, neighbours, environment) as service,
    ):
        await service.start_run("damaged", spec)
        await service.finish("damaged")
        run = await service.run("damaged")

    assert run.state == RUN_STATE_FAILED
    assert "train-00000.parquet" in run.status_message


async def second_service(folder: Path) -> tuple[int | None, str]:
    """Starts a service on a state folder that has one: exit code and last words."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kasmina.service", "--listen", "127.0.0.1:0"),
        *("--state-dir", str(folder / "state")),
        stderr=asyncio.subprocess.PIPE,
    )
    _, words = await process.communicate()
    return process.returncode, words.decode()


async def test_two_services_cannot_share_a_state_folder(tmp_path: Path) -> None:
    async with kasmina(tmp_path, "127.0.0.1:1", "127.0.0.1:1") as service:
        second = await second_service(tmp_path)
        assert service.process.returncode is None
    assert second[0] == 1
    assert "is in use by another process" in second[1]
    assert "LEYLINE_KASMINA_STATE_DIR" in second[1]
