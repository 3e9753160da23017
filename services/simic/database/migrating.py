"""Bringing a database to the schema of this release, by Alembic's migrations."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

MIGRATIONS = Path(__file__).with_name("migrations")


class UnknownRevision(Exception):
    """The database has a revision that this release does not know: a newer one wrote it."""


def revision(connection: Connection) -> str | None:
    """The revision that the database has; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The revision that this release wants."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert head is not None, "there is at least one migration"
    return head


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest revision, within the caller's transaction.

    Raises:
        UnknownRevision: it is not older than this release.
    """
    try:
        command.upgrade(config(connection), "head")
    except CommandError as error:
        raise UnknownRevision(str(error)) from error


def config(connection: Connection) -> Config:
    """What Alembic's commands want to know."""
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings
