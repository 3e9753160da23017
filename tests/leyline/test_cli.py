"""The command line against real services."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
from tests.leyline.conftest import COMMAND

import kasmina
from leyline.cli import main

if TYPE_CHECKING:
    from tests.leyline.conftest import Up

SMALL = (
    *("--set", "training.precision=fp32"),
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


def test_a_watched_run_tells_its_episodes_every_step_and_the_time_left(finished_run: str) -> None:
    lines = finished_run.splitlines()
    assert [line for line in lines if line.startswith("episode ")] == [
        "episode 0, policy pinned at its first decision",
        "episode 1, policy pinned at its first decision",
    ]
    steps = [line for line in lines if line.strip().startswith("step")]
    assert len(steps) == 6
    assert re.fullmatch(r"  step   1 .*  \[2 of 6, \d+ s left\]", steps[1])
    assert steps[-1].endswith("[6 of 6]")


def test_a_watched_run_ends_with_what_came_of_it_and_a_file_to_run_again(
    stack: Up, finished_run: str
) -> None:
    ending = finished_run[finished_run.index("COMPLETED") :]
    assert "# episode 1: HORIZON, " in ending
    assert ", policy random-1, " in ending
    assert ending.endswith(stack.command("run", "show", "small", "--yaml").stdout)


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


def test_a_run_that_was_shown_as_a_file_can_be_run_again(
    stack: Up, finished_run: str, tmp_path: Path
) -> None:
    shown = stack.command("run", "show", "small", "--yaml").stdout
    file = tmp_path / "small.yaml"
    file.write_text(shown)
    assert stack.command("run", "check", str(file)).stdout == f"{file}: good\n"
    again = stack.command("run", "start", str(file), "--id", "again", "--watch")
    assert again.returncode == 0, again.stderr
    echoed = stack.command("run", "show", "again", "--yaml").stdout
    assert echoed.splitlines()[1:] == shown.splitlines()[1:]
    assert accuracies(stack, "again") == accuracies(stack, "small")
    as_json = json.loads(stack.command("run", "show", "small", "--json").stdout)["spec"]
    file = tmp_path / "small.json"
    file.write_text(json.dumps(as_json, indent="\t"))
    told = stack.command("run", "check", str(file), "--json").stdout
    assert json.loads(told) == as_json


def accuracies(stack: Up, run_id: str) -> list[float]:
    events = stack.command("run", "watch", run_id, "--json").stdout.splitlines()
    completed = [json.loads(event).get("step_completed") for event in events]
    return [step["next_snapshot"]["val_accuracy"] for step in completed if step]


def test_a_list_comes_in_pages(stack: Up, finished_run: str) -> None:
    started = stack.command("run", "start", "digits", *SMALL, "--id", "newest")
    assert started.returncode == 0, started.stderr
    first = stack.command("run", "list", "--limit", "1")
    assert [line.split()[0] for line in first.stdout.splitlines()[1:]] == ["newest"]
    token = first.stderr.split()[-1]
    assert first.stderr == f"more: leyline run list --limit 1 --page-token {token}\n"
    everything = json.loads(stack.command("run", "list", "--limit", "1", "--all", "--json").stdout)
    assert everything["next_page_token"] == ""
    second = stack.command("run", "list", "--limit", "1", "--page-token", token, "--json")
    assert json.loads(second.stdout)["runs"] == everything["runs"][1:2]
    assert {"newest", "small"} <= {run["run_id"] for run in everything["runs"]}


def test_a_network_is_taken_home_in_either_form_and_says_what_it_is(
    stack: Up, finished_run: str, tmp_path: Path
) -> None:
    file = tmp_path / "grown.safetensors"
    done = stack.command("run", "export", "small", "1", "-o", str(file), "--json")
    told = json.loads(done.stdout)
    assert told["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert told["bytes"] == file.stat().st_size
    shown = stack.command("network", "show", str(file)).stdout
    assert "run small, episode 1" in shown
    assert "digits" in shown
    assert re.search(r"slot-2 +2 +(DORMANT|FOSSILIZED)", shown)
    manifest = json.loads(stack.command("network", "show", str(file), "--json").stdout)
    assert manifest["validation_accuracy"] == accuracies(stack, "small")[-1]

    graph = tmp_path / "grown.onnx"
    done = stack.command("run", "export", "small", "1", "--format", "onnx", "-o", str(graph))
    assert done.returncode == 0, done.stderr
    images = np.zeros((4, *manifest["image"]), np.uint8)
    (logits,) = onnxruntime.InferenceSession(graph).run(None, {"images": images})
    expected = kasmina.load_network(file).classify(torch.from_numpy(images))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grown.onnx", "grown.safetensors"]


def test_a_network_is_evaluated_on_the_split_that_is_asked_for(
    stack: Up, finished_run: str
) -> None:
    found = stack.command("run", "evaluate", "small", "--split", "validation", "--json")
    facts = json.loads(found.stdout)
    assert (facts["episode_index"], facts["split"], facts["images"]) == (1, "validation", 100)
    assert facts["accuracy"] == accuracies(stack, "small")[-1]
    shown = stack.command("run", "evaluate", "small", "0").stdout
    assert "test, 360 images" in shown


def test_an_episode_goes_on_from_a_step_under_a_plan(stack: Up) -> None:
    started = stack.command(
        *("run", "start", "digits", *SMALL, "--set", "keep_checkpoints=true"),
        *("--set", "policy.plan={}", "--id", "parent", "--watch"),
    )
    assert started.returncode == 0, started.stderr
    forked = stack.command(
        *("run", "fork", "parent", "0", "1", "--plan", "0:germinate:slot-1"),
        *("--id", "what-if", "--watch"),
    )
    assert forked.returncode == 0, forked.stderr
    assert "GERMINATE slot-1" in forked.stdout
    assert "[2 of 2]" in forked.stdout
    same = stack.command("run", "fork", "parent", "0", "1", "--plan", "wait", "--watch")
    assert same.returncode == 0, same.stderr
    run_id = json.loads(stack.command("run", "list", "--limit", "1", "--json").stdout)
    assert accuracies(stack, run_id["runs"][0]["run_id"]) == accuracies(stack, "parent")[1:]


def test_mistakes_in_a_file_are_named_before_any_service_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("dataset: {name: digits}\ntraining:\n  horizn: 3\n  batch_size: 70000\n")
    for command in ("start", "check"):
        done = subprocess.run(
            [*COMMAND, "run", command, str(file), "--set", "seed=x"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "leyline: 2 mistakes",
            f"{file}:3: training.horizn: there is no such field; did you mean horizon?",
            f"{file}: seed: must be a whole number, and not 'x'",
        ]


def test_experience_is_counted(stack: Up, finished_run: str) -> None:
    counted = json.loads(stack.command("experience", "stats", "--run", "small", "--json").stdout)
    assert (counted["episodes"], counted["transitions"]) == ("2", "6")
    assert "random-1" in stack.command("experience", "stats").stdout


def test_stored_episodes_are_listed_in_pages(stack: Up, finished_run: str) -> None:
    of_run = ("experience", "list", "--run", "small", "--ended")
    shown = stack.command(*of_run, "--limit", "1")
    assert re.search(r"small +1 +random +- +3 +HORIZON +20\d\d-", shown.stdout)
    token = shown.stderr.split()[-1]
    rest = json.loads(stack.command(*of_run, "--page-token", token, "--json").stdout)
    assert [episode["head"]["episode_index"] for episode in rest["episodes"]] == [0]
    every = stack.command(*of_run, "--limit", "1", "--all", "--since", "1h", "--json")
    assert len(json.loads(every.stdout)["episodes"]) == 2
    none = json.loads(stack.command(*of_run, "--until", "2026-01-31", "--json").stdout)
    assert none == {"episodes": [], "next_page_token": ""}
    of_version = stack.command("experience", "list", "--version", "nobody", "--json")
    assert json.loads(of_version.stdout)["episodes"] == []


@pytest.mark.parametrize("time", ["yesterday", "7", "2026-13-01", "1960-01-01", "999999d"])
def test_a_time_that_is_none_is_refused_with_how_to_write_one(
    capsys: pytest.CaptureFixture[str], time: str
) -> None:
    assert main(["experience", "list", "--since", time]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "is no time; write 2026-01-31" in said or "is before 1970" in said


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


def test_a_watch_goes_on_when_kasmina_is_killed_and_comes_back(stack: Up) -> None:
    started = stack.command(
        *("run", "start", "digits", *SMALL, "--set", "training.horizon=60", "--id", "broken")
    )
    assert started.returncode == 0, started.stderr
    with subprocess.Popen(
        [*COMMAND, "run", "watch", "broken", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=stack.environment,
    ) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        lines = []
        for line in watch.stdout:
            lines.append(line)
            if "step_completed" in line:
                break
        os.kill(stack.service_pids()["kasmina"], signal.SIGKILL)
        # Not by communicate(): it would not know of what was read ahead of the last line.
        lines.extend(watch.stdout)
        said = watch.stderr.read()
    events = [json.loads(line) for line in lines]
    assert watch.returncode == 0, said
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert "trying again in 0.2 s" in said
    completed = [
        event["step_completed"]["step_id"] for event in events if "step_completed" in event
    ]
    assert [step["step"] for step in completed] == list(range(60))


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
    [("training", "training: is not FIELD=VALUE"), ("speed=3", "speed: there is no such field")],
)
def test_a_change_that_the_contract_does_not_have_is_refused(
    capsys: pytest.CaptureFixture[str], change: str, complaint: str
) -> None:
    assert main(["run", "start", "digits", "--set", change]) == 2
    assert complaint in capsys.readouterr().err


def test_every_command_shows_examples_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    commands = """up, demo, serve, health, policy list, policy show, policy activate,
        policy roll-back, policy collect-garbage, policy import, experience stats,
        experience list, experience backup, experience export, experience import, run start,
        run show, run check, run list, run watch, run cancel, run fork, run evaluate, run export,
        network show, training start, training show, training stop"""
    for command in commands.split(","):
        assert main([*command.split(), "--help"]) == 0
        assert f"leyline {' '.join(command.split())}" in capsys.readouterr().out
