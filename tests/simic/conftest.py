"""What Simic's tests stand on: a real database, and stores over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.simic.clock import Clock

from simic.database.database import Database, sqlite_url
from simic.experience.reading import ExperienceReader
from simic.experience.store import ExperienceStore
from simic.learning.training import TrainingStore
from simic.policies.registry import PolicyRegistry


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path))
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
