"""Runs whose decisions come from a caller, in real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from tests.kasmina.neighbours import Experience, serving, until
from tests.kasmina.running import Kasmina, kasmina, simulated_spec

from chassis.errors import ErrorCode
from chassis.status import RemoteError, from_rpc_error
from chassis.validation import violations
from kasmina.runs.fault import VARIABLE, Point
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_GERMINATE,
    SELECTION_MODE_SAMPLED,
    ActionType,
    Decision,
)
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    RUN_STATE_PAUSED,
    RUN_STATE_RUNNING,
    CancelRunRequest,
    DriveEpisodeRequest,
    DriveEpisodeResponse,
    DriveEpisodeStart,
    RunSpec,
)
from leyline.v1.transition_pb2 import (
    DECIDER_CALLER,
    TERMINATION_ABANDONED,
    TERMINATION_CANCELLED,
    TERMINATION_HORIZON,
    EpisodeEnd,
    Transition,
)

NOBODY = "127.0.0.1:1"
_PLAN = (ACTION_TYPE_GERMINATE, ACTION_TYPE_ADVANCE)


def decision_for(snapshot: MultiSlotSnapshot, log_prob: float = -0.5) -> Decision:
    """What the caller wants: the step alone decides."""
    step = snapshot.step_id.step
    action: ActionType.ValueType = _PLAN[min(step, 1)]
    return Decision(
        decision_id=f"mine-{step}",
        action_type=action,
        slot_id=snapshot.slots[-1].slot_id,
        policy_version="my own, 3rd try",
        type_log_prob=log_prob,
        slot_log_prob=0.0,
        log_prob=log_prob,
        mode=SELECTION_MODE_SAMPLED,
    )


class Driver:
    """A caller on one stream."""

    def __init__(self, service: Kasmina) -> None:
        self._call = service.stub.DriveEpisode()

    async def open(self, run_id: str, spec: RunSpec, episode_index: int = 0) -> None:
        """Names the episode."""
        start = DriveEpisodeStart(run_id=run_id, spec=spec, episode_index=episode_index)
        await self._call.write(DriveEpisodeRequest(start=start))

    async def decide(self, decision: Decision) -> None:
        """Sends a decision."""
        await self._call.write(DriveEpisodeRequest(decision=decision))

    async def read(self) -> DriveEpisodeResponse:
        """The next message."""
        response = await self._call.read()
        assert response is not grpc.aio.EOF
        return cast(DriveEpisodeResponse, response)

    async def snapshot(self) -> MultiSlotSnapshot:
        """The next message, which is a snapshot."""
        response = await self.read()
        assert response.HasField("snapshot"), response
        return response.snapshot

    async def transition(self) -> Transition:
        """The next message, which is a transition."""
        response = await self.read()
        assert response.HasField("transition"), response
        return response.transition

    async def to_the_end(self) -> tuple[list[Transition], EpisodeEnd]:
        """Decides until the episode is over: the transitions told, and the end."""
        transitions = []
        while True:
            response = await self.read()
            if response.HasField("snapshot"):
                await self.decide(decision_for(response.snapshot))
            elif response.HasField("transition"):
                transitions.append(response.transition)
            else:
                return transitions, response.end

    async def refusal(self) -> RemoteError:
        """The error that ends the stream."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self._call.read()
        return from_rpc_error(error.value)

    def leave(self) -> None:
        """Hangs up."""
        self._call.cancel()


def steps(transitions: list[Transition]) -> list[int]:
    """Which they are."""
    return [transition.step_id.step for transition in transitions]


async def state_is(service: Kasmina, run_id: str, state: int) -> None:
    """Waits until a run of that name is in a state."""
    while (await service.run(run_id)).state != state:
        pass


async def test_a_caller_drives_the_episodes_of_a_run_in_order(tmp_path: Path) -> None:
    experience, spec = Experience(), simulated_spec(horizon=3, episodes=2)
    async with serving(experience) as simic, kasmina(tmp_path, NOBODY, simic) as service:
        told = []
        for episode_index in range(2):
            driver = Driver(service)
            await driver.open("mine", spec, episode_index)
            transitions, end = await driver.to_the_end()
            told.append(transitions)
            assert (end.termination, end.steps) == (TERMINATION_HORIZON, 3)
        await service.finish("mine")
        run = await service.run("mine")
        again = Driver(service)
        await again.open("mine", spec, 0)
        late, end = await again.to_the_end()
        await until(lambda: len(experience.ends) == 2)

    assert (run.state, run.driven) == (RUN_STATE_COMPLETED, True)
    for episode_index in range(2):
        assert told[episode_index] == experience.episode("mine", episode_index)
        assert [violations(transition) for transition in told[episode_index]] == [()] * 3
    first = told[0][0]
    assert first.decider == DECIDER_CALLER
    assert first.decision == decision_for(first.snapshot), "log-probabilities are kept"
    assert [transition.terminal for transition in told[0]] == [False, False, True]
    assert {begun.policy for begun in experience.introductions} == {"caller"}
    assert (steps(late), end.termination) == ([2], TERMINATION_HORIZON)


async def test_a_caller_drives_a_share_of_a_run_from_its_first_episode_on(tmp_path: Path) -> None:
    spec = simulated_spec(horizon=2, episodes=2)
    spec.first_episode, spec.episode_stride = 3, 4
    async with kasmina(tmp_path, NOBODY, NOBODY) as service:
        why = {}
        for episode_index in (0, 3, 5, 7):
            driver = Driver(service)
            await driver.open("mine", spec, episode_index)
            if episode_index in (3, 7):
                transitions, _ = await driver.to_the_end()
                assert {each.step_id.episode_index for each in transitions} == {episode_index}
            else:
                [violation] = (await driver.refusal()).violations
                why[episode_index] = violation.description
        await service.finish("mine")
        run = await service.run("mine")

    assert why[0] == "must be 3, the first episode of a run that is yet to begin"
    assert why[5] == "must be an episode of the run, which has 3, 7"
    assert (run.state, run.episodes_ended) == (RUN_STATE_COMPLETED, 2)


@pytest.mark.lengthy
async def test_a_driver_comes_back_after_the_service_was_killed(tmp_path: Path) -> None:
    experience, spec = Experience(), simulated_spec(horizon=4)
    async with serving(experience) as simic:
        async with kasmina(tmp_path, NOBODY, simic) as service:
            driver = Driver(service)
            await driver.open("mine", spec)
            await driver.decide(decision_for(await driver.snapshot()))
            first = await driver.transition()
            waiting = await driver.snapshot()
            await service.kill()
        async with kasmina(tmp_path, NOBODY, simic) as service:
            driver = Driver(service)
            await driver.open("mine", spec)
            assert await driver.transition() == first, "the newest transition comes once more"
            assert await driver.snapshot() == waiting
            await driver.decide(decision_for(waiting))
            rest, _ = await driver.to_the_end()
            await until(lambda: len(experience.ends) == 1)

    assert steps(rest) == [1, 2, 3]
    assert [first, *rest] == experience.episode("mine", 0)


@pytest.mark.lengthy
@pytest.mark.parametrize("point", [Point.SNAPSHOT_TAKEN, Point.DECISION_JOURNALLED])
async def test_a_driver_does_not_notice_that_the_worker_died(tmp_path: Path, point: Point) -> None:
    experience, spec = Experience(), simulated_spec(horizon=3)
    crash = {VARIABLE: f"{point}:0:1"}
    async with serving(experience) as simic, kasmina(tmp_path, NOBODY, simic, crash) as service:
        driver = Driver(service)
        await driver.open("mine", spec)
        transitions, end = await driver.to_the_end()
        await until(lambda: len(experience.ends) == 1)

    assert end.termination == TERMINATION_HORIZON
    assert transitions == experience.episode("mine", 0)
    assert [transition.decision.decision_id for transition in transitions] == [
        "mine-0",
        "mine-1",
        "mine-2",
    ]


async def test_the_episode_waits_after_a_bad_decision_and_after_its_driver_left(
    tmp_path: Path,
) -> None:
    spec = simulated_spec(horizon=2)
    async with kasmina(tmp_path, NOBODY, NOBODY) as service:
        driver = Driver(service)
        await driver.open("mine", spec)
        waiting = await driver.snapshot()
        await driver.decide(decision_for(waiting, log_prob=0.5))
        error = await driver.refusal()
        await state_is(service, "mine", RUN_STATE_PAUSED)
        paused = await service.run("mine")

        driver = Driver(service)
        await driver.open("mine", spec)
        assert await driver.snapshot() == waiting
        await state_is(service, "mine", RUN_STATE_RUNNING)
        driver.leave()
        await state_is(service, "mine", RUN_STATE_PAUSED)

        driver = Driver(service)
        await driver.open("mine", spec)
        transitions, _ = await driver.to_the_end()

    assert error.status is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == [
        "decision.type_log_prob",
        "decision.log_prob",
    ]
    assert paused.status_message == "waiting for its caller"
    assert steps(transitions) == [0, 1]


async def test_an_episode_that_nobody_comes_back_to_is_abandoned(tmp_path: Path) -> None:
    experience, patience = Experience(), {"LEYLINE_KASMINA_DRIVE_PATIENCE_S": "0.5"}
    async with serving(experience) as simic, kasmina(tmp_path, NOBODY, simic, patience) as service:
        driver = Driver(service)
        await driver.open("mine", simulated_spec(horizon=3))
        await driver.decide(decision_for(await driver.snapshot()))
        await driver.transition()
        driver.leave()
        events = await service.finish("mine")
        run = await service.run("mine")
        await until(lambda: len(experience.ends) == 1)

    assert run.state == RUN_STATE_CANCELLED
    assert run.status_message == "nobody has driven the run for 0.5 s"
    end = experience.ends["mine", 0]
    assert (end.termination, end.steps) == (TERMINATION_ABANDONED, 1)
    assert events[-2].episode_ended == end


async def test_a_cancelled_run_ends_for_its_driver_at_the_next_decision(tmp_path: Path) -> None:
    async with kasmina(tmp_path, NOBODY, NOBODY) as service:
        driver = Driver(service)
        await driver.open("mine", simulated_spec(horizon=3))
        waiting = await driver.snapshot()
        request = CancelRunRequest(run_id="mine", reason="seen enough")
        await service.stub.CancelRun(request)
        await service.finish("mine")
        await driver.decide(decision_for(waiting))
        response: Any = await driver.read()

    assert response.end.termination == TERMINATION_CANCELLED
    assert response.end.message == "seen enough"


@pytest.mark.lengthy
async def test_a_service_that_stops_sends_its_drivers_away_and_the_run_goes_on_later(
    tmp_path: Path,
) -> None:
    spec = simulated_spec(horizon=2)
    async with kasmina(tmp_path, NOBODY, NOBODY) as service:
        driver = Driver(service)
        await driver.open("mine", spec)
        await driver.snapshot()
        service.process.terminate()
        assert (await driver.refusal()).error_code is ErrorCode.SHUTTING_DOWN
        await service.process.wait()
    async with kasmina(tmp_path, NOBODY, NOBODY) as service:
        driver = Driver(service)
        await driver.open("mine", spec)
        transitions, _ = await driver.to_the_end()
    assert steps(transitions) == [0, 1]
