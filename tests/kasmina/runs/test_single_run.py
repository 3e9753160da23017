"""A service that plays one run and ends with it, whose disk may be lost at any time."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.kasmina.neighbours import (
    Experience,
    Policy,
    answer,
    coin,
    not_ready,
    serving,
    until,
    without_clocks,
)
from tests.kasmina.running import SingleRuns, ended, simulated_spec

from chassis.errors import ErrorCode, LeylineError
from kasmina.runs.fault import VARIABLE, Point
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT, DecisionQuery
from leyline.v1.experience_pb2 import (
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    ExperienceItem,
)
from leyline.v1.trainer_pb2 import RunSpec
from leyline.v1.transition_pb2 import DECIDER_POLICY, TERMINATION_HORIZON

pytestmark = pytest.mark.lengthy

RUN = "single"


@pytest.fixture
async def single() -> AsyncIterator[SingleRuns]:
    """Services that end with the test."""
    runs = SingleRuns()
    yield runs
    await runs.close()


def away(item: ExperienceItem) -> LeylineError:
    """The answer of a service whose database is away."""
    return LeylineError(ErrorCode.DATABASE_UNAVAILABLE)


async def test_it_ends_once_its_share_is_completed_and_stored(
    tmp_path: Path, single: SingleRuns
) -> None:
    experience = Experience()
    async with serving(Policy(), experience) as neighbours:
        share = ("--set", "first_episode=3", "--set", "episode_stride=4", "--set", "episodes=2")
        code, said = await single.play(tmp_path, neighbours, simulated_spec(), *share)
    assert code == 0, said
    assert sorted(experience.ends) == [(RUN, 3), (RUN, 7)]
    assert [len(experience.episode(RUN, index)) for index in (3, 7)] == [4, 4]


async def test_a_step_waits_until_the_one_before_it_is_stored(
    tmp_path: Path, single: SingleRuns
) -> None:
    policy, experience = Policy(), Experience(reject=away)
    async with serving(policy, experience) as neighbours:
        run = await single.start(tmp_path, neighbours, simulated_spec())
        await until(lambda: len(experience.messages) >= 4)
        assert len(policy.asked) == 1
        experience.reject = lambda item: None
        code, said = await ended(run)
    assert code == 0, said
    assert len(policy.asked) == len(experience.episode(RUN, 0)) == 4


async def test_it_waits_for_a_policy_that_is_away_instead_of_deciding_in_its_place(
    tmp_path: Path, single: SingleRuns
) -> None:
    silent = True

    def decide(query: DecisionQuery) -> object:
        return None if silent else answer(query, coin(query))

    policy, experience = Policy(decide=decide), Experience()  # type: ignore[arg-type]
    spec = simulated_spec()
    spec.policy.decision_timeout.CopyFrom(Duration(seconds=2))
    async with serving(policy, experience) as neighbours:
        run = await single.start(tmp_path, neighbours, spec)
        await until(lambda: len(policy.asked) >= 3)
        silent = False
        code, said = await ended(run)
    assert code == 0, said
    assert {each.decider for each in experience.episode(RUN, 0)} == {DECIDER_POLICY}


def planned_spec() -> RunSpec:
    """A run that no policy decides."""
    spec = simulated_spec()
    spec.policy.plan.actions.add(step=0, action_type=ACTION_TYPE_WAIT)
    return spec


def broken(request: BeginEpisodeRequest) -> LeylineError:
    """The answer of a service that has a bug."""
    return LeylineError(ErrorCode.INTERNAL, error_id="17")


@pytest.mark.parametrize("refuse", [not_ready, broken])
async def test_an_episode_that_no_policy_decides_waits_to_be_begun(
    tmp_path: Path, single: SingleRuns, refuse: Callable[[BeginEpisodeRequest], LeylineError]
) -> None:
    experience = Experience(refuse=refuse)
    async with serving(experience) as neighbours:
        run = await single.start(tmp_path, neighbours, planned_spec())
        await until(lambda: run.returncode is not None or len(experience.introductions) >= 2)
        assert not experience.messages
        experience.refuse = lambda request: None
        code, said = await ended(run)
    assert code == 0, said
    assert len(experience.episode(RUN, 0)) == 4


@pytest.mark.parametrize("spec", [simulated_spec(), planned_spec()], ids=["asking", "planned"])
async def test_an_episode_that_is_refused_for_good_is_not_waited_for(
    tmp_path: Path, single: SingleRuns, spec: RunSpec
) -> None:
    refused = LeylineError(ErrorCode.INVALID_ARGUMENT)
    experience = Experience(refuse=lambda request: refused)
    async with serving(Policy(), experience) as neighbours:
        code, said = await single.play(tmp_path, neighbours, spec)
    assert code == 1
    assert "the experience service refuses the episode: INVALID_ARGUMENT" in said


class Slow(Experience):
    """Takes its time for a beginning, and carries it out though the caller has gone."""

    async def BeginEpisode(self, request, context):  # type: ignore[no-untyped-def]
        """Begins an episode, later."""

        async def later(begun: Awaitable[BeginEpisodeResponse]) -> BeginEpisodeResponse:
            await asyncio.sleep(1.0)
            return await begun

        return await asyncio.shield(later(super().BeginEpisode(request, context)))


@pytest.mark.parametrize("spec", [simulated_spec(), planned_spec()], ids=["asking", "planned"])
async def test_an_episode_that_is_slow_to_begin_is_begun_once(
    tmp_path: Path, single: SingleRuns, spec: RunSpec
) -> None:
    experience = Slow()
    hasty = {"LEYLINE_KASMINA_EXPERIENCE_TIMEOUT_S": "0.3"}
    async with serving(Policy(), experience) as neighbours:
        code, said = await single.play(tmp_path, neighbours, spec, **hasty)
    assert code == 0, said
    assert len(experience.introductions) == 1


async def test_an_attempt_whose_worker_dies_too_often_leaves_the_episode_to_the_next_one(
    tmp_path: Path, single: SingleRuns
) -> None:
    experience = Experience()
    dies = {
        VARIABLE: f"{Point.DECISION_JOURNALLED}:0:2",
        "LEYLINE_KASMINA_CRASH_LIMIT": "1",
    }
    async with serving(Policy(), experience) as neighbours:
        code, said = await single.play(tmp_path / "first", neighbours, simulated_spec(), **dies)
        assert (code, experience.ends) == (1, {}), said
        assert "the worker died 1 times" in said
        assert len(experience.episode(RUN, 0)) == 2
        code, said = await single.play(tmp_path / "second", neighbours, simulated_spec())
    assert code == 0, said
    assert experience.ends[RUN, 0].termination == TERMINATION_HORIZON


async def test_so_does_one_whose_checkpoint_is_damaged(tmp_path: Path, single: SingleRuns) -> None:
    def decide(query: DecisionQuery) -> object:
        return None if query.snapshot.step_id.step == 2 else answer(query, coin(query))

    policy, experience = Policy(decide=decide), Experience()  # type: ignore[arg-type]
    async with serving(policy, experience) as neighbours:
        first = await single.start(tmp_path, neighbours, simulated_spec())
        await until(lambda: len(policy.asked) >= 3)
        first.kill()
        await ended(first)
        (checkpoint,) = (tmp_path / "state" / "checkpoints" / RUN).iterdir()
        checkpoint.write_bytes(b"nothing of the kind")
        code, said = await single.play(tmp_path, neighbours, simulated_spec())
    assert (code, experience.ends) == (1, {}), said
    assert checkpoint.name in said


@pytest.mark.parametrize("point", [Point.DECISION_JOURNALLED, Point.TRANSITION_COMMITTED])
async def test_killed_with_its_disk_it_plays_the_same_episode_again(
    tmp_path: Path, single: SingleRuns, point: Point
) -> None:
    policy, experience, alone = Policy(), Experience(), Experience()
    spec = simulated_spec(horizon=6)
    async with serving(policy, experience) as neighbours:
        dies = {VARIABLE: f"{point}:0:3", "LEYLINE_KASMINA_CRASH_LIMIT": "100"}
        first = await single.start(tmp_path / "first", neighbours, spec, **dies)
        await until(lambda: (tmp_path / "first" / "state" / "faults" / f"{point}:0:3").exists())
        first.kill()
        await ended(first)
        before = list(experience.episode(RUN, 0))
        assert len(before) >= 3
        code, said = await single.play(tmp_path / "second", neighbours, spec)
    assert code == 0, said
    async with serving(Policy(), alone) as neighbours:
        assert (await single.play(tmp_path / "alone", neighbours, spec))[0] == 0
    stored = experience.episode(RUN, 0)
    assert stored[: len(before)] == before, "what was stored stays as it is"
    assert [without_clocks(each) for each in stored] == [
        without_clocks(each) for each in alone.episode(RUN, 0)
    ]
    assert experience.ends[RUN, 0].termination == TERMINATION_HORIZON


async def test_an_attempt_whose_episode_another_one_has_begun_gives_up(
    tmp_path: Path, single: SingleRuns
) -> None:
    policy, experience = Policy(), Experience(reject=away)
    async with serving(policy, experience) as neighbours:
        run = await single.start(tmp_path, neighbours, simulated_spec())
        await until(lambda: len(experience.messages) >= 1)
        experience.fences[RUN, 0] += 1
        experience.reject = lambda item: None
        code, said = await ended(run)
    assert code == 1
    assert "STALE_FENCE: another trainer has begun the episode since" in said
    assert len(policy.asked) == len(experience.introductions) == 1
    assert not experience.transitions
    assert not experience.ends, "the episode is the other one's to end"


async def test_an_attempt_that_is_played_otherwise_is_not_mixed_with_the_stored_one(
    tmp_path: Path, single: SingleRuns
) -> None:
    experience = Experience()
    async with serving(Policy(), experience) as neighbours:
        assert (await single.play(tmp_path / "first", neighbours, simulated_spec()))[0] == 0
        before = dict(experience.transitions)
        other = simulated_spec(seed=8)
        code, said = await single.play(tmp_path / "second", neighbours, other)
    assert code == 1
    assert "TRANSITION_CONFLICT: an earlier attempt played the episode otherwise" in said
    assert experience.transitions == before
    assert experience.ends[RUN, 0].termination == TERMINATION_HORIZON, "as the first one said"


async def test_stopped_by_a_signal_it_is_not_taken_for_completed(
    tmp_path: Path, single: SingleRuns
) -> None:
    policy, experience = Policy(), Experience(reject=away)
    async with serving(policy, experience) as neighbours:
        run = await single.start(tmp_path, neighbours, simulated_spec())
        await until(lambda: len(policy.asked) == 1)
        run.send_signal(signal.SIGTERM)
        code, _ = await ended(run)
    assert code == 1


async def test_begun_again_in_its_folder_it_goes_on(tmp_path: Path, single: SingleRuns) -> None:
    policy, experience = Policy(), Experience()
    lasting = {"LEYLINE_KASMINA_WAIT_FOR_EXPERIENCE": "false"}
    spec = simulated_spec(horizon=300)
    async with serving(policy, experience) as neighbours:
        first = await single.start(tmp_path, neighbours, spec, **lasting)
        await until(lambda: len(policy.asked) >= 5)
        first.kill()
        await ended(first)
        code, said = await single.play(tmp_path, neighbours, spec, **lasting)
    assert code == 0, said
    assert len(experience.episode(RUN, 0)) == 300
    assert len(policy.asked) <= 301


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "training.horizons=3"), "training.horizons"),
        (("--set", "host.name=strong-cnn"), "strong-cnn"),
        (("--id", "no name"), "--id=no name"),
    ],
)
async def test_what_nobody_can_play_is_a_mistake_of_whoever_asks(
    tmp_path: Path, single: SingleRuns, arguments: tuple[str, ...], said: str
) -> None:
    code, message = await single.play(tmp_path, "127.0.0.1:1", RunSpec(), *arguments)
    assert code == 2
    assert said in message
    assert "Traceback" not in message


async def test_a_file_and_a_name_belong_together() -> None:
    for arguments in (("--run", "run.yaml"), ("--id", "name"), ("--set", "seed=1")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kasmina.service", *arguments),
            stderr=asyncio.subprocess.PIPE,
        )
        code, said = await ended(process)
        assert code == 2
        assert "--run FILE" in said
