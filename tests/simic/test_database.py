from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from tests.simic.disk import FullDisk
from tests.simic.episodes import Script

from chassis.errors import ErrorCode, LeylineError
from chassis.process import StartupError
from simic.database.database import Database, StateDirectory, sqlite_url
from simic.database.schema import schema_version
from simic.experience.store import ExperienceStore


def test_commits_wait_for_the_disk(database: Database) -> None:
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(insert(schema_version).values(version=99))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with database.read() as connection:
        assert connection.execute(select(schema_version.c.version)).scalars().all() == [3]


@pytest.mark.parametrize("version", [1, 1000])
def test_a_database_of_another_release_is_refused_with_what_to_do(
    tmp_path: Path, version: int
) -> None:
    Database(sqlite_url(tmp_path)).close()
    with sqlite3.connect(tmp_path / "simic.sqlite3") as connection:
        connection.execute("UPDATE schema_version SET version = ?", (version,))
    connection.close()
    words = f"version {version}, and this release knows 3: use the release .* another state"
    with pytest.raises(StartupError, match=words):
        Database(sqlite_url(tmp_path))


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "simic.sqlite3"
    file.write_bytes(b"a letter to my aunt" * 100)
    with pytest.raises(StartupError, match="cannot be opened"):
        Database(sqlite_url(tmp_path))
    assert file.read_bytes() == b"a letter to my aunt" * 100


@pytest.mark.parametrize("url", ["nonsense", "martian://host/db", "postgresql+martian://host/db"])
def test_a_url_that_names_no_database_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="database URL cannot be used"):
        Database(url)


def test_a_state_directory_belongs_to_one_service_at_a_time(tmp_path: Path) -> None:
    with (
        StateDirectory(tmp_path),
        pytest.raises(StartupError, match=r"in use by another Simic \(process \d+\)"),
    ):
        StateDirectory(tmp_path)
    StateDirectory(tmp_path).release()


def test_a_full_disk_stores_nothing_and_passes(experience: ExperienceStore) -> None:
    script = Script(accuracies=[0.01 * step for step in range(60)])
    fence = experience.begin(script.begin()).fence
    items = script.items(fence)
    with FullDisk() as disk:
        with pytest.raises(LeylineError) as caught:
            experience.record(items)
        assert caught.value.code is ErrorCode.DISK_FULL
        assert caught.value.retry_after_s is not None
        assert experience.cursor("run", 0).next_step == 0
        disk.make_room()
        assert experience.record(items) == [None] * len(items)
    assert experience.cursor("run", 0).next_step == 59
