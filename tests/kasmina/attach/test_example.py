"""A plain training script becomes an episode with at most 20 added lines, and both run."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import ADVANCE, GERMINATE, follow

from leyline.v1.transition_pb2 import DECIDER_POLICY, TERMINATION_HORIZON

EXAMPLES = Path(__file__).parents[3] / "examples" / "attach"
MOST_ADDED_LINES = 20
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PATIENCE_S = 200.0


def test_the_script_gains_at_most_twenty_lines_and_loses_none() -> None:
    before, after = (
        (EXAMPLES / f"{name}.py").read_text().splitlines() for name in ("before", "after")
    )
    changes = [line[0] for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert changes.count("-") == 0
    assert changes.count("+") <= MOST_ADDED_LINES


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]


def run(name: str, folder: Path, *arguments: str) -> list[str]:
    """What the script prints, started in the folder."""
    done = subprocess.run(
        command(name, *arguments),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def unattached(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the script prints in four epochs as it was before."""
    return run("before", tmp_path_factory.mktemp("before"), "--epochs", "4")


def test_before_and_after_learn_alike_until_something_grows(
    neighbours: Neighbours, tmp_path: Path, unattached: list[str]
) -> None:
    follow(neighbours, {0: (GERMINATE, "slot-1"), 1: (ADVANCE, "slot-1"), 2: (ADVANCE, "slot-1")})
    services = ("--services", neighbours.address, neighbours.address)
    after = run("after", tmp_path, "--epochs", "4", "--checkpoint", "after.pt", *services)
    assert len(unattached) == len(after) == 4
    assert unattached[:2] == after[:2]
    assert unattached[2:] != after[2:]
    transitions = neighbours.experience.episode("after", 0)
    assert [transition.step_id.step for transition in transitions] == [0, 1, 2, 3]
    assert neighbours.experience.ends["after", 0].termination == TERMINATION_HORIZON


def wait(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    """Until it holds, while the process lives."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert process.poll() is None, "the process has ended"
        assert time.monotonic() < deadline, "the process is not ready"
        time.sleep(0.02)


@contextmanager
def policy_server(folder: Path, policy: str) -> Iterator[str]:
    """Tamiyo in a process of its own; where it is."""
    address = folder / "address"
    flags = ["--policy", policy, "--listen", "127.0.0.1:0", "--port-file", str(address)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tamiyo.service", *flags, "--state-dir", str(folder / "tamiyo")],
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait(process, lambda: address.exists() and bool(address.read_text().strip()))
        yield address.read_text().strip()
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_under_a_policy_server_in_a_process_of_its_own_the_script_is_an_episode(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    with policy_server(tmp_path, "random") as policy:
        run("after", tmp_path, "--epochs", "2", "--services", policy, neighbours.address)
    transitions = neighbours.experience.episode("digits", 0)
    assert [transition.step_id.step for transition in transitions] == [0, 1]
    assert {transition.decider for transition in transitions} == {DECIDER_POLICY}
    end = neighbours.experience.ends["digits", 0]
    assert (end.termination, end.steps) == (TERMINATION_HORIZON, 2)


def test_killed_and_run_again_while_seeds_learn_it_prints_what_it_prints_without_them(
    neighbours: Neighbours, tmp_path: Path, unattached: list[str]
) -> None:
    grow = {0: (GERMINATE, "slot-1"), 1: (ADVANCE, "slot-1"), 2: (GERMINATE, "slot-0")}
    follow(neighbours, grow)
    planned = neighbours.policy.decide
    # No answer at step 2: there the script waits until it is killed.
    neighbours.policy.decide = lambda query: (
        None if query.snapshot.step_id.step == 2 else planned(query)
    )
    arguments = ("--epochs", "4", "--services", neighbours.address, neighbours.address)
    process = subprocess.Popen(
        command("after", *arguments),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait(process, lambda: len(neighbours.policy.asked) == 3)
    process.kill()
    printed, _ = process.communicate()
    assert printed.splitlines() == unattached[:2]
    neighbours.policy.decide = planned
    assert run("after", tmp_path, *arguments) == unattached[1:]
    transitions = neighbours.experience.episode("digits", 0)
    assert [transition.step_id.step for transition in transitions] == [0, 1, 2, 3]
    assert neighbours.experience.ends["digits", 0].termination == TERMINATION_HORIZON
