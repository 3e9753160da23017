"""Writes the migration from the newest revision to what schema.py says: `make migration`.

It is Alembic's guess, to be read before it is committed: a renamed column looks like one that goes
and one that comes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import Script
from sqlalchemy import make_url

from simic.database import migrating, revision
from simic.database.database import sqlite_url
from simic.database.sqlite import Sqlite

VERSIONS = revision.MIGRATIONS / "versions"


def make(message: str) -> Path:
    """The file of a new migration; a database that has gone through all others is compared."""
    name = f"{len(list(VERSIONS.glob('r*_*.py'))) + 1:04}"
    with tempfile.TemporaryDirectory() as directory:
        database = Sqlite(make_url(sqlite_url(Path(directory))))
        with database.migration() as connection:
            config = migrating.config(connection)
            config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
            command.upgrade(config, "heads")
            script = command.revision(config, message, autogenerate=True, rev_id=name)
        database.engine.dispose()
    assert isinstance(script, Script)
    path = Path(script.path)
    for mend in (["format"], ["check", "--fix"]):
        subprocess.run([sys.executable, "-m", "ruff", *mend, "--quiet", path], check=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("message", help='what changes: "keep the end of an episode"')
    parser.add_argument(
        "--anew",
        action="store_true",
        help="replace all migrations by one; for what no release has shipped yet",
    )
    arguments = parser.parse_args()
    if arguments.anew:
        for old in VERSIONS.glob("r*_*.py"):
            old.unlink()
    print(make(arguments.message))


if __name__ == "__main__":
    main()
