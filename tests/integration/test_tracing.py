"""One trace tells of a step at all three services, over messages, an outbox and a restart."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.collecting import Told, collecting, without_opentelemetry
from tests.integration.stack import NAMES, Stack, eventually
from tests.kasmina.running import simulated_spec

from leyline.client import Trainer
from leyline.v1.trainer_pb2 import RUN_STATE_COMPLETED

# Each starts the three services at least once.
pytestmark = pytest.mark.timeout(900)

HORIZON = 4
OUTBOX = "SELECT count(*) FROM outbox"
FALLBACKS = "SELECT count(*) FROM steps WHERE decider = 2"

Span = tuple[str, str]
"""Whose it is, and what is done."""


@pytest.fixture
def stack(stack: Stack) -> Stack:
    """With a policy that needs no Simic to decide."""
    stack.policy = "random"
    return stack


def told_to(endpoint: str) -> dict[str, str]:
    """An environment in which every service tells everything to a collector."""
    return {
        f"LEYLINE_{name.upper()}_TRACE_{setting}": value
        for name in NAMES
        for setting, value in (("ENDPOINT", endpoint), ("RATIO", "1"))
    }


async def played(stack: Stack) -> None:
    """Plays a run to its end."""
    async with Trainer(stack.addresses["kasmina"]) as trainer:
        await trainer.start(simulated_spec(HORIZON), "run")
        async for _ in trainer.watch("run"):
            pass
        run = await trainer.get("run")
        assert run.state == RUN_STATE_COMPLETED, run.status_message


async def stored(stack: Stack) -> None:
    await eventually(lambda: stack.count(stack.journal, OUTBOX) == 0, "the outbox drains")


def steps_of(spans: Collection[Told]) -> dict[int, dict[Span, Told]]:
    """Spans of steps, by step."""
    found: dict[int, dict[Span, Told]] = defaultdict(dict)
    for each in spans:
        if "leyline.step" in each.facts:
            found[int(each.facts["leyline.step"])][each.service, each.name] = each
    return found


async def test_a_step_is_one_trace_from_the_decision_through_the_policy_to_where_it_is_stored(
    stack: Stack,
) -> None:
    async with collecting() as collector:
        await stack.up(**told_to(collector.address))
        await played(stack)
        await stored(stack)
        spans = await collector.told(
            "every step at all three",
            lambda spans: sum(map(len, steps_of(spans).values())) >= 5 * HORIZON,
        )
    steps = steps_of(spans)
    assert set(steps) == set(range(HORIZON))
    for number, of_step in steps.items():
        step = of_step["kasmina", "step"]
        asked = of_step["kasmina", "decide"]
        parents = {
            ("kasmina", "step"): "",
            ("kasmina", "decide"): step.span,
            ("tamiyo", "decide"): asked.span,
            ("kasmina", "train"): step.span,
            ("simic", "store"): step.span,
        }
        assert {key: each.parent for key, each in of_step.items()} == parents
        assert {each.trace for each in of_step.values()} == {step.trace}
        for each in of_step.values():
            assert each.facts["leyline.run_id"] == "run"
            assert each.facts["leyline.episode"] == 0
            assert not each.failed
        assert step.facts["leyline.action"] in ("WAIT", "GERMINATE", "ADVANCE", "CULL")
        assert of_step["tamiyo", "decide"].facts["leyline.policy_version"] == "random-1"
        assert of_step["simic", "store"].ended_ns > step.began_ns, number
    assert len({of_step["kasmina", "step"].trace for of_step in steps.values()}) == HORIZON
    calls = {(each.service, each.kind, each.name) for each in spans if "rpc.method" in each.facts}
    assert ("kasmina", "SERVER", "leyline.v1.TrainerService/StartRun") in calls
    begin = "leyline.v1.ExperienceService/BeginEpisode"
    assert {("kasmina", "CLIENT", begin), ("simic", "SERVER", begin)} <= calls


async def test_what_waits_in_the_outbox_keeps_its_trace_when_its_sender_is_killed(
    stack: Stack,
) -> None:
    async with collecting() as collector:
        environment = told_to(collector.address)
        await stack.up("tamiyo", "kasmina", **environment)
        await played(stack)
        steps = steps_of(
            await collector.told(
                "every step",
                lambda spans: [each.name for each in spans].count("step") == HORIZON,
            )
        )
        stack.kill("kasmina")
        await stack.up("simic", "kasmina", **environment)
        await stored(stack)
        spans = await collector.told(
            "every storing",
            lambda spans: (
                [each.service for each in spans if each.name == "store"].count("simic") >= HORIZON
            ),
        )
    for number, of_step in steps_of(spans).items():
        step = steps[number]["kasmina", "step"]
        assert (of_step["simic", "store"].trace, of_step["simic", "store"].parent) == (
            step.trace,
            step.span,
        )


@pytest.fixture(params=["nobody listens", "nobody answers"])
def away(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a collector should be."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        if request.param == "nobody listens":
            listener.close()
        yield address


async def test_a_collector_that_is_away_keeps_nobody_from_anything(stack: Stack, away: str) -> None:
    await stack.up(**told_to(away))
    await played(stack)
    await stored(stack)
    assert stack.count(stack.journal, FALLBACKS) == 0
    for name in NAMES:
        stack.processes[name].terminate()
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(stack.processes[name].wait) == 0


async def test_without_an_endpoint_nothing_of_opentelemetry_is_touched(
    stack: Stack, tmp_path: Path
) -> None:
    await stack.up(**without_opentelemetry(tmp_path))
    await played(stack)
    await stored(stack)
