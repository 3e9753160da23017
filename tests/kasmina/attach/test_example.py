"""A plain training script becomes an episode with at most 20 added lines, and both run."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import ADVANCE, GERMINATE, follow

from leyline.v1.transition_pb2 import TERMINATION_HORIZON

EXAMPLES = Path(__file__).parents[3] / "examples" / "attach"
MOST_ADDED_LINES = 20


def test_the_script_gains_at_most_twenty_lines_and_loses_none() -> None:
    before, after = (
        (EXAMPLES / f"{name}.py").read_text().splitlines() for name in ("before", "after")
    )
    changes = [line[0] for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert changes.count("-") == 0
    assert changes.count("+") <= MOST_ADDED_LINES


def run(name: str, folder: Path, *arguments: str) -> list[str]:
    """What the script prints, started in the folder."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=200,
    )
    return done.stdout.splitlines()


def test_before_and_after_learn_alike_until_something_grows(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, {0: (GERMINATE, "slot-1"), 1: (ADVANCE, "slot-1"), 2: (ADVANCE, "slot-1")})
    services = ("--services", neighbours.address, neighbours.address)
    before = run("before", tmp_path, "--epochs", "4", "--checkpoint", "before.pt")
    after = run("after", tmp_path, "--epochs", "4", "--checkpoint", "after.pt", *services)
    assert len(before) == len(after) == 4
    assert before[:2] == after[:2]
    assert before[2:] != after[2:]
    transitions = neighbours.experience.episode("after", 0)
    assert [transition.step_id.step for transition in transitions] == [0, 1, 2, 3]
    assert neighbours.experience.ends["after", 0].termination == TERMINATION_HORIZON
