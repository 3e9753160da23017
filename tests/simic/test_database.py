from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, insert, inspect, make_url, select
from tests.postgres import Cluster, connect
from tests.simic.disk import FullDisk, FullServer
from tests.simic.episodes import Script

from chassis.errors import ErrorCode, LeylineError
from chassis.process import StartupError
from leyline.v1.experience_pb2 import ReadEpisodesRequest
from simic.database.database import Database, StateDirectory, sqlite_url
from simic.database.schema import artifacts
from simic.experience.reading import ExperienceReader
from simic.experience.store import ExperienceStore

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


def test_commits_wait_for_the_disk(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


def test_commits_wait_for_the_disk_of_a_server_whose_do_not(cluster: Cluster) -> None:
    url = cluster.create()
    with connect(url) as connection:
        connection.execute(f"ALTER DATABASE {make_url(url).database} SET synchronous_commit = off")
    database = Database(url)
    with database.write() as writing:
        assert writing.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    database.close()
    cluster.drop(url)


def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(insert(artifacts).values(sha256="0", size=1, data=b"x"))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with database.read() as connection:
        assert connection.execute(select(artifacts)).all() == []


def test_writers_wait_for_each_other(database: Database) -> None:
    def add_one(_: int) -> None:
        with database.write() as connection:
            newest = connection.execute(select(func.max(artifacts.c.size))).scalar() or 0
            values = {"sha256": str(newest + 1), "size": newest + 1, "data": b""}
            connection.execute(insert(artifacts).values(values))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add_one, range(40)))
    with database.read() as connection:
        assert connection.execute(select(func.max(artifacts.c.size))).scalar() == 40


def test_a_reader_sees_one_state_and_changes_nothing(database: Database) -> None:
    row = {"sha256": "0", "size": 1, "data": b""}
    with database.read() as reading:
        assert reading.execute(select(artifacts)).all() == []
        with database.write() as writing:
            writing.execute(insert(artifacts).values(row))
        assert reading.execute(select(artifacts)).all() == []
    with database.read() as reading:
        assert len(reading.execute(select(artifacts)).all()) == 1


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "simic.sqlite3"
    file.write_bytes(b"a letter to my aunt" * 100)
    with pytest.raises(StartupError, match="cannot be opened"):
        Database(sqlite_url(tmp_path))
    assert file.read_bytes() == b"a letter to my aunt" * 100


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE cats (name TEXT)"],
        ["CREATE TABLE episodes (title TEXT)"],
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('abc123')",
        ],
    ],
    ids=["tables", "tables-of-the-same-name", "migrations"],
)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_of_somebody_else_is_refused_and_left_alone(
    kind: str, statements: list[str], tmp_path: Path, cluster: Cluster
) -> None:
    url = sqlite_url(tmp_path) if kind == "sqlite" else cluster.create()
    engine = create_engine(make_url(url).set(drivername=DRIVERS[kind]))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    with pytest.raises(StartupError, match="holds other tables than Simic's"):
        Database(url)
    assert len(inspect(engine).get_table_names()) == 1
    engine.dispose()
    if kind == "postgresql":
        cluster.drop(url)


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://host/db", "postgresql+martian://host/db", "sqlite+martian:///db"]
)
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


def test_a_full_disk_stores_nothing_and_passes(
    experience: ExperienceStore, full_disk: FullDisk | FullServer
) -> None:
    script = Script(accuracies=[0.01 * step for step in range(60)])
    fence = experience.begin(script.begin()).fence
    items = script.items(fence)
    with full_disk as disk:
        with pytest.raises(LeylineError) as caught:
            experience.record(items)
        assert caught.value.code is ErrorCode.DISK_FULL
        assert caught.value.retry_after_s is not None
        assert experience.cursor("run", 0).next_step == 0
        disk.make_room()
        assert experience.record(items) == [None] * len(items)
    assert experience.cursor("run", 0).next_step == 59


def test_text_with_a_character_that_postgresql_does_not_take_holds_nobody_up(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    script, other = Script(version="a\0b"), Script(index=1)
    for each in (script, other):
        begin = each.begin()
        begin.policy = "nul\0"
        experience.begin(begin)
    *steps, end = script.items()
    end.episode_end.message = "\0 \N{SNOWMAN}"
    assert set(experience.record([*steps, end, *other.items()])) == {None}
    pages = list(reader.read(ReadEpisodesRequest(policy_version="a\0b")))
    assert [len(page) for page in pages] == [1, 3, 1]
    assert pages[-1][0].end.message == "\N{REPLACEMENT CHARACTER} \N{SNOWMAN}"


def test_a_password_is_read_from_its_file_for_each_connection(
    cluster: Cluster, tmp_path: Path
) -> None:
    server, file = cluster.create(), tmp_path / "password"
    query = {"password_file": str(file)}
    url = make_url(server).update_query_dict(query).render_as_string(hide_password=False)
    with pytest.raises(LeylineError) as refused:
        Database(url)
    assert refused.value.code is ErrorCode.DATABASE_UNAVAILABLE
    assert str(file) in str(refused.value.__cause__)
    file.write_text("secret\n")
    Database(url).close()
    cluster.drop(server)
