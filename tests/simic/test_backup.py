"""A copy of everything, made while Simic goes on, and what can be made of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
import pytest
from sqlalchemy import select
from tests.postgres import Cluster
from tests.simic.disk import FullDisk, FullServer
from tests.simic.episodes import Script, in_messages
from tests.simic.running import Client, SimicProcess, eventually, running
from tests.simic.versions import version

from chassis.errors import ErrorCode, LeylineError
from chassis.process import StartupError
from chassis.status import from_rpc_error
from leyline.cli import main
from leyline.client import Experience
from leyline.client.backup import save
from leyline.error import ServiceError
from leyline.v1.experience_pb2 import (
    BackUpRequest,
    BackUpResponse,
    ExperienceItem,
    ListEpisodesRequest,
    ReadEpisodesRequest,
    StreamTransitionsRequest,
)
from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.registry_pb2 import PolicyReport
from simic.database import backup, copying, revision
from simic.database.backup import DIRECTORY, Backups
from simic.database.copying import Stopped, kept_tables
from simic.database.database import Database, sqlite_url
from simic.database.restore import BackupFile
from simic.experience.integrity import CHECKING, SOUND, Integrity
from simic.experience.reading import ExperienceReader
from simic.experience.store import ExperienceStore
from simic.learning.episode import Episode
from simic.learning.lesson import Lessons
from simic.learning.training import TrainingStore
from simic.learning.update import Update
from simic.policies.registry import PolicyRegistry

Rows = dict[str, list[tuple[object, ...]]]
Usage = namedtuple("Usage", "total used free")


def fill(database: Database) -> None:
    """Something of everything that is kept."""
    experience, registry = ExperienceStore(database), PolicyRegistry(database)
    for index in range(3):
        script = Script(index=index, accuracies=[0.1] * 61)
        begin = script.begin()
        begin.origin.seeds.order = index
        experience.begin(begin)
        # The last one has a gap, and goes on.
        recorded = script.items() if index < 2 else [*script.items()[:5], *script.items()[7:9]]
        assert set(experience.record(recorded)) == {None}
    first, second = version(1), version(2)
    registry.register(first.manifest, first.artifact)
    name = first.manifest.policy_version
    registry.report(PolicyReport(policy_version=name, accepted=True, server="tamiyo"))
    plan = TrainingPlan(preset="demo", max_updates=7, activation="if-not-worse")
    TrainingStore(database).start("t", plan)
    lessons = Lessons(database, "t")
    lessons.begin(second)
    lessons.commit(1, Update(8, 0.5, {"kl": 0.01}), [Episode(1, [])], version(3))


def rows_of(database: Database) -> Rows:
    """All that is kept, table by table."""
    with database.read() as connection:
        return {
            table.name: [
                tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))
            ]
            for table in kept_tables()
        }


def backed_up(database: Database, directory: Path) -> Path:
    """A backup, as a file of somebody's own."""
    file = directory / "backup.sqlite3"
    with Backups(database, directory).begin() as copy:
        size = copy.make()
        file.write_bytes(copy.read(0, size))
    assert list((directory / DIRECTORY).iterdir()) == []
    return file


@pytest.fixture
def filled(database: Database) -> Database:
    fill(database)
    return database


@pytest.fixture(params=["sqlite", "postgresql"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database, of the same kind or the other one."""
    if request.param == "sqlite":
        yield Database(sqlite_url(fresh(tmp_path / "another")))
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    database = Database(cluster.create(request.getfixturevalue("migrated")))
    yield database
    database.close()
    cluster.drop(database.url)


async def test_a_restored_database_holds_the_same(
    filled: Database, another: Database, tmp_path: Path
) -> None:
    BackupFile(backed_up(filled, tmp_path)).restore(another)
    assert rows_of(another) == rows_of(filled)
    assert all(rows_of(another).values())
    assert await is_sound(another)


def test_a_restored_database_goes_on_where_the_other_was(
    filled: Database, another: Database, tmp_path: Path
) -> None:
    BackupFile(backed_up(filled, tmp_path)).restore(another)
    experience, registry = ExperienceStore(another), PolicyRegistry(another)
    rest = Script(index=2, accuracies=[0.1] * 61)
    fence = experience.begin(rest.begin()).fence
    assert fence == 2
    assert set(experience.record(rest.items(fence=fence))) == {None}
    assert experience.begin(Script(run="new").begin()).fence == 1
    assert registry.activate(version(1).manifest.policy_version, "").previous_version
    trainings = TrainingStore(another)
    trainings.end("t", TrainingState.TRAINING_STATE_STOPPED, "")
    trainings.start("u", TrainingPlan())
    assert trainings.get("").training_id == "u"
    assert rows_of(another)["episodes"][-1][0] == 4


def test_row_by_row_it_is_the_same_copy(
    filled: Database, another: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "ROWS_A_PIECE", 7)
    told: list[tuple[str, int]] = []
    with filled.read() as source, another.write() as target:
        copying.copy(source, target, lambda table, rows: told.append((table, rows)))
    assert rows_of(another) == rows_of(filled)
    assert told[:3] == [("artifacts", 1), ("artifacts", 2), ("artifacts", 3)]
    assert ("transitions", 127) in told


async def is_sound(database: Database) -> bool:
    """Whether all that is stored is there, and agrees."""
    integrity = Integrity(database)
    integrity.open()
    assert integrity.state == CHECKING, "what was restored is looked at by whoever opens it first"
    await integrity.run()
    return integrity.state == SOUND


async def test_a_backup_is_of_one_moment_while_many_record(tmp_path: Path) -> None:
    scripts = [Script(index=index, accuracies=[0.1] * 101) for index in range(4)]
    acknowledged = [0] * len(scripts)

    async def play(client: Client, index: int) -> None:
        async def requests() -> AsyncIterator[StreamTransitionsRequest]:
            for message in in_messages(scripts[index].items(), 3):
                yield StreamTransitionsRequest(items=message)

        async for response in client.experience.StreamTransitions(requests()):
            acknowledged[index] = response.acknowledged_sequence

    async with running(tmp_path) as client, Experience(address(tmp_path)) as experience:
        for script in scripts:
            await client.experience.BeginEpisode(script.begin())
        playing = asyncio.gather(*(play(client, index) for index in range(len(scripts))))
        before: list[list[int]] = []
        while not playing.done() and len(before) < 3:
            before.append(list(acknowledged))
            await experience.back_up(tmp_path / f"{len(before)}.sqlite3")
        await playing
    assert before
    for number, least in enumerate(before, 1):
        restored = Database(sqlite_url(fresh(tmp_path / f"restored-{number}")))
        BackupFile(tmp_path / f"{number}.sqlite3").restore(restored)
        assert await is_sound(restored)
        listed = ExperienceReader(restored).page(ListEpisodesRequest()).episodes
        stored = [episode.head.steps for episode in reversed(listed)]
        assert all(there >= min(sent, 100) for there, sent in zip(stored, least, strict=True))


def address(directory: Path) -> str:
    return (directory / "address").read_text().strip()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def fresh(directory: Path) -> Path:
    directory.mkdir()
    return directory


def other_tables(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE recipes (cake TEXT)")


def another_version(file: Path) -> None:
    change(file, "UPDATE alembic_version SET version_num = '1000'")


def migrations_of_others(file: Path) -> None:
    change(file, "UPDATE alembic_version SET version_num = 'abc123'")


def a_table_less(file: Path) -> None:
    change(file, "DROP TABLE run_actions")


def change(file: Path, statement: str) -> None:
    shutil.copy(file.with_name("backup.sqlite3"), file)
    with sqlite3.connect(file) as connection:
        connection.execute(statement)


def cut_short(file: Path) -> None:
    whole = file.with_name("backup.sqlite3").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def in_use(file: Path) -> None:
    shutil.copy(file.with_name("backup.sqlite3"), file)
    file.with_name(f"{file.name}-wal").write_bytes(b"newer")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: None, "there is no backup at"),
        (lambda file: file.mkdir(), "there is no backup at"),
        (lambda file: file.write_bytes(b""), "it has other tables"),
        (lambda file: file.write_bytes(b"a letter to my aunt" * 99), "no backup of Simic's: file"),
        (other_tables, "it has other tables"),
        (migrations_of_others, "it has other tables"),
        (
            another_version,
            f"revision 1000, and this release knows {revision.newest()}: restore it",
        ),
        (a_table_less, "is damaged: it has no table 'run_actions'"),
        (cut_short, "(no backup of Simic's|is damaged): .*malformed"),
        (in_use, "a database that is in use"),
    ],
)
def test_what_is_no_backup_is_refused_with_why_and_nothing_is_restored(
    filled: Database,
    another: Database,
    tmp_path: Path,
    make: Callable[[Path], object],
    words: str,
) -> None:
    backed_up(filled, tmp_path)
    make(tmp_path / "file?.sqlite3")
    with pytest.raises(StartupError, match=words):
        BackupFile(tmp_path / "file?.sqlite3").restore(another)
    assert not any(rows_of(another).values())


def test_a_backup_is_restored_into_an_empty_database_only(
    filled: Database, another: Database, tmp_path: Path
) -> None:
    file = backed_up(filled, tmp_path)
    ExperienceStore(another).begin(Script(run="precious").begin())
    before = rows_of(another)
    words = "is not empty .there is something in its table 'episodes'"
    with pytest.raises(StartupError, match=words):
        BackupFile(file).restore(another)
    assert rows_of(another) == before


def test_a_restore_that_finds_no_room_restores_nothing_and_can_be_tried_again(
    filled: Database, another: Database, tmp_path: Path
) -> None:
    file = BackupFile(backed_up(filled, tmp_path))
    on_a_server = another.url.startswith("postgresql")
    with FullServer(another.url) if on_a_server else FullDisk() as disk:
        with pytest.raises(LeylineError) as caught:
            file.restore(another)
        assert caught.value.code is ErrorCode.DISK_FULL
        disk.make_room()
        assert not any(rows_of(another).values())
        file.restore(another)
    assert rows_of(another) == rows_of(filled)


def test_a_restore_that_is_stopped_restores_nothing(
    filled: Database, another: Database, tmp_path: Path
) -> None:
    file = BackupFile(backed_up(filled, tmp_path))
    file.stop()
    with pytest.raises(Stopped):
        file.restore(another)
    assert not any(rows_of(another).values())


async def test_the_file_that_a_client_writes_is_the_one_that_the_service_names(
    tmp_path: Path,
) -> None:
    seen: list[tuple[int, int]] = []
    async with running(tmp_path), Experience(address(tmp_path)) as experience:
        file = tmp_path / "backup.sqlite3"
        sha256 = await experience.back_up(file, on_progress=lambda *told: seen.append(told))
        assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert seen[-1] == (file.stat().st_size, file.stat().st_size)
        with pytest.raises(FileExistsError, match="there is a file at"):
            await experience.back_up(file)
        await experience.back_up(file, overwrite=True)
        with pytest.raises(FileNotFoundError):
            await experience.back_up(tmp_path / "nowhere" / "backup.sqlite3")
    assert names(tmp_path) == ["address", "backup.sqlite3", "state"]


def pieces(*made: BackUpResponse) -> Callable[[], AsyncIterator[BackUpResponse]]:
    async def call() -> AsyncIterator[BackUpResponse]:
        for piece in made:
            yield piece

    return call


WHOLE = hashlib.sha256(b"abcdef").hexdigest()
FIRST = BackUpResponse(offset=0, data=b"abc", total_size=6)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([], "ended after 0 of 0"),
        ([FIRST], "ended after 3 of 6"),
        ([FIRST, BackUpResponse(offset=4, data=b"ef", total_size=6)], "a piece at 4 came after 3"),
        (
            [FIRST, BackUpResponse(offset=3, data=b"dxf", total_size=6, sha256=WHOLE)],
            "does not have the SHA-256",
        ),
        ([FIRST, BackUpResponse(offset=3, data=b"de", total_size=6, sha256=WHOLE)], "after 5 of 6"),
    ],
)
async def test_what_comes_broken_is_not_kept_and_what_was_there_is(
    tmp_path: Path, made: list[BackUpResponse], words: str
) -> None:
    file = tmp_path / "backup.sqlite3"
    file.write_bytes(b"the one before")
    with pytest.raises(ServiceError, match=words):
        await save(pieces(*made), file, overwrite=True, on_progress=None)
    assert names(tmp_path) == ["backup.sqlite3"]
    assert file.read_bytes() == b"the one before"


async def test_two_backups_into_one_file_do_not_mix_and_what_a_killed_one_left_is_replaced(
    tmp_path: Path,
) -> None:
    file = tmp_path / "backup.sqlite3"
    (tmp_path / "backup.sqlite3.part").write_bytes(b"left by somebody who was killed")
    second = BackUpResponse(offset=3, data=b"def", total_size=6, sha256=WHOLE)

    async def first_call() -> AsyncIterator[BackUpResponse]:
        yield FIRST
        with pytest.raises(FileExistsError, match="another backup is being written"):
            await save(pieces(FIRST, second), file, overwrite=True, on_progress=None)
        yield second

    assert await save(first_call, file, overwrite=False, on_progress=None) == WHOLE
    assert names(tmp_path) == ["backup.sqlite3"]
    assert file.read_bytes() == b"abcdef"


def copies(directory: Path) -> list[Path]:
    return list((directory / "state" / DIRECTORY).iterdir())


async def heavy(client: Client) -> None:
    """More than fits between a service and a client that does not read."""
    script = Script(accuracies=[0.1] * 101)
    await client.experience.BeginEpisode(script.begin())
    items = script.items()[:-1]
    for item in items:
        item.transition.facts.validation_correct = os.urandom(100_000)
    await record(client, items)


async def record(client: Client, items: list[ExperienceItem]) -> None:
    async def requests() -> AsyncIterator[StreamTransitionsRequest]:
        for message in in_messages(items, 20):
            yield StreamTransitionsRequest(items=message)

    async for response in client.experience.StreamTransitions(requests()):
        assert not response.rejected


async def test_two_backups_at_once_are_both_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as client, Experience(address(tmp_path)) as experience:
        await heavy(client)
        files = [tmp_path / "one.sqlite3", tmp_path / "two.sqlite3"]
        await asyncio.gather(*(experience.back_up(file) for file in files))
        assert copies(tmp_path) == []
    for number, file in enumerate(files):
        restored = Database(sqlite_url(fresh(tmp_path / f"restored-{number}")))
        BackupFile(file).restore(restored)
        assert ExperienceReader(restored).statistics("").transitions == 100


async def test_of_a_client_that_goes_away_nothing_stays(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await heavy(client)
        async with grpc.aio.insecure_channel(address(tmp_path)) as channel:
            call = Client(channel).experience.BackUp(BackUpRequest())
            assert isinstance(await call.read(), BackUpResponse)
            assert len(copies(tmp_path)) == 1
            # Closing the channel alone cancels nothing in the oldest grpcio.
            call.cancel()

        async def gone() -> bool:
            return copies(tmp_path) == []

        await eventually(gone)


async def test_a_drain_does_not_wait_for_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(self: backup.Backup) -> None:
        loop.call_soon_threadsafe(made.set)
        go_on.wait(20)
        if self._stopped.is_set():
            raise Stopped

    monkeypatch.setattr(backup.Backup, "_go_on", wait)
    monkeypatch.setattr(backup, "INSTRUCTIONS_A_LOOK", 10)
    async with AsyncExitStack() as longer:
        async with running(tmp_path) as client:
            await heavy(client)
            channel = grpc.aio.insecure_channel(address(tmp_path))
            other = Client(await longer.enter_async_context(channel))
            reading = asyncio.ensure_future(other.experience.BackUp(BackUpRequest()).read())
            await made.wait()
            loop.call_later(0.5, go_on.set)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading
    assert from_rpc_error(caught.value).error_code is ErrorCode.SHUTTING_DOWN
    assert copies(tmp_path) == []


async def test_what_a_killed_service_left_is_gone_after_its_restart(tmp_path: Path) -> None:
    simic = SimicProcess(tmp_path)
    file = tmp_path / "backup.sqlite3"
    where = await simic.start()
    async with grpc.aio.insecure_channel(where) as channel, Experience(where) as experience:
        await heavy(Client(channel))
        half = asyncio.Event()
        backing_up = asyncio.create_task(
            experience.back_up(file, on_progress=lambda done, total: half.set())
        )
        await half.wait()
        await simic.kill()
        with pytest.raises(ServiceError) as caught:
            await backing_up
        assert caught.value.code == "UNAVAILABLE"
    assert len(copies(tmp_path)) == 1
    assert names(tmp_path) == ["address", "log", "state"]
    where = await simic.start()
    assert copies(tmp_path) == []
    async with Experience(where) as experience:
        await experience.back_up(file)
    assert await simic.stop() == 0


@pytest.mark.parametrize("looks_with_room", [0, 1, 3])
async def test_where_there_is_no_room_for_a_backup_the_service_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks_with_room: int
) -> None:
    monkeypatch.setattr(backup, "INSTRUCTIONS_A_LOOK", 10)
    looks = 0

    def usage(_path: Path) -> Usage:
        nonlocal looks
        looks += 1
        return Usage(1 << 40, 0, 1 << 39 if looks <= looks_with_room else 1000)

    async with running(tmp_path) as client:
        await heavy(client)
        monkeypatch.setattr(shutil, "disk_usage", usage)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.experience.BackUp(BackUpRequest()).read()
        error = from_rpc_error(caught.value)
        assert error.error_code is ErrorCode.DISK_FULL
        assert "backups" in error.message
        assert copies(tmp_path) == []
        script = Script(run="after")
        await client.experience.BeginEpisode(script.begin())
        await record(client, script.items())
        records = client.experience.ReadEpisodes(ReadEpisodesRequest(run_id="after"))
        assert len([each async for each in records]) == 5


async def command(*arguments: str) -> tuple[int | None, str, str]:
    """Run `leyline`; its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "leyline.cli", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, complained = await process.communicate()
    return process.returncode, said.decode(), complained.decode()


async def test_the_command_line_backs_up_and_restores(tmp_path: Path) -> None:
    file = tmp_path / "backup.sqlite3"
    async with running(tmp_path) as client:
        await client.experience.BeginEpisode(Script().begin())
        at = ("--simic", address(tmp_path))
        code, said, _ = await command("experience", "backup", str(file), "--json", *at)
        assert (code, json.loads(said)["bytes"]) == (0, file.stat().st_size)
        assert json.loads(said)["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        code, _, complained = await command("experience", "backup", str(file), *at)
        assert (code, complained) == (
            1,
            f"leyline: there is a file at {file} already: --force (overwrite) replaces it\n",
        )
        code, said, _ = await command("experience", "backup", str(file), "--force", *at)
        assert code == 0
        assert f"to restore: leyline serve simic --restore {file}" in said
    restore = ("serve", "simic", "--restore", str(file), "--state-dir", str(tmp_path / "new"))
    code, _, complained = await command(*restore)
    assert code == 0, complained
    code, _, complained = await command(*restore)
    assert code == 1
    assert "is not empty" in complained.splitlines()[-1]


def test_the_command_is_refused_without_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experience", "backup", "/nowhere/backup.sqlite3", "--simic", "127.0.0.1:1"]) == 1
    assert "there is no folder /nowhere: make it" in capsys.readouterr().err
