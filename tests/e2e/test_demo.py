"""`leyline demo` as a newcomer runs it, on the data set that needs no files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.readme import DEMO as README_DEMO
from tests.e2e.readme import ROOT
from tests.processes import processes_told

DEMO = (sys.executable, "-m", "leyline.cli", "demo")


@pytest.fixture
def without_cifar(tmp_path: Path) -> dict[str, str]:
    """An environment in which CIFAR-100 is nowhere."""
    nowhere = tmp_path / "no-data"
    nowhere.mkdir()
    return {**os.environ, "LEYLINE_DATA": str(nowhere)}


@pytest.mark.timeout(900)
def test_the_demo_of_the_readme_runs_learns_and_adds_up(without_cifar: dict[str, str]) -> None:
    # On CIFAR-100 it is run in containers.
    done = subprocess.run(
        ["bash", "-c", README_DEMO],
        cwd=ROOT,
        env=without_cifar,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not on cifar100: " in done.stdout
    assert "Kasmina trains on digits" in done.stdout
    [shown] = re.findall(r"^run directory +(.+)$", done.stdout, re.MULTILINE)
    directory = ROOT / shown
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["problems"] == []
    assert summary["dataset"] == "digits"
    assert len(summary["episodes"]) == 10
    assert summary["steps"] == summary["transitions_stored"] == 240
    assert sum(count["steps"] for count in summary["decisions"]) == 240
    learned = [version for version in summary["versions"] if version["gradient_steps"] > 0]
    assert len(learned) == 5
    assert sum(version["episodes"] for version in summary["versions"]) == 10
    assert (ROOT / summary["plot"]).read_bytes().startswith(b"\x89PNG")
    assert processes_told(str(directory)) == []


def test_ctrl_c_stops_the_demo_and_all_that_it_started(
    tmp_path: Path, without_cifar: dict[str, str]
) -> None:
    directory = tmp_path / "demo"
    process = subprocess.Popen(
        [*DEMO, "--dir", str(directory)],
        env=without_cifar,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any(line.startswith("episode  1/10 step") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "leyline: broken off\n"
    deadline = time.monotonic() + 30
    while processes_told(str(directory)):  # a worker ends when it sees that its service has
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_service_that_cannot_start_is_shown_with_its_own_words(
    tmp_path: Path, without_cifar: dict[str, str]
) -> None:
    done = subprocess.run(
        [*DEMO, "--dir", str(tmp_path / "demo")],
        env={**without_cifar, "LEYLINE_SIMIC_LOG_LEVEL": "whisper"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "LEYLINE_SIMIC_LOG_LEVEL" in done.stderr
    assert "simic ended with exit code 2 before it could serve" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_told(str(tmp_path / "demo")) == []
