"""`docker compose up`, a run from outside, and experience that outlives the containers.

Needs a Docker engine: where there is none these tests fail and say so, because a stack that nobody
started is not tested.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.readme import ROOT, compose_commands

PORTS = {
    "LEYLINE_KASMINA_PORT": "51051",
    "LEYLINE_TAMIYO_PORT": "51052",
    "LEYLINE_SIMIC_PORT": "51053",
}
# Pulling torch into an image once takes minutes; later builds take seconds.
BUILD_AND_DEMO_S = 1800

pytestmark = pytest.mark.timeout(BUILD_AND_DEMO_S)


class Stack:
    """One compose project with a name and ports of its own, so that it meets nobody else's."""

    def __init__(self, project: str) -> None:
        self.project = project
        # Digits, whatever data this machine has: the containers must not depend on it.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("LEYLINE_")}
        self.environment = inherited | PORTS

    def compose(self, *arguments: str) -> str:
        """Runs `docker compose` and returns what it printed; a failure shows the services' logs."""
        done = self._run(*arguments)
        if done.returncode != 0:
            logs = self._run("logs", "--no-color", "--tail", "60").stdout
            command = f"docker compose {' '.join(arguments)}"
            pytest.fail(f"{command}: {done.returncode}\n{done.stdout}\n{logs}")
        return done.stdout

    def type(self, command: str) -> str:
        """Runs a command of the README, in this project instead of the reader's."""
        return self.compose(*shlex.split(command.removeprefix("docker compose")))

    def client(self, *arguments: str) -> Any:
        """Runs the `leyline` client on the host's network and returns the JSON that it printed."""
        done = self.compose("--profile", "demo", "run", "--rm", "-T", "demo", *arguments)
        return json.loads(done[done.index("{") :])

    def close(self) -> None:
        self._run("--profile", "demo", "down", "--volumes", "--timeout", "20")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", "-p", self.project, *arguments],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    engine = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if engine.returncode != 0:
        pytest.fail(f"no Docker engine answers; start one and run this again.\n{engine.stderr}")
    stack = Stack(f"leyline-test-{uuid.uuid4().hex[:8]}")
    stack.compose("--profile", "demo", "build", "-q")
    yield stack
    stack.close()


def experience(stack: Stack) -> dict[str, Any]:
    """What Simic has stored."""
    statistics: dict[str, Any] = stack.client("experience", "stats", "--json")
    return statistics


def test_the_stack_comes_up_healthy_runs_the_demo_and_keeps_its_experience(stack: Stack) -> None:
    up, demo, down = compose_commands()
    stack.type(up)
    print(stack.type(demo)[-3000:])
    before = experience(stack)
    assert int(before["transitions"]) > 0
    assert int(before["episodes"]) == int(before["episodes_ended"])

    stack.type(down)
    stack.type(up)

    assert experience(stack) == before


def test_ports_are_published_on_loopback_only(stack: Stack) -> None:
    stack.compose("up", "--wait")
    for service, port in (("kasmina", 50051), ("tamiyo", 50052), ("simic", 50053)):
        assert stack.compose("port", service, str(port)).startswith("127.0.0.1:")


def test_no_container_runs_as_root(stack: Stack) -> None:
    stack.compose("up", "--wait")
    for service in ("kasmina", "tamiyo", "simic"):
        assert stack.compose("exec", "-T", service, "id", "-u").strip() != "0"
