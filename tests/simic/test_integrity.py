"""What is looked at after a stop that was not a clean one, and what is found."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest
from sqlalchemy import Executable, Update, delete, tuple_, update
from tests.simic.clock import Clock
from tests.simic.episodes import Script
from tests.simic.running import Client, SimicProcess, eventually
from tests.simic.versions import version

from leyline.v1.experience_pb2 import GetStatisticsRequest, RecordTransitionsRequest
from simic.database.database import Database, sqlite_url
from simic.database.schema import artifacts, episodes, run_actions, transitions
from simic.experience import integrity
from simic.experience.abandonment import Abandonment
from simic.experience.integrity import CHECKING, DAMAGED, SOUND, UNSPECIFIED, Integrity
from simic.experience.retention import Retention
from simic.experience.store import ExperienceStore
from simic.policies.registry import PolicyRegistry


def fill(database: Database, clock: Clock) -> None:
    """Episodes in every state that there is, and a version."""
    experience = ExperienceStore(database)
    for index, last in enumerate([4, 4, 2, 0, 4]):
        script = Script(index=index, version=None if index == 1 else "v-1")
        experience.begin(script.begin())
        experience.record(script.items()[:last])
        if index == 0:
            clock.pass_days(2)
            for due in (keep := Retention(database, 1, 0)).due():
                keep.forget(due)
    Abandonment(database, -1).look()
    # One is taken up again, and has a gap.
    experience.record(Script(index=3).items()[1:])
    learned = version(1)
    PolicyRegistry(database).register(learned.manifest, learned.artifact)


def opened(database: Database) -> Integrity:
    """As a service has it that found the database left open."""
    Integrity(database).open()
    found = Integrity(database)
    found.open()
    assert found.state == CHECKING
    return found


async def test_a_database_in_which_all_is_well_is_sound(database: Database, clock: Clock) -> None:
    fill(database, clock)
    found = opened(database)
    await found.run()
    assert (found.state, found.findings) == (SOUND, [])


async def test_an_empty_database_is_sound(database: Database) -> None:
    found = opened(database)
    await found.run()
    assert found.state == SOUND


async def test_what_was_closed_in_good_order_is_not_looked_at(database: Database) -> None:
    first = Integrity(database)
    first.open()
    first.close()
    second = Integrity(database)
    second.open()
    await second.run()
    assert second.state == UNSPECIFIED


async def test_what_is_not_known_to_be_sound_is_looked_at_again(database: Database) -> None:
    not_finished = opened(database)
    not_finished.close()
    sound = opened(database)
    await sound.run()
    sound.close()
    last = Integrity(database)
    last.open()
    assert last.state == UNSPECIFIED


FIRST = 2
"""Row number of the first episode that has steps."""


def of_episode(**values: object) -> Update:
    return update(episodes).where(episodes.c.id == FIRST).values(values)


def of_step(number: int, **values: object) -> Update:
    chosen = transitions.c["episode_id", "step"]
    return update(transitions).where(tuple_(*chosen) == (FIRST, number)).values(values)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (of_step(1, payload=b"rot"), "step 1 of episode 1 of run run is not what was stored"),
        (of_step(2, digest=b"0" * 32), "step 2 of episode 1 of run run is not what was stored"),
        (of_step(1, step=7), "episode 1 of run run has 1 steps without a gap, and counts 3"),
        (of_step(1, policy_version="v"), "episode 1 of run run has its steps by version counted"),
        (
            delete(transitions).where(transitions.c.episode_id == FIRST),
            "episode 1 of run run has 0 steps stored, and counts 3",
        ),
        (of_episode(next_step=2), "has 3 steps without a gap, and counts 2"),
        (of_episode(whole_sequence=None), "counts as not whole, and is the opposite"),
        (of_episode(steps=4), "counts as whole, and is the opposite"),
        (of_episode(stored=4), "run run has 11 steps stored, and counts 10"),
        (update(run_actions).values(steps=0), "run run has 10 steps stored, and counts 0"),
        (update(artifacts).values(data=b"rot"), "the artifact"),
    ],
)
async def test_what_is_wrong_is_found(
    database: Database, clock: Clock, change: Executable, finding: str
) -> None:
    fill(database, clock)
    with database.write() as connection:
        connection.execute(change)
    found = opened(database)
    await found.run()
    assert found.state == DAMAGED
    assert any(finding in each for each in found.findings), found.findings


async def test_a_step_of_no_episode_is_found(tmp_path: Path, clock: Clock) -> None:
    database = Database(sqlite_url(tmp_path))
    fill(database, clock)
    database.close()
    with sqlite3.connect(tmp_path / "simic.sqlite3") as connection:
        connection.execute("UPDATE transitions SET episode_id = 99 WHERE episode_id = 2")
    connection.close()
    found = opened(database)
    await found.run()
    assert "3 steps are of no episode" in found.findings


async def test_a_page_that_is_no_page_is_found_and_the_rest_is_looked_at(
    tmp_path: Path,
) -> None:
    database = Database(sqlite_url(tmp_path))
    experience = ExperienceStore(database)
    for index in range(60):
        script = Script(index=index)
        experience.begin(script.begin())
        experience.record(script.items())
    with database.read() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    file = tmp_path / "simic.sqlite3"
    whole = bytearray(file.read_bytes())
    at = whole.index(Script(index=30).transitions()[1].SerializeToString()) // 4096 * 4096
    whole[at : at + 100] = bytes(100)
    file.write_bytes(whole)
    found = opened(database)
    await found.run()
    assert found.state == DAMAGED
    told = "\n".join(found.findings)
    assert "episodes with row numbers 17 to 32: database disk image is malformed" in told
    assert "episodes with row numbers 1 to" not in told


async def test_so_much_damage_is_not_told_in_full(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "FINDINGS", 2)
    monkeypatch.setattr(integrity, "EPISODES_A_PIECE", 1)
    fill(database, clock)
    with database.write() as connection:
        connection.execute(update(transitions).values(digest=b"0" * 32))
    found = opened(database)
    await found.run()
    assert 2 <= len(found.findings) < 6


async def state(client: Client) -> int:
    return (await client.experience.GetStatistics(GetStatisticsRequest())).integrity


async def known(client: Client) -> int:
    """The state once the check has come to its end."""

    async def is_known() -> bool:
        return await state(client) != CHECKING

    await eventually(is_known)
    return await state(client)


async def test_a_service_looks_after_a_kill_and_serves_meanwhile(tmp_path: Path) -> None:
    simic = SimicProcess(tmp_path)
    script = Script(accuracies=[0.1] * 31)
    async with grpc.aio.insecure_channel(await simic.start()) as channel:
        client = Client(channel)
        assert await state(client) == UNSPECIFIED
        await client.experience.BeginEpisode(script.begin())
        request = RecordTransitionsRequest(items=script.items()[:20])
        await client.experience.RecordTransitions(request)
        await simic.kill()
    async with grpc.aio.insecure_channel(await simic.start()) as channel:
        client = Client(channel)
        request = RecordTransitionsRequest(items=script.items()[20:])
        assert not (await client.experience.RecordTransitions(request)).rejected
        assert await known(client) == SOUND
    assert await simic.stop() == 0

    file = tmp_path / "state" / "simic.sqlite3"
    payload = script.transitions()[7].SerializeToString(deterministic=True)
    whole = file.read_bytes()
    at = whole.index(payload) + len(payload) // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    await simic.start()
    await simic.kill()
    for _ in range(2):
        async with grpc.aio.insecure_channel(await simic.start()) as channel:
            assert await known(Client(channel)) == DAMAGED
        assert await simic.stop() == 0
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    found = {event["what"] for event in events if event["event"] == "damage found"}
    assert found == {"step 7 of episode 0 of run run is not what was stored"}


async def test_a_stop_does_not_wait_for_the_check_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(sqlite_url(tmp_path))
    ExperienceStore(database).begin(Script().begin())
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("simic.database.soundness.INSTRUCTIONS_A_LOOK", 1)
    found = opened(database)
    is_set: Callable[[], bool] = found._stopped.is_set

    def wait() -> bool:
        loop.call_soon_threadsafe(started.set)
        return found._stopped.wait(20) and is_set()

    monkeypatch.setattr(found._stopped, "is_set", wait)
    checking = asyncio.create_task(found.run())
    await started.wait()
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert found.state == CHECKING
    assert found.findings == []
