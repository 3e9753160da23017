"""A newcomer who types the README's commands gets what it says."""

from __future__ import annotations

import subprocess

import pytest
from tests.e2e.readme import DEMO, ROOT, compose_commands, local_commands


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", [each for each in local_commands() if each != DEMO])
def test_a_command_of_the_readme_succeeds(command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_readme_shows_the_demonstration_and_the_containers() -> None:
    # tests/e2e/test_demo.py runs this, and tests/containers those.
    assert DEMO in local_commands()
    assert [command.split()[2] for command in compose_commands()] == ["up", "--profile", "down"]
