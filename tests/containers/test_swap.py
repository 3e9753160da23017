"""The policy service is swapped in the middle of a run, which ends complete.

For the one in Go by one override, and for one of a user's own by one variable.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from tests.containers.stack import Stack, docker
from tests.containers.test_faults import HORIZON, settled, spec
from tests.e2e.readme import ROOT

from leyline.client import Experience
from leyline.v1.experience_pb2 import ReadEpisodesRequest

pytestmark = pytest.mark.timeout(1800)

EPISODES = 6


def test_a_run_goes_on_with_the_policy_in_go_and_with_one_of_ones_own(running: Stack) -> None:
    own = f"{running.project}-policy"
    docker("build", "--quiet", "--tag", own, str(ROOT / "examples/policies"))
    try:
        running.start("swapped", spec(EPISODES))
        running.steps("swapped", HORIZON + 1)
        running.with_overrides("tamiyo-go").up("tamiyo")
        running.steps("swapped", 3 * HORIZON)
        running.with_environment(TAMIYO_IMAGE=own).up("tamiyo")
        settled(running, "swapped", EPISODES)
    finally:
        running.compose("rm", "--force", "--stop", "tamiyo")
        docker("rmi", own)

    async def versions() -> Counter[str]:
        async with Experience(running.address("simic"), running.credentials()) as experience:
            return Counter(
                [
                    record.transition.decision.policy_version
                    async for record in experience.read(ReadEpisodesRequest(run_id="swapped"))
                    if record.HasField("transition")
                ]
            )

    made = asyncio.run(versions())
    print(f"decisions by version: {dict(made)}")
    assert any(version.startswith("heuristic") for version in made)
    assert "one-at-a-time-1" in made
    assert any(version.startswith("slot-shared") for version in made)
