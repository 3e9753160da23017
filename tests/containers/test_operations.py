"""The commands of docs/operations.md, as an operator would copy them, from top to bottom."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.containers.stack import BUILD_S, PORTS, Stack, stack
from tests.e2e.readme import ROOT

pytestmark = pytest.mark.timeout(BUILD_S)

NOT_THE_OPERATORS = (".git", ".venv", "build", ".leyline", "__pycache__", ".*_cache", "shared")


def commands() -> list[str]:
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "docs/operations.md").read_text(), re.M | re.S
    )
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def environment(one: Stack) -> dict[str, str]:
    """What makes the operator's commands those of a stack that meets nobody else's."""
    addresses = {f"LEYLINE_{name.upper()}_ADDRESS": one.address(name) for name in PORTS}
    return {
        **one.environment,
        **addresses,
        "COMPOSE_PROJECT_NAME": one.project,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def test_every_command_of_the_document_works(folder: Path) -> None:
    # What the commands leave behind is not left in the project.
    here = folder / "leyline"
    shutil.copytree(ROOT, here, ignore=shutil.ignore_patterns(*NOT_THE_OPERATORS))
    with stack(folder) as one:
        said = {}
        for command in commands():
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=here,
                env=environment(one),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            print(f"$ {command}\n{done.stdout[-400:]}")
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            said[command] = done.stdout
    counted = [text for command, text in said.items() if " experience stats" in command]
    assert len(counted) == 2
    # In a container and after the restoration, by the episode that the document plays.
    assert all("4" in text.split() for text in counted), counted
