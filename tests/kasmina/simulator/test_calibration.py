"""What the shipped policies score on the shipped families, and the command that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kasmina.simulator.episodes import family

from kasmina.simulator.__main__ import main
from kasmina.simulator.calibration import calibrate
from kasmina.simulator.parameters import family_bytes
from kasmina.simulator.policies import POLICIES
from kasmina.simulator.situation import SimulationSeeds

EPISODES = [SimulationSeeds.of_episode(1, index) for index in range(200)]


def mean_score(policy: str, episodes: int = 200) -> float:
    found = calibrate(family(), EPISODES[:episodes], POLICIES[policy])
    assert found.mean is not None
    print(f"\n{policy}: {found.mean:.3f} ± {found.standard_error:.3f} (s.e.), {episodes} episodes")
    return found.mean


def test_the_heuristic_gets_nine_tenths_of_what_there_is_to_gain() -> None:
    assert mean_score("heuristic") >= 0.9


def test_chance_gets_less_than_a_third() -> None:
    assert mean_score("random") <= 0.3


def test_waiting_is_where_scores_begin() -> None:
    assert mean_score("wait", episodes=20) == pytest.approx(0.0, abs=1e-9)


def test_the_command_reports_what_it_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--episodes", "20", "--policy", "heuristic", "--slots", "6", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["family"], report["slots"], report["episodes"]) == ("default", 6, 20)
    assert [row["policy"] for row in report["policies"]] == ["heuristic"]
    assert report["steps_a_second"] > 0
    assert main(["--episodes", "5"]) == 0
    text = capsys.readouterr().out
    assert "steps a second" in text
    for policy in ("random", "heuristic", "clairvoyant"):
        assert policy in text


def test_a_family_of_ones_own_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(family_bytes("default").replace(b"horizon = 30", b"horizon = 12"))
    assert main(["--file", str(path), "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["horizon"] == 12


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is no TOML", "is not a family"),
        (b"[episode]\nslots = 3\n", "host: Field required"),
    ],
)
def test_a_file_that_is_no_family_is_said_in_one_line(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    assert main(["--file", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kasmina.simulator: ")
    assert words in said
    assert said.count("\n") == 1


def test_the_command_is_a_module_to_run(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kasmina.simulator", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    good = run("--episodes", "1", "--policy", "wait", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["policies"][0]["gain_points"] == pytest.approx(0.0, abs=1e-7)
    bad = run("--file", str(tmp_path / "absent.toml"))
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "cannot read the family" in bad.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--slots", "65"], "episode.slots"),
        (["--horizon", "20000"], "episode.horizon"),
    ],
)
def test_an_episode_that_cannot_be_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--episodes", "0"], ["--policy", "best"], ["--family", "mine"]]
)
def test_arguments_that_cannot_be_end_with_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_where_nothing_can_be_gained_there_is_no_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--horizon", "3", "--episodes", "2", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out)["policies"]:
        assert (row["score"], row["standard_error"], row["bound_points"]) == (None, None, 0.0)
    assert main(["--horizon", "3", "--episodes", "2"]) == 0
    assert "nan" not in capsys.readouterr().out
