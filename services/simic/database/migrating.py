"""Bringing a database to the schema of this release, by Alembic's migrations."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from simic.database import revision


class UnknownRevision(Exception):
    """The database has a revision that this release does not know: a newer one wrote it."""


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
    settings.set_main_option("script_location", str(revision.MIGRATIONS).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings
