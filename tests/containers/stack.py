"""The compose file's stack, under a name and on ports of its own, and what a test does with it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.e2e.readme import ROOT

from leyline.channel import Credentials
from leyline.client import Experience, Trainer
from leyline.error import ServiceError
from leyline.v1.experience_pb2 import ReadEpisodesRequest
from leyline.v1.trainer_pb2 import Run, RunSpec, RunState

SERVICES = ("postgres", "simic", "tamiyo", "kasmina")
PORTS = {"kasmina": 50051, "tamiyo": 50052, "simic": 50053, "prometheus": 50090}
# Two of pytest's workers may each have a stack.
BASE_PORT = 51_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# A probe that failed is asked again half a minute later, and a busy machine starts slowly.
UP_S = 600
# Pulling torch into an image once takes minutes; later builds take seconds.
BUILD_S = 1800

_OVER = (RunState.RUN_STATE_COMPLETED, RunState.RUN_STATE_FAILED, RunState.RUN_STATE_CANCELLED)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Count:
    """What became of a run's transitions.

    Attributes:
        sent: steps that the trainer completed.
        stored: different steps of it that Simic has.
        doubled: steps that Simic has more than once.
    """

    sent: int
    stored: int
    doubled: int

    @property
    def lost(self) -> int:
        return self.sent - self.stored

    def __str__(self) -> str:
        return f"{self.sent} sent, {self.stored} stored, {self.lost} lost, {self.doubled} doubled"


class Stack:
    """One compose project, so that it meets nobody else's."""

    def __init__(
        self, folder: Path, overrides: Sequence[str | Path] = (), **environment: str
    ) -> None:
        """Start nothing yet.

        Args:
            folder: for what is taken out of the containers.
            overrides: names of files in deploy/compose, or paths of others.
            environment: variables of the compose file.
        """
        self.project = f"leyline-test-{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self._files = [ROOT / "docker-compose.yml"]
        for override in overrides:
            named = isinstance(override, str)
            self._files.append(
                ROOT / "deploy/compose" / f"{override}.yml" if named else Path(override)
            )
        # What this machine has set is not for containers: they must not depend on it.
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("LEYLINE_", "TAMIYO"))
        }
        self.ports = {name: BASE_PORT + port - 50_000 for name, port in PORTS.items()}
        ports = {f"LEYLINE_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        self.environment: Mapping[str, str] = {**inherited, **ports, **environment}

    def with_overrides(self, *overrides: str) -> Stack:
        """The same project, by other files."""
        other = copy.copy(self)
        other._files = [*self._files, *(ROOT / f"deploy/compose/{name}.yml" for name in overrides)]
        return other

    def with_environment(self, **environment: str) -> Stack:
        """The same project, by other variables."""
        other = copy.copy(self)
        other.environment = {**self.environment, **environment}
        return other

    def compose(self, *arguments: str, timeout_s: float = UP_S) -> str:
        """Run `docker compose`; what it printed. A failure shows the services' logs."""
        done = self._run(*arguments, timeout_s=timeout_s)
        if done.returncode != 0:
            logs = self._run("logs", "--no-color", "--tail", "60").stdout
            command = f"docker compose {shlex.join(arguments)}"
            pytest.fail(f"{command}: {done.returncode}\n{done.stdout}\n{logs}")
        return done.stdout

    def type(self, command: str) -> str:
        """Run a command of the README, in this project instead of the reader's."""
        return self.compose(*shlex.split(command.removeprefix("docker compose")), timeout_s=BUILD_S)

    def up(self, *services: str) -> None:
        """Start it, and wait until all of it is healthy."""
        self.compose("up", "--wait", "--no-build", *services)

    def close(self) -> None:
        """Remove it, with everything that it kept."""
        self._run("--profile", "*", "down", "--volumes", "--timeout", "10", "--remove-orphans")

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the `leyline` command in a container of the stack, as its operator."""
        done = subprocess.run(
            [*self._command, "run", "--rm", "-T", "cli", *arguments],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=UP_S,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"leyline {shlex.join(arguments)}: {done.stdout}\n{done.stderr}")
        return done

    def json(self, *arguments: str) -> Any:
        """What a `leyline` command prints with --json."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def address(self, service: str) -> str:
        """Where a service is, from this machine."""
        return f"127.0.0.1:{self.ports[service]}"

    def credentials(self, member: str = "operator") -> Credentials:
        """A member's, copied out of the stack."""
        folder = self.folder / member
        if not folder.exists():
            self.compose("cp", f"certs:/certs/{member}", str(folder))
        return Credentials.in_folder(folder)

    def forget_credentials(self) -> None:
        """Have them copied anew."""
        for folder in self.folder.iterdir():
            shutil.rmtree(folder)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker knows of a service's only container."""
        (container,) = self.containers(service)
        return docker_json("inspect", container)

    def kill(self, service: str) -> None:
        """End a service by SIGKILL, as the kernel would; Docker starts it again by itself.

        Not by `docker kill`, after which Docker lets it lie.
        """
        (container,) = self.containers(service)
        before = docker_json("inspect", container)["RestartCount"]
        docker("exec", container, "sh", "-c", "kill -9 -1", check=False)
        eventually(
            lambda: docker_json("inspect", container)["RestartCount"] > before,
            f"{service} is started again",
        )

    def network(self, verb: str, service: str) -> None:
        """`disconnect` a service from the others, or `connect` it again under its name."""
        (container,) = self.containers(service)
        alias = ("--alias", service) if verb == "connect" else ()
        docker("network", verb, *alias, f"{self.project}_leyline", container)

    @property
    def _command(self) -> list[str]:
        files = [argument for file in self._files for argument in ("-f", str(file))]
        return ["docker", "compose", "-p", self.project, "--project-directory", str(ROOT), *files]

    def _run(self, *arguments: str, timeout_s: float = UP_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )

    # Runs, by a client on this machine.

    def start(self, run_id: str, spec: RunSpec, kasmina: str = "kasmina") -> None:
        """Start a run."""

        async def start() -> None:
            async with Trainer(self.address(kasmina), self.credentials()) as trainer:
                await trainer.start(spec, run_id)

        asyncio.run(start())

    def run(self, run_id: str, kasmina: str = "kasmina") -> Run:
        """A run as it is.

        Raises:
            ServiceError: Kasmina does not answer.
        """

        async def get() -> Run:
            async with Trainer(self.address(kasmina), self.credentials()) as trainer:
                return await trainer.get(run_id)

        return asyncio.run(get())

    def steps(self, run_id: str, least: int, within_s: float = 300) -> int:
        """The steps that a run has completed, once it has that many."""

        def look() -> int | None:
            with contextlib.suppress(ServiceError):
                done = self.run(run_id).steps_completed
                return done if done >= least else None
            return None

        return eventually(look, f"run {run_id} takes {least} steps", within_s)

    def ended(self, run_id: str, kasmina: str = "kasmina", within_s: float = 900) -> Run:
        """A run once it has ended, and Simic has said that it has all of it."""

        def look() -> Run | None:
            with contextlib.suppress(ServiceError):
                run = self.run(run_id, kasmina)
                return run if run.state in _OVER and not run.outbox_depth else None
            return None

        return eventually(look, f"run {run_id} ends", within_s, every_s=1)

    def count(self, run_id: str, *kasminas: str) -> Count:
        """What became of the steps of a run that has ended, by reading all of it back."""
        sent = sum(self.run(run_id, at).steps_completed for at in kasminas or ("kasmina",))

        async def read() -> Counter[tuple[int, int]]:
            async with Experience(self.address("simic"), self.credentials()) as experience:
                return Counter(
                    [
                        (record.transition.step_id.episode_index, record.transition.step_id.step)
                        async for record in experience.read(ReadEpisodesRequest(run_id=run_id))
                        if record.HasField("transition")
                    ]
                )

        steps = asyncio.run(read())
        return Count(sent, len(steps), steps.total() - len(steps))


@contextlib.contextmanager
def stack(
    folder: Path, overrides: Sequence[str | Path] = (), **environment: str
) -> Iterator[Stack]:
    """A stack that is removed with the block."""
    one = Stack(folder, overrides, **environment)
    try:
        yield one
    finally:
        one.close()


def eventually(
    look: Callable[[], Found | None], what: str, within_s: float = 120, every_s: float = 0.3
) -> Found:
    """What a look finds, once it finds anything."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(every_s)
    return found


def docker(*arguments: str, check: bool = True) -> str:
    """Run `docker`; what it printed on its standard output."""
    done = subprocess.run(["docker", *arguments], text=True, capture_output=True, check=False)
    if check and done.returncode != 0:
        pytest.fail(f"docker {shlex.join(arguments)}: {done.stderr}")
    return done.stdout


def docker_json(*arguments: str) -> dict[str, Any]:
    """The one object that `docker` printed as JSON."""
    (found,) = json.loads(docker(*arguments))
    assert isinstance(found, dict)
    return found
