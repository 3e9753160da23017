"""Episodes of which nothing more is heard."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from tests.simic.clock import Clock
from tests.simic.episodes import Script
from tests.simic.running import eventually, running
from tests.simic.tables import empty

from chassis.errors import ErrorCode
from leyline.v1.experience_pb2 import (
    GetIngestCursorRequest,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
)
from leyline.v1.transition_pb2 import Termination
from simic.database.database import Database
from simic.database.schema import episodes
from simic.experience import abandonment
from simic.experience.abandonment import Abandonment
from simic.experience.reading import ExperienceReader
from simic.experience.store import ExperienceStore

HORIZON = Termination.TERMINATION_HORIZON
ABANDONED = Termination.TERMINATION_ABANDONED
GOES_ON = Termination.TERMINATION_UNSPECIFIED
LONG = Script(accuracies=[0.1] * 7)


@pytest.fixture
def silence(database: Database) -> Abandonment:
    return Abandonment(database, after_s=86_400)


def read(reader: ExperienceReader) -> list[ReadEpisodesResponse]:
    return [record for page in reader.read(ReadEpisodesRequest()) for record in page]


def steps_read(reader: ExperienceReader) -> list[int]:
    return [
        record.transition.step_id.step for record in read(reader) if record.HasField("transition")
    ]


def place(database: Database) -> int | None:
    with database.read() as connection:
        found: int | None = connection.execute(select(episodes.c.whole_sequence)).scalar_one()
        return found


def test_an_episode_that_falls_silent_is_given_up_with_what_is_stored_without_a_gap(
    database: Database,
    experience: ExperienceStore,
    reader: ExperienceReader,
    silence: Abandonment,
    clock: Clock,
) -> None:
    experience.begin(LONG.begin())
    items = LONG.items()
    experience.record([*items[:2], items[4]])
    clock.pass_days(0.99)
    assert silence.look() == 0
    clock.pass_days(0.02)
    assert silence.look() == 1
    assert silence.look() == 0
    end = read(reader)[-1].end
    assert (end.termination, end.steps) == (ABANDONED, 2)
    assert end.message == "nothing was heard of it for 86400 s"
    assert steps_read(reader) == [0, 1]
    assert place(database) == 1


def test_an_episode_of_which_something_comes_now_and_then_goes_on(
    experience: ExperienceStore, silence: Abandonment, clock: Clock
) -> None:
    experience.begin(LONG.begin())
    for item in LONG.items()[:-1]:
        clock.pass_days(0.9)
        assert silence.look() == 0
        experience.record([item])
    clock.pass_days(0.9)
    experience.begin(LONG.begin())
    clock.pass_days(0.9)
    assert silence.look() == 0
    assert experience.cursor("run", 0).termination == GOES_ON


def test_one_that_is_played_again_goes_on_before_it_comes_to_what_is_new(
    experience: ExperienceStore, silence: Abandonment, clock: Clock
) -> None:
    experience.begin(LONG.begin())
    experience.record(LONG.items()[:4])
    fence = experience.begin(LONG.begin()).fence
    for item in LONG.items(fence)[:4]:
        clock.pass_days(0.9)
        assert silence.look() == 0
        item.transition.completed_at.seconds += 86_400
        assert experience.record([item]) == [None]
    assert experience.cursor("run", 0).termination == GOES_ON


def test_what_has_ended_and_is_whole_is_let_be(
    experience: ExperienceStore, silence: Abandonment, clock: Clock
) -> None:
    experience.begin(LONG.begin())
    experience.record(LONG.items())
    clock.pass_days(365)
    assert silence.look() == 0
    assert experience.cursor("run", 0).termination == HORIZON


def test_a_trainer_that_begins_again_goes_on_where_it_was(
    database: Database,
    experience: ExperienceStore,
    reader: ExperienceReader,
    silence: Abandonment,
    clock: Clock,
) -> None:
    experience.begin(LONG.begin())
    items = LONG.items()
    experience.record([*items[:2], items[4]])
    clock.pass_days(2)
    silence.look()
    begun = experience.begin(LONG.begin())
    assert (begun.fence, begun.next_step) == (2, 2)
    assert experience.cursor("run", 0).termination == GOES_ON
    assert place(database) is None
    assert steps_read(reader) == [0, 1, 4]
    assert experience.record(LONG.items(fence=2)) == [None] * 7
    assert read(reader)[-1].end == LONG.end()
    assert steps_read(reader) == list(range(6))


def test_an_item_under_the_current_fence_takes_the_episode_up_again(
    experience: ExperienceStore, reader: ExperienceReader, silence: Abandonment, clock: Clock
) -> None:
    experience.begin(LONG.begin())
    *first, last = LONG.items()
    experience.record(first[:3])
    clock.pass_days(2)
    silence.look()
    assert experience.record(first[3:5]) == [None] * 2
    assert experience.cursor("run", 0).termination == GOES_ON
    clock.pass_days(2)
    silence.look()
    assert experience.record([first[5], last]) == [None] * 2
    assert read(reader)[-1].end == LONG.end()


def test_neither_a_stale_fence_nor_what_is_stored_already_takes_it_up(
    experience: ExperienceStore, silence: Abandonment, clock: Clock
) -> None:
    experience.begin(LONG.begin())
    experience.begin(LONG.begin())
    experience.record(LONG.items(fence=2)[:3])
    clock.pass_days(2)
    silence.look()
    [stale] = experience.record(LONG.items(fence=1)[3:4])
    assert stale is not None
    assert stale.error.code is ErrorCode.STALE_FENCE
    assert experience.record(LONG.items(fence=2)[:3]) == [None] * 3
    assert experience.cursor("run", 0).termination == ABANDONED


def test_the_trainers_own_end_replaces_the_one_that_was_concluded(
    database: Database,
    experience: ExperienceStore,
    reader: ExperienceReader,
    silence: Abandonment,
    clock: Clock,
) -> None:
    experience.begin(LONG.begin())
    *steps, end = LONG.items()
    experience.record(steps)
    clock.pass_days(2)
    silence.look()
    assert read(reader)[-1].end.termination == ABANDONED
    assert experience.record([end]) == [None]
    assert read(reader)[-1].end == LONG.end()
    assert place(database) == 2
    clock.pass_days(2)
    assert silence.look() == 0


def test_an_end_of_the_trainers_own_stands_whatever_begins_again(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    experience.begin(LONG.begin())
    *steps, end = LONG.items()
    end.episode_end.termination, end.episode_end.steps = ABANDONED, 2
    experience.record([*steps[:2], end])
    experience.begin(LONG.begin())
    assert experience.cursor("run", 0).termination == ABANDONED
    [refused] = experience.record(LONG.items(fence=2)[2:3])
    assert refused is not None
    assert refused.error.code is ErrorCode.EPISODE_ENDED


def test_an_ended_episode_whose_steps_never_come_counts_as_abandoned_before_the_gap(
    experience: ExperienceStore, reader: ExperienceReader, silence: Abandonment, clock: Clock
) -> None:
    experience.begin(LONG.begin())
    items = LONG.items()
    experience.record([*items[:3], *items[4:]])
    clock.pass_days(2)
    assert silence.look() == 1
    end = read(reader)[-1].end
    assert (end.termination, end.steps) == (ABANDONED, 3)
    assert end.message == (
        "its trainer ended it (HORIZON, 6 steps), but step 3 never came; "
        "nothing was heard of it for 86400 s"
    )
    assert steps_read(reader) == [0, 1, 2]
    # The same end again says nothing new; another one is refused as it would have been before.
    assert experience.record(items[-1:]) == [None]
    other = LONG.items()[-1]
    other.episode_end.steps = 5
    [refused] = experience.record([other])
    assert refused is not None
    assert refused.error.facts["termination"] == "TERMINATION_HORIZON"
    assert read(reader)[-1].end.termination == ABANDONED

    assert experience.record(items[3:4]) == [None]
    assert read(reader)[-1].end == LONG.end()
    assert steps_read(reader) == list(range(6))


def test_an_episode_that_is_whole_again_comes_behind_those_that_became_so_meanwhile(
    database: Database, experience: ExperienceStore, silence: Abandonment, clock: Clock
) -> None:
    late, prompt = LONG, Script(index=1)
    experience.begin(late.begin())
    experience.record(late.items()[:2])
    clock.pass_days(2)
    silence.look()
    experience.begin(prompt.begin())
    experience.begin(late.begin())
    experience.record(prompt.items())
    experience.record(late.items(fence=2))
    with database.read() as connection:
        query = select(episodes.c.episode_index).order_by(episodes.c.whole_sequence)
        assert connection.execute(query).scalars().all() == [1, 0]


def test_the_look_reads_no_episode_that_is_whole(database: Database) -> None:
    if not database.url.startswith("sqlite"):
        pytest.skip("the words for a plan are SQLite's; the index is the same")
    with database.read() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT * FROM episodes WHERE whole_sequence IS NULL "
            "AND heard_at < 5 ORDER BY heard_at LIMIT 100"
        ).all()
    assert [row.detail for row in plan] == [
        "SEARCH episodes USING INDEX episodes_unsettled (whole_sequence=? AND heard_at<?)"
    ]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whenever_it_is_given_up_nothing_of_an_episode_is_lost(
    data: st.DataObject, database: Database
) -> None:
    experience, reader = ExperienceStore(database), ExperienceReader(database)
    silence = Abandonment(database, after_s=-1)
    empty(database)
    short = Script()
    experience.begin(short.begin())
    everything = short.items()
    for index in data.draw(st.permutations(range(len(everything)))):
        if data.draw(st.booleans()):
            silence.look()
        if data.draw(st.booleans()):
            fence = experience.begin(short.begin()).fence
            for item in everything:
                item.fence = fence
        assert experience.record([everything[index]]) == [None]
    assert steps_read(reader) == list(range(3))
    assert read(reader)[-1].end == short.end()
    assert silence.look() == 0


async def test_a_service_gives_up_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abandonment, "LOOK_S", 0.02)
    async with running(tmp_path, abandon_after_s=0.4) as client:
        await client.experience.BeginEpisode(LONG.begin())

        async def over() -> bool:
            request = GetIngestCursorRequest(run_id="run")
            cursor = await client.experience.GetIngestCursor(request)
            return bool(cursor.termination == ABANDONED)

        await eventually(over)


async def test_a_service_that_is_told_to_wait_for_ever_does(tmp_path: Path) -> None:
    async with running(tmp_path, abandon_after_s=0) as client:
        await client.experience.BeginEpisode(LONG.begin())
        cursor = await client.experience.GetIngestCursor(GetIngestCursorRequest(run_id="run"))
        assert cursor.termination == GOES_ON
