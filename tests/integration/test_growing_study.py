"""`make study-growing` in small: killed in the middle, and gone on with to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.processes import processes_told

STUDY = (sys.executable, "-m", "tests.studies.growing", "--preset", "digits")
# Two updates end the training long before its time does, whatever machine this is.
SMALL = ("--training-minutes", "30", "--updates", "2", "--search-episodes", "3", "--episodes", "2")
ARMS = 9


def begin(folder: Path, nowhere: Path, *more: str) -> subprocess.Popen[str]:
    """The study where CIFAR-100 is nowhere."""
    return subprocess.Popen(
        [*STUDY, "--folder", str(folder), *SMALL, *more],
        env={**os.environ, "LEYLINE_DATA": str(nowhere)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_said(process: subprocess.Popen[str], text: str) -> None:
    """Reads what it says until a line has the text."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError("".join(said))


@pytest.mark.timeout(600)
def test_the_study_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    folder, nowhere = tmp_path / "study", tmp_path / "no-data"
    nowhere.mkdir()
    killed = begin(folder, nowhere)
    until_said(killed, "train: 0.")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    deadline = time.monotonic() + 60
    while processes_told("serve", str(folder)):
        assert time.monotonic() < deadline, "a service outlived the study"
        time.sleep(0.05)
    before = json.loads((folder / "study.json").read_text())
    assert before["version"] == ""

    out = tmp_path / "growing.json"
    text, said = (again := begin(folder, nowhere, "--out", str(out))).communicate()
    assert again.returncode == 0, said
    assert processes_told("serve", str(folder)) == []
    assert "2 paired episodes an arm, situations `mixed`" in text
    record = json.loads(out.read_text())
    assert len(record["updates"]) == 2
    assert record["seconds"]["train"] > before["seconds"].get("train", 0.0)
    assert set(record["seconds"]) == {"train", "search", "compare"}
    assert record["schedule"]
    episodes = record["compared"]["mixed"]["episodes"]
    assert len(episodes) == ARMS
    for played in episodes.values():
        assert [one["situation"] for one in played] == [
            one["situation"] for one in episodes["wait"]
        ]
    assert episodes["wait"][0]["situation"] != episodes["wait"][1]["situation"]
    assert {one["acts"] for one in episodes["slot-2"]} == {"G2 A2 A2 A2 W W"}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    other = begin(folder, nowhere, "--seed", "1")
    _, said = other.communicate()
    assert other.returncode == 1
    assert "seed 0, now 1" in said
