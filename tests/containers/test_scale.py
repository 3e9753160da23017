"""Four trainers, and two Tamiyos among which their episodes are divided; one dies under load."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests.containers.stack import Stack, docker, docker_json, eventually, stack

pytestmark = pytest.mark.timeout(1800)

TRAINERS = ("kasmina", "kasmina-2", "kasmina-3", "kasmina-4")
HORIZON = 12
LEAST_SHARE = 0.3
SCRAPE = """
import ssl, urllib.request
context = ssl.create_default_context(cafile="/certs/ca.pem")
context.load_cert_chain("/certs/certificate.pem", "/certs/key.pem")
print(urllib.request.urlopen("https://127.0.0.1:9152/metrics", context=context).read().decode())
"""


def start(one: Stack, run_id: str, episodes: int) -> None:
    """Give each trainer its share of a run of short intervals: decisions are what it is about."""
    for number, trainer in enumerate(TRAINERS):
        settings = {
            "episodes": episodes // len(TRAINERS),
            "first_episode": number,
            "episode_stride": len(TRAINERS),
            "training.horizon": HORIZON,
            "training.batch_size": 8,
            "training.interval_batches": 2,
            "training.precision": "PRECISION_FP32",
            "dataset.validation_images": 20,
        }
        changes = [f"--set={name}={value}" for name, value in settings.items()]
        at = ("--id", run_id, "--kasmina", f"{trainer}:50051")
        one.cli("run", "start", "digits", *at, *changes)


def ended(one: Stack, run_id: str) -> list[dict[str, Any]]:
    """The shares of a run, once all of them are over and stored."""

    def look() -> list[dict[str, Any]] | None:
        shares = [
            one.json("run", "show", run_id, "--kasmina", f"{trainer}:50051") for trainer in TRAINERS
        ]
        over = all(
            share["state"] not in ("RUN_STATE_QUEUED", "RUN_STATE_RUNNING", "RUN_STATE_PAUSED")
            and share["outbox_depth"] == "0"
            for share in shares
        )
        return shares if over else None

    return eventually(look, f"all shares of {run_id} end", 1200, every_s=2)


def decisions(container: str) -> float:
    """How often a Tamiyo has decided, by its own count."""
    page = docker("exec", container, "python3", "-c", SCRAPE)
    counts = re.findall(r"^leyline_decisions_total\{[^}]*\} (\S+)$", page, re.MULTILINE)
    return sum(map(float, counts))


def test_episodes_are_divided_among_policy_servers_and_survive_one_of_them(folder: Path) -> None:
    with stack(folder, ["scale"], LEYLINE_KASMINA_THREADS="1") as one:
        one.up()
        tamiyos = one.containers("tamiyo")
        assert len(tamiyos) == 2

        start(one, "divided", 104)
        shares = ended(one, "divided")
        assert [share["state"] for share in shares] == ["RUN_STATE_COMPLETED"] * len(TRAINERS)
        assert sum(int(share["steps_completed"]) for share in shares) == 104 * HORIZON
        made = [decisions(tamiyo) for tamiyo in tamiyos]
        print(f"decisions: {made}, shares {[round(count / sum(made), 3) for count in made]}")
        assert min(made) >= LEAST_SHARE * sum(made)
        assert sum(made) >= 104 * HORIZON

        start(one, "survived", 40)
        time.sleep(3)
        before = docker_json("inspect", tamiyos[0])["RestartCount"]
        docker("exec", tamiyos[0], "sh", "-c", "kill -9 -1", check=False)
        shares = ended(one, "survived")
        assert docker_json("inspect", tamiyos[0])["RestartCount"] > before
        assert [share["state"] for share in shares] == ["RUN_STATE_COMPLETED"] * len(TRAINERS)
        counted = json.loads(one.cli("experience", "stats", "--run", "survived", "--json").stdout)
        print(f"with one of two killed: {counted['transitions']} of {40 * HORIZON} steps stored")
        assert int(counted["transitions"]) == 40 * HORIZON
