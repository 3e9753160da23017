"""What Simic's tests stand on: real databases of both kinds, and stores over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url
from tests.postgres import Cluster, postgres
from tests.simic.clock import Clock
from tests.simic.disk import FullDisk, FullServer

from simic.database.database import Database, sqlite_url
from simic.experience.reading import ExperienceReader
from simic.experience.store import ExperienceStore
from simic.learning.training import TrainingStore
from simic.policies.registry import PolicyRegistry


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server: that of LEYLINE_TEST_POSTGRES_URL, or one of this session's own."""
    url = os.environ.get("LEYLINE_TEST_POSTGRES_URL")
    if url:
        yield Cluster(url)
        return
    with postgres(sync=False) as server:
        yield Cluster(server.url("postgres"))


@pytest.fixture(scope="session")
def migrated(cluster: Cluster) -> Iterator[str]:
    """Name of a database with all tables and nothing in them, to make others like it."""
    url = cluster.create()
    Database(url).close()
    yield str(make_url(url).database)
    cluster.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the test's own; what asks for it is tried on both kinds."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    url = cluster.create(request.getfixturevalue("migrated"))
    yield url
    cluster.drop(url)


@pytest.fixture
def served(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, as the database of every Simic that the test runs."""
    monkeypatch.setenv("LEYLINE_SIMIC_DATABASE_URL", database_url)
    return database_url


@pytest.fixture
def full_disk(database_url: str) -> FullDisk | FullServer:
    """A disk that is full while its block lasts, under the test's database."""
    return FullDisk() if database_url.startswith("sqlite") else FullServer(database_url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def experience(database: Database) -> ExperienceStore:
    return ExperienceStore(database)


@pytest.fixture
def reader(database: Database) -> ExperienceReader:
    return ExperienceReader(database)


@pytest.fixture
def registry(database: Database) -> PolicyRegistry:
    return PolicyRegistry(database)


@pytest.fixture
def trainings(database: Database) -> TrainingStore:
    return TrainingStore(database)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)
