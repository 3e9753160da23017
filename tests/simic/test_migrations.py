from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from tests.postgres import Cluster
from tests.simic.episodes import Script
from tests.simic.running import SimicProcess

from chassis.process import StartupError
from simic.database import revision, schema
from simic.database.database import Database, sqlite_url
from simic.experience.store import ExperienceStore

OPEN = "import sys; from simic.database.database import Database; Database(sys.argv[1])"

NEWER = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{newest}"


def upgrade() -> None:
    with op.batch_alter_table("episodes", recreate="auto") as episodes:
        episodes.alter_column("horizon", new_column_name="planned_steps")
        episodes.add_column(sa.Column("note", sa.Text(), nullable=False, server_default=""))
        episodes.drop_constraint("episodes_whole_sequence_key", type_="unique")
"""


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The migrations of a release to come, which makes a table anew that others refer to."""
    folder = tmp_path / "migrations"
    shutil.copytree(revision.MIGRATIONS, folder)
    migration = NEWER.format(newest=revision.newest())
    (folder / "versions/r9999_newer.py").write_text(migration)
    return folder


def record(url: str) -> Script:
    """Leave an episode in a database of this release."""
    database, script = Database(url), Script()
    experience = ExperienceStore(database)
    experience.begin(script.begin())
    assert set(experience.record(script.items())) == {None}
    database.close()
    return script


def test_the_migrations_make_what_the_schema_says(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_a_database_of_an_older_release_keeps_its_rows(
    database_url: str, next_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = record(database_url)
    monkeypatch.setattr(revision, "MIGRATIONS", next_release)
    database = Database(database_url)
    with database.read() as connection:
        assert revision.found(connection) == "9999"
        query = "SELECT planned_steps, note, next_step FROM episodes"
        assert tuple(connection.execute(text(query)).one()) == (script.horizon, "", script.horizon)
        steps = connection.execute(text("SELECT count(*) FROM transitions")).scalar_one()
        assert steps == script.horizon
    database.close()


def test_a_database_of_a_newer_release_is_refused_with_what_to_do(
    database_url: str, next_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = revision.newest()
    with monkeypatch.context() as later:
        later.setattr(revision, "MIGRATIONS", next_release)
        Database(database_url).close()
    words = f"newer release .it has revision 9999, this release knows {newest}.: use that release"
    with pytest.raises(StartupError, match=words):
        Database(database_url)


def test_a_migration_that_fails_leaves_everything_as_it_was(
    database_url: str, next_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(database_url)
    newer = next_release / "versions/r9999_newer.py"
    newer.write_text(newer.read_text() + '    op.execute("DELETE FROM transitions")\n    1 / 0\n')
    with monkeypatch.context() as later:
        later.setattr(revision, "MIGRATIONS", next_release)
        with pytest.raises(ZeroDivisionError):
            Database(database_url)
    database = Database(database_url)
    with database.read() as connection:
        assert connection.execute(text("SELECT count(horizon) FROM episodes")).scalar() == 1
        assert connection.execute(text("SELECT count(*) FROM transitions")).scalar() == 3
    database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_open_an_empty_database_at_once_migrate_it_once(
    kind: str, cluster: Cluster, tmp_path: Path
) -> None:
    url = sqlite_url(tmp_path) if kind == "sqlite" else cluster.create()
    openers = [
        subprocess.Popen([sys.executable, "-c", OPEN, url], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = [opener.communicate()[0] for opener in openers]
    assert [opener.returncode for opener in openers] == [0, 0, 0]
    assert any("database migrated" in each for each in printed)
    database = Database(url)
    with database.read() as connection:
        assert set(inspect(connection).get_table_names()) == {
            *schema.metadata.tables,
            "alembic_version",
        }
    database.close()
    if kind == "postgresql":
        cluster.drop(url)


async def test_a_deployment_migrates_before_it_serves(tmp_path: Path) -> None:
    simic = SimicProcess(tmp_path)
    assert await simic.run("--migrate") == 0
    with Database(sqlite_url(tmp_path / "state")).read() as connection:
        assert revision.found(connection) == revision.newest()
