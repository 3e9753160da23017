"""The Go client against the services as they run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.go import build, needs_go
from tests.integration.stack import Stack

from leyline.client import Learner
from leyline.v1.learner_pb2 import TrainingPlan

EPISODES = 3


@needs_go
@pytest.mark.timeout(600)
async def test_the_go_example_watches_a_run_to_its_end_and_lists_the_policies(
    stack: Stack, tmp_path: Path
) -> None:
    program = build("clients/go/examples/watch", tmp_path)
    await stack.up()
    async with Learner(stack.addresses["simic"]) as learner:
        await learner.start(TrainingPlan(preset="demo", seed=5), "lesson")
    while await stack.health("tamiyo") != "SERVING":  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.1)
    watching = await asyncio.create_subprocess_exec(
        program,
        *("--trainer", stack.addresses["kasmina"], "--registry", stack.addresses["simic"]),
        *("--run-id", "from-go", "--episodes", str(EPISODES)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = (text.decode() for text in await watching.communicate())
    assert watching.returncode == 0, complaints
    lines = said.splitlines()
    assert lines[0] == "run from-go"
    ended = [line for line in lines if line.startswith("episode")]
    assert ended == [f"episode {index}: HORIZON after 30 steps" for index in range(EPISODES)]
    assert any(line.strip() == "state COMPLETED" for line in lines)
    (version,) = stack.ask(stack.store, "SELECT policy_version FROM training_updates LIMIT 1")[0]
    assert f"policy {version}" in said
    assert sum(line.endswith("(active)") for line in lines) == 1
