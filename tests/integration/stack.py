"""The three services as real processes that a test may kill and start again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from leyline.client import Client
from leyline.error import ServiceError

LEYLINE = Path(sys.executable).with_name("leyline")
NAMES = ("simic", "tamiyo", "kasmina")
PATIENCE_S = 180.0

Seen = TypeVar("Seen")


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def eventually(
    look: Callable[[], Seen | None], what: str, within_s: float = PATIENCE_S
) -> Seen:
    """What `look` sees once it sees anything; fails with `what` when it never does."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        await asyncio.sleep(0.05)
    raise AssertionError(f"never happened within {within_s:.0f} s: {what}")


class Stack:
    """Kasmina, Tamiyo and Simic over one folder, each at an address that outlives its process."""

    def __init__(self, folder: Path, policy: str = "learned", more: Sequence[str] = ()) -> None:
        """`more` are further services of the three kinds, by names such as kasmina-2."""
        self.folder = folder
        self.policy = policy
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in (*NAMES, *more)}
        self.decides_at = self.addresses["tamiyo"]
        """Where Kasmina asks for decisions: a test may put something in between."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def journal(self) -> Path:
        """Kasmina's truth."""
        return self.folder / "kasmina" / "journal.sqlite3"

    @property
    def store(self) -> Path:
        """Simic's truth."""
        return next((self.folder / "simic").glob("*.sqlite3"))

    async def up(self, *names: str, **environment: str) -> None:
        """Starts services (all of them where none is named) and waits until each listens."""
        for name in names or NAMES:
            self.start(name, **environment)
        for name in names or NAMES:
            await self.listening(name)

    def start(self, name: str, **environment: str) -> None:
        """Starts one service."""
        log = (self.folder / f"{name}.log").open("ab")
        kind = name.partition("-")[0]
        command = [str(LEYLINE), "serve", kind, "--listen", self.addresses[name]]
        command += ["--state-dir", str(self.folder / name), *self._arguments(kind)]
        self.processes[name] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
        )
        log.close()

    def _arguments(self, kind: str) -> Sequence[str]:
        if kind == "tamiyo":
            return ("--policy", self.policy, "--registry", self.addresses["simic"])
        if kind == "kasmina":
            policy = f"default={self.decides_at}"
            return ("--policy", policy, "--experience", self.addresses["simic"])
        return ()

    async def listening(self, name: str) -> None:
        """Waits until the service answers a health check, whatever it says."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            if self.processes[name].poll() is not None:
                raise AssertionError(f"{name} ended: {self.tail(name)}")
            try:
                await self.health(name)
                return
            except ServiceError:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{name} does not answer: {self.tail(name)}") from None
                await asyncio.sleep(0.1)

    async def health(self, name: str) -> str:
        """SERVING or NOT_SERVING."""
        async with Client(self.addresses[name]) as client:
            return await client.health()

    def kill(self, name: str) -> None:
        """SIGKILL: no clean-up of any kind."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """Ends what still runs."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def tail(self, name: str) -> str:
        """The end of a service's log."""
        return (self.folder / f"{name}.log").read_text()[-3000:]

    def ask(self, database: Path, query: str, say: bool = False) -> list[tuple[object, ...]]:
        """The rows of a query; with `say`, prints both, for whoever reads the test's output."""
        uri = f"file:{database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            rows = connection.execute(query).fetchall()
        if say:
            print(f"\n{database.name}> {' '.join(query.split())}")
            for row in rows:
                print("   ", *row, sep=" | ")
        return rows

    def count(self, database: Path, query: str) -> int:
        """The one number that a query returns."""
        (number,) = self.ask(database, query)[0]
        assert isinstance(number, int)
        return number
