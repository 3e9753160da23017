"""The command line against real services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leyline.cli import main

if TYPE_CHECKING:
    from tests.leyline.conftest import Up

SMALL = (
    *("--set", "training.horizon=3", "--set", "training.interval_batches=2"),
    *("--set", "training.batch_size=32", "--set", "dataset.validation_images=100"),
)


@pytest.fixture(scope="module")
def finished_run(stack: Up) -> str:
    done = stack.command(
        "run", "start", "digits", *SMALL, "--set", "episodes=2", "--id", "small", "--watch"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_watched_run_tells_its_episodes_and_every_step(finished_run: str) -> None:
    lines = finished_run.splitlines()
    assert lines[-1] == "COMPLETED"
    assert [line for line in lines if line.startswith("episode")] == [
        "episode 0, policy pinned at its first decision",
        "episode 1, policy pinned at its first decision",
    ]
    assert sum(line.strip().startswith("step") for line in lines) == 6


def test_a_run_can_be_watched_again_and_from_the_middle_on(stack: Up, finished_run: str) -> None:
    everything = stack.command("run", "watch", "small", "--json").stdout.splitlines()
    events = [json.loads(line) for line in everything]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    rest = stack.command("run", "watch", "small", "--json", "--after", "5").stdout.splitlines()
    assert rest == everything[5:]


def test_runs_are_listed_and_shown(stack: Up, finished_run: str) -> None:
    assert "small" in stack.command("run", "list").stdout
    shown = json.loads(stack.command("run", "show", "small", "--json").stdout)
    assert shown["state"] == "RUN_STATE_COMPLETED"
    assert shown["steps_completed"] == "6"
    assert "2 of 2 ended" in stack.command("run", "show", "small").stdout


def test_a_spec_that_was_shown_can_be_started_again(
    stack: Up, finished_run: str, tmp_path: Path
) -> None:
    shown = json.loads(stack.command("run", "show", "small", "--json").stdout)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(shown["spec"]))
    again = stack.command("run", "start", "--spec", str(spec), "--id", "again", "--json")
    assert json.loads(again.stdout)["spec"] == shown["spec"]


def test_experience_is_counted(stack: Up, finished_run: str) -> None:
    counted = json.loads(stack.command("experience", "stats", "--run", "small", "--json").stdout)
    assert (counted["episodes"], counted["transitions"]) == ("2", "6")
    assert "random-1" in stack.command("experience", "stats").stdout


def test_a_running_run_can_be_cancelled(stack: Up) -> None:
    started = stack.command(
        "run", "start", "digits", *SMALL, "--set", "episodes=1000", "--id", "endless"
    )
    assert started.returncode == 0, started.stderr
    assert stack.command("run", "cancel", "endless", "--reason", "enough").returncode == 0
    watched = stack.command("run", "watch", "endless")
    assert watched.stdout.splitlines()[-1].startswith("CANCELLED")
    assert watched.returncode == 1


def test_a_training_is_started_shown_and_stopped(stack: Up) -> None:
    started = stack.command(
        "training", "start", "--preset", "demo", "--id", "first", "--set", "max_updates=3", "--json"
    )
    assert json.loads(started.stdout)["plan"]["max_updates"] == 3
    assert "of 3" in stack.command("training", "show").stdout
    assert stack.command("training", "stop").returncode == 0
    again = stack.command("training", "start", "--preset", "nonsense")
    assert again.returncode == 1
    assert "plan.preset" in again.stderr


@pytest.mark.parametrize("name", ["kasmina", "tamiyo", "simic"])
def test_health_says_who_serves(stack: Up, name: str) -> None:
    done = stack.command("health", stack.addresses[name])
    assert (done.returncode, done.stdout) == (0, "SERVING\n")


def test_an_unknown_name_is_refused_with_the_field_and_the_names_that_there_are(stack: Up) -> None:
    done = stack.command("run", "start", "digits", "--set", "host.name=strong-cnn")
    assert done.returncode == 1
    assert "spec.host.name" in done.stderr
    assert "weak-cnn" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_there_is_not_is_said_in_one_line(stack: Up) -> None:
    done = stack.command("run", "show", "nobody")
    assert done.returncode == 1
    assert "RUN_NOT_FOUND" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_service_that_is_away_is_said_in_one_line(stack: Up) -> None:
    done = stack.command("run", "list", "--kasmina", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr == "leyline: no service answers at 127.0.0.1:1 (UNAVAILABLE)\n"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [("training", "is not FIELD=VALUE"), ("speed=3", 'no field named "speed"')],
)
def test_a_change_that_the_contract_does_not_have_is_refused(
    capsys: pytest.CaptureFixture[str], change: str, complaint: str
) -> None:
    assert main(["run", "start", "digits", "--set", change]) == 2
    assert complaint in capsys.readouterr().err


def test_every_command_shows_examples_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    commands = """up, demo, serve, health, policies, experience stats, run start, run show,
        run list, run watch, run cancel, training start, training show, training stop"""
    for command in commands.split(","):
        assert main([*command.split(), "--help"]) == 0
        assert f"leyline {' '.join(command.split())}" in capsys.readouterr().out
