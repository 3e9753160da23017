"""A stack of real services, started once for all tests of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-P", "-m", "leyline.cli")


@dataclass
class Up:
    """A `leyline up` that runs."""

    process: subprocess.Popen[str]
    directory: Path
    addresses: dict[str, str]
    token: Path | None

    @property
    def environment(self) -> dict[str, str]:
        """What a `leyline` needs to find the stack."""
        where = {f"LEYLINE_{name.upper()}_ADDRESS": at for name, at in self.addresses.items()}
        return {**os.environ, **where}

    def command(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `leyline` with the stack's addresses."""
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=self.environment,
        )

    def service_pids(self) -> dict[str, int]:
        """Process ids of the services, by name."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        pids = {}
        for pid in map(int, listed.split()):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "serve" in words:
                pids[words[words.index("serve") + 1]] = pid
        return pids

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit code."""
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


StartUp = Callable[..., Up]


def start_up(directory: Path, arguments: Sequence[str] = (), cwd: Path | None = None) -> Up:
    """Start `leyline up` on free ports, from the folder that it is said to be in."""
    process = subprocess.Popen(
        [*COMMAND, "up", "--dir", str(directory), "--free-ports", "--quiet", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    said = json.loads(line)
    token = None if said["token"] is None else Path(said["token"])
    return Up(process, directory, said["addresses"], token)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[StartUp]:
    """Starts stacks of one's own; they end with the test."""
    started: list[Up] = []

    def start(*arguments: str, cwd: Path | None = None) -> Up:
        started.append(start_up(tmp_path / str(len(started)), arguments, cwd))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A stack whose policy is random, for a module's tests."""
    one = start_up(tmp_path_factory.mktemp("stack"), ["--policy", "random"])
    yield one
    one.end()
