"""Who upgrades does it one service at a time: the last release and this one serve each other."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.compatibility.release import Release
from tests.integration.stack import LEYLINE, NAMES, Stack

from leyline.client import PolicyServer

pytestmark = pytest.mark.timeout(900)

EPISODES = 3
HORIZON = 6
RUN = {"host": {"name": "simulator"}, "training": {"horizon": HORIZON}, "episodes": EPISODES}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The last release."""
    return Release.unpacked(tmp_path_factory.mktemp("release"))


class CommandLine:
    """The `leyline` command of one side, told where a stack's services are."""

    def __init__(self, stack: Stack, environment: dict[str, str]) -> None:
        addresses = {
            f"LEYLINE_{name.upper()}_ADDRESS": stack.addresses[name] for name in stack.addresses
        }
        self._environment = {**os.environ, **addresses, **environment}

    def run(self, *arguments: str, given: str = "") -> str:
        """What a command prints."""
        done = subprocess.run(
            [str(LEYLINE), *arguments],
            env=self._environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"leyline {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """What it prints with --json."""
        return json.loads(self.run(*arguments, "--json"))


def test_the_release_is_not_this_code(release: Release) -> None:
    print(f"the last release is {release.name}")
    imported = subprocess.run(
        [sys.executable, "-c", "import leyline, tamiyo; print(leyline.__path__, tamiyo.__path__)"],
        env={**os.environ, **release.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(folder in imported for folder in release.environment["PYTHONPATH"].split(os.pathsep))


@pytest.mark.parametrize(
    ("released", "told_by_release"),
    [({"kasmina"}, True), ({"tamiyo", "simic"}, False)],
    ids=["clients-of-the-release", "servers-of-the-release"],
)
async def test_a_run_is_played_stored_and_learned_from(
    tmp_path: Path, release: Release, released: set[str], told_by_release: bool
) -> None:
    stack = Stack(tmp_path)
    try:
        for name in NAMES:
            stack.start(name, **(release.environment if name in released else {}))
        for name in NAMES:
            await stack.listening(name)
        told = CommandLine(stack, release.environment if told_by_release else {})
        told.run("training", "start", "--preset", "demo", "--id", "lesson")
        async with PolicyServer(stack.addresses["tamiyo"]) as policy:
            await policy.serving(within_s=60)
        spec = yaml.safe_dump(RUN)
        await asyncio.to_thread(told.run, "run", "start", "-", "--id", "one", "--watch", given=spec)

        run = told.json("run", "show", "one")
        assert run["state"] == "RUN_STATE_COMPLETED"
        assert int(run["steps_completed"]) == EPISODES * HORIZON
        stored = told.json("experience", "stats", "--run", "one")
        assert int(stored["transitions"]) == EPISODES * HORIZON
        assert int(stored["episodes_ended"]) == EPISODES
        # What the policy decided itself, rather than the trainer for want of an answer.
        assert int(stored.get("fallback_steps", 0)) == 0
        assert told.json("training", "show", "lesson")
        assert told.json("policy", "list")
    finally:
        stack.close()
