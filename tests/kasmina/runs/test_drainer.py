"""The outbox drains into a real server: everything once, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kasmina.neighbours import Experience, not_ready, serving, step_id, until

from chassis.channel import ChannelSettings, open_channel
from chassis.errors import ErrorCode, LeylineError
from kasmina.runs.decider import fallback
from kasmina.runs.drainer import Drainer
from kasmina.runs.episode_log import Beginning, Checkpoint
from kasmina.runs.experience_client import ExperienceClient
from kasmina.runs.journal import Journal
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.episode_pb2 import EpisodeOrigin, Seeds, Situation
from leyline.v1.experience_pb2 import ExperienceItem
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    EpisodeBegan,
    HostSpec,
    RunSpec,
    StepCompleted,
    TrainingSpec,
)
from leyline.v1.transition_pb2 import Transition

SPEC = RunSpec(
    host=HostSpec(slots=["slot-0", "slot-1"]),
    training=TrainingSpec(horizon=9),
    observation_spec="seed",
)

ORIGIN = EpisodeOrigin(seeds=Seeds(order=5), situation=Situation(range="mixed"))


def journal_with(path: Path, steps: int, fence: int | None = None) -> Journal:
    """A journal whose outbox has the steps of an episode, and its end."""
    journal = Journal(path)
    add_run(journal, "run", steps, fence)
    return journal


def add_run(journal: Journal, run_id: str, steps: int, fence: int | None = None) -> None:
    journal.runs.create(run_id, SPEC, SPEC, queue_limit=1)
    journal.runs.take(run_id)
    beginning = Beginning("coin", True, None, SELECTION_MODE_SAMPLED, fence)
    journal.episodes.begin(beginning, EpisodeBegan(episode_index=0, origin=ORIGIN), run_id)
    for step in range(steps):
        name = step_id(run_id, 0, step)
        journal.episodes.write_decision(name, fallback(name, "away"), None)
        transition = Transition(step_id=name)
        transition.facts.validation_correct = bytes(2000)
        journal.episodes.complete(transition, StepCompleted(step_id=name), Checkpoint(0, ""))
    journal.runs.end(run_id, RUN_STATE_CANCELLED, "enough")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Nine steps and an end, of which the experience service knows nothing yet."""
    journal = journal_with(tmp_path / "journal.sqlite3", steps=9)
    yield journal
    journal.close()


@asynccontextmanager
async def draining(
    journal: Journal, address: str, *, is_awaited: bool = False
) -> AsyncIterator[None]:
    """Drains for as long as the block lasts."""
    async with open_channel(ChannelSettings(address)) as channel:
        client = ExperienceClient(channel)
        drainer = Drainer(journal, client, poll_interval_s=0.01, is_awaited=is_awaited)
        task = asyncio.create_task(drainer.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def drained(journal: Journal, address: str) -> None:
    """Drains until nothing is left."""
    async with draining(journal, address):
        await until(lambda: journal.outbox.depth() == 0)


async def test_an_episode_that_nobody_introduced_is_begun_and_recorded(journal: Journal) -> None:
    experience = Experience()
    async with serving(experience) as address:
        await drained(journal, address)
    assert len(experience.episode("run", 0)) == 9
    assert experience.ends["run", 0].steps == 9
    (introduction,) = experience.introductions
    assert (introduction.policy, introduction.follows_registry) == ("coin", True)
    assert (introduction.horizon, introduction.slots) == (9, 2)
    assert introduction.origin == ORIGIN


async def test_an_episode_that_did_not_wait_for_its_version_is_recorded_without_one(
    journal: Journal,
) -> None:
    experience = Experience(
        refuse=lambda request: not_ready(request) if request.follows_registry else None
    )
    async with serving(experience) as address:
        await drained(journal, address)
    assert len(experience.episode("run", 0)) == 9
    assert [each.follows_registry for each in experience.introductions] == [True, False]


async def test_where_a_run_waits_for_it_an_episode_is_left_to_whoever_began_it_last(
    tmp_path: Path,
) -> None:
    journal = journal_with(tmp_path / "journal.sqlite3", steps=2, fence=1)
    experience = Experience(fences={("run", 0): 2})
    async with (
        serving(experience) as address,
        draining(journal, address, is_awaited=True),
    ):
        await until(lambda: journal.outbox.depth() == 0)
    assert [reason for _, reason in journal.outbox.refused("run")] == ["STALE_FENCE"] * 3
    assert not experience.introductions
    assert not experience.transitions
    journal.close()


async def test_a_fence_that_is_known_is_used(tmp_path: Path) -> None:
    journal = journal_with(tmp_path / "journal.sqlite3", steps=2, fence=3)
    experience = Experience(fences={("run", 0): 3})
    async with serving(experience) as address:
        await drained(journal, address)
    assert not experience.introductions
    assert len(experience.transitions) == 2


async def test_a_stale_fence_is_renewed(tmp_path: Path) -> None:
    journal = journal_with(tmp_path / "journal.sqlite3", steps=4, fence=1)
    experience = Experience(fences={("run", 0): 8})
    async with serving(experience) as address:
        await drained(journal, address)
    assert len(experience.transitions) == 4
    record = journal.episodes.get("run", 0)
    assert record is not None
    assert record.fence == 9


async def test_a_service_that_is_away_is_waited_for(journal: Journal) -> None:
    async with serving(Experience()) as address:
        pass
    experience = Experience()
    async with draining(journal, address), serving(experience, address=address):
        await until(lambda: journal.outbox.depth() == 0)
    assert len(experience.transitions) == 9


async def test_a_service_that_dies_before_it_acknowledges_gets_everything_again(
    journal: Journal,
) -> None:
    class Forgetful(Experience):
        async def StreamTransitions(self, requests, context):  # type: ignore[no-untyped-def]
            """Stores, and dies before the acknowledgement, twice."""
            async for response in super().StreamTransitions(requests, context):
                if len(self.messages) <= 2:
                    raise RuntimeError("gone")
                yield response

    experience = Forgetful()
    async with serving(experience) as address:
        await drained(journal, address)
    assert len(experience.messages) == 3
    assert len(experience.episode("run", 0)) == 9
    assert not journal.outbox.refused("run")


async def test_an_item_that_is_refused_for_good_is_laid_aside_and_counted(
    journal: Journal,
) -> None:
    def conflict_at_two(item: ExperienceItem) -> LeylineError | None:
        if item.transition.step_id.step != 2:
            return None
        return LeylineError(ErrorCode.TRANSITION_CONFLICT, step=2, episode_index=0, run_id="run")

    experience = Experience(reject=conflict_at_two)
    async with serving(experience) as address:
        await drained(journal, address)
    ((item, reason),) = journal.outbox.refused("run")
    assert (item.transition.step_id.step, reason) == (2, "TRANSITION_CONFLICT")
    assert len(experience.transitions) == 8
    run = journal.runs.get("run")
    assert run is not None
    assert run.refused_items == 1


async def test_a_fence_that_never_fits_does_not_hold_up_the_others(journal: Journal) -> None:
    def always_stale(item: ExperienceItem) -> LeylineError | None:
        if item.transition.step_id.step != 4:
            return None
        return LeylineError(ErrorCode.STALE_FENCE, fence=item.fence, episode_index=0, run_id="run")

    experience = Experience(reject=always_stale)
    async with serving(experience) as address:
        await drained(journal, address)
    assert [reason for _, reason in journal.outbox.refused("run")] == ["STALE_FENCE"]
    assert len(experience.transitions) == 8


async def test_an_episode_that_the_service_will_not_begin_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    class Particular(Experience):
        async def BeginEpisode(self, request, context):  # type: ignore[no-untyped-def]
            if request.run_id == "run":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "of another shape")
            return await super().BeginEpisode(request, context)

    journal = journal_with(tmp_path / "journal.sqlite3", steps=3)
    add_run(journal, "other", steps=2)
    experience = Particular()
    async with serving(experience) as address:
        await drained(journal, address)
    assert {reason for _, reason in journal.outbox.refused("run")} == {"INVALID_ARGUMENT"}
    assert len(journal.outbox.refused("run")) == 4, "three steps and an end"
    assert not journal.outbox.refused("other")
    assert {run_id for run_id, _, _ in experience.transitions} == {"other"}
    journal.close()


async def test_a_passing_refusal_is_tried_again(journal: Journal) -> None:
    full = iter([True, True])

    def full_for_a_while(item: ExperienceItem) -> LeylineError | None:
        return LeylineError(ErrorCode.DISK_FULL, path="/data") if next(full, False) else None

    experience = Experience(reject=full_for_a_while)
    async with serving(experience) as address:
        await drained(journal, address)
    assert len(experience.transitions) == 9
    assert not journal.outbox.refused("run")


async def test_messages_hold_at_most_64_items_and_a_mebibyte(tmp_path: Path) -> None:
    journal = journal_with(tmp_path / "journal.sqlite3", steps=150, fence=1)
    experience = Experience(fences={("run", 0): 1})
    async with serving(experience) as address:
        await drained(journal, address)
    assert experience.messages == [64, 64, 23]


@settings(max_examples=10)
@given(faults=st.lists(st.sampled_from(["die", "stale", "full", "fine"]), max_size=6))
def test_everything_arrives_once_whatever_goes_wrong_on_the_way(
    tmp_path_factory: pytest.TempPathFactory, faults: list[str]
) -> None:
    class Faulty(Experience):
        async def StreamTransitions(self, requests, context):  # type: ignore[no-untyped-def]
            """Goes wrong as the list says, message by message."""
            async for response in super().StreamTransitions(requests, context):
                fault = plan.pop(0) if plan else "fine"
                if fault == "die":
                    raise RuntimeError("gone")
                if fault == "stale":
                    self.fences["run", 0] = self.fences.get(("run", 0), 0) + 5
                yield response

    def full(item: ExperienceItem) -> LeylineError | None:
        if plan and plan[0] == "full":
            plan.pop(0)
            return LeylineError(ErrorCode.DISK_FULL, path="/data")
        return None

    async def drain() -> None:
        async with serving(experience) as address:
            await drained(journal, address)

    plan = list(faults)
    journal = journal_with(tmp_path_factory.mktemp("outbox") / "journal.sqlite3", steps=5)
    experience = Faulty(reject=full)
    asyncio.run(drain())
    assert [t.step_id.step for t in experience.episode("run", 0)] == list(range(5))
    assert experience.ends["run", 0].steps == 5
    assert not journal.outbox.refused("run")
    journal.close()
