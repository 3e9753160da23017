"""A shadow is asked the same as the served policy, logged, and never noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import structlog
from prometheus_client import CollectorRegistry
from tests.tamiyo.networks import Network
from tests.tamiyo.queries import query
from tests.tamiyo.registry_server import RegistryServer
from tests.tamiyo.running import running, serves, until

from chassis.address import Address
from chassis.process import ConfigurationError
from chassis.settings import load
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import ActionType, Decision, DecisionQuery
from leyline.v1.policy_pb2 import DecideRequest, StreamDecisionsRequest
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from tamiyo.metrics import PolicyMetrics
from tamiyo.policies.uniform import RandomPolicy
from tamiyo.policies.wait import WaitPolicy
from tamiyo.policy import Choice, Policy, decision_from
from tamiyo.settings import TamiyoSettings
from tamiyo.shadow import MOST_WAITING, Shadow

QUERIES = [query(step) for step in range(40)]


async def decisions(channel: grpc.aio.Channel, queries: Sequence[DecisionQuery]) -> list[Decision]:
    """What the server decides."""
    stub = PolicyServiceStub(channel)
    return [(await stub.Decide(DecideRequest(query=asked))).decision for asked in queries]


def shadows(lines: Sequence[Any]) -> list[Any]:
    """The comparisons among the lines of a log."""
    return [line for line in lines if line["event"] == "shadow decision"]


async def test_what_the_shadow_would_have_decided_is_logged_and_the_served_policy_decides(
    tmp_path: Path,
) -> None:
    random, wait = RandomPolicy(SEED_SPEC), WaitPolicy(SEED_SPEC)
    with structlog.testing.capture_logs() as lines:
        async with running(tmp_path, policy="wait", shadow="random") as channel:
            answered = await decisions(channel, QUERIES)
            await until(lambda: len(shadows(lines)) == len(QUERIES))
    assert answered == [decision_from(wait, asked, *wait.decide([asked])) for asked in QUERIES]
    for asked, line in zip(QUERIES, shadows(lines), strict=True):
        would = decision_from(random, asked, *random.decide([asked]))
        assert (line["run_id"], line["step"]) == (
            asked.snapshot.step_id.run_id,
            asked.snapshot.step_id.step,
        )
        assert (line["served_version"], line["served_action"]) == ("wait-1", "WAIT")
        assert line["shadow_version"] == "random-1"
        assert line["shadow_action"] == ActionType.Name(would.action_type)[len("ACTION_TYPE_") :]
        assert line.get("shadow_slot_id", "") == would.slot_id
        assert line["shadow_log_prob"] == would.log_prob
        assert line["agrees"] == (line["shadow_action"] == "WAIT")


async def test_a_candidate_of_the_registry_is_compared_with_the_active_version(
    tmp_path: Path,
) -> None:
    active, candidate = Network(seed=1).version(), Network(seed=2).version()
    async with RegistryServer() as registry:
        await registry.activate(candidate)
        await registry.activate(active)
        at = Address.parse(registry.address)
        with structlog.testing.capture_logs() as lines:
            async with running(tmp_path, registry=at, shadow=candidate.name) as channel:
                await serves(channel, active.name)
                answered = await decisions(channel, QUERIES)
                await until(lambda: len(shadows(lines)) == len(QUERIES))
            async with running(tmp_path, registry=at, shadow=active.name) as channel:
                await serves(channel, active.name)
                assert await decisions(channel, QUERIES) == answered
                await until(lambda: len(shadows(lines)) == 2 * len(QUERIES))
    compared = shadows(lines)
    assert {line["served_version"] for line in compared} == {active.name}
    assert {line["shadow_version"] for line in compared[:40]} == {candidate.name}
    assert not all(line["agrees"] for line in compared[:40])
    assert all(line["agrees"] for line in compared[40:]), "a version agrees with itself"


async def test_a_shadow_that_is_not_to_be_had_costs_a_warning(tmp_path: Path) -> None:
    version = Network(seed=1).version()
    async with RegistryServer() as registry:
        await registry.activate(version)
        at = Address.parse(registry.address)
        with structlog.testing.capture_logs() as lines:
            async with running(tmp_path, registry=at, shadow="mlp-000000000000") as channel:
                await serves(channel, version.name)
                answered = await decisions(channel, QUERIES)
    assert {decision.policy_version for decision in answered} == {version.name}
    (warning,) = (line for line in lines if line["event"] == "shadow failed")
    assert warning["reason"] == "POLICY_VERSION_NOT_FOUND"


async def test_a_shadow_that_raises_costs_a_warning_and_is_counted() -> None:
    class Broken(WaitPolicy):
        def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
            if any(asked.snapshot.step_id.step % 2 for asked in queries):
                raise RuntimeError("no idea")
            return super().decide(queries)

    async def broken() -> Policy:
        return Broken(SEED_SPEC)

    shadow = Shadow(broken, PolicyMetrics(CollectorRegistry()))
    shadow.start()
    with structlog.testing.capture_logs() as lines:
        for asked in QUERIES:
            shadow.ask(asked, Decision())
        await until(lambda: len(shadows(lines)) == len(QUERIES) // 2)
    await shadow.close()
    (warning,) = (line for line in lines if line["event"] == "shadow failed")
    assert (warning["reason"], warning["problem"]) == ("RuntimeError", "no idea")
    assert sum(line["failed"] for line in shadows(lines)) == len(QUERIES) // 2 - 1, (
        "all but the last"
    )


async def test_a_shadow_that_is_slow_is_asked_less() -> None:
    found = asyncio.Event()

    async def slow() -> Policy:
        await found.wait()
        return WaitPolicy(SEED_SPEC)

    shadow = Shadow(slow, PolicyMetrics(CollectorRegistry()))
    shadow.start()
    with structlog.testing.capture_logs() as lines:
        for step in range(MOST_WAITING + 10):
            shadow.ask(query(step), Decision())
        found.set()
        await until(lambda: len(lines) == MOST_WAITING)
    await shadow.close()
    assert sum(line["skipped"] for line in lines) == 10


async def test_a_shadow_s_log_lines_do_not_bear_the_id_of_some_call() -> None:
    bound: list[dict[str, Any]] = []

    class Listening(WaitPolicy):
        def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
            bound.append(structlog.contextvars.get_contextvars())
            return super().decide(queries)

    async def listening() -> Policy:
        return Listening(SEED_SPEC)

    shadow = Shadow(listening, PolicyMetrics(CollectorRegistry()))
    shadow.start()
    with structlog.contextvars.bound_contextvars(request_id="one"):
        shadow.ask(query(), Decision())
    await until(lambda: len(bound) == 1)
    await shadow.close()
    assert bound == [{}]


async def test_a_shadow_takes_no_place_in_the_queue_of_the_served_policy(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with running(tmp_path, policy="heuristic", shadow="random", queue_size=8) as channel:
            stub = PolicyServiceStub(channel)
            streams: list[Any] = [stub.StreamDecisions() for _ in range(8)]
            for step in range(20):
                for stream in streams:
                    await stream.write(StreamDecisionsRequest(query=query(step)))
                for stream in streams:
                    answer = await stream.read()
                    assert answer.HasField("decision"), answer.error
            await until(lambda: sum(1 + line["skipped"] for line in shadows(lines)) == 8 * 20)


async def test_a_shadow_does_not_drive_out_versions_that_episodes_are_pinned_to(
    tmp_path: Path,
) -> None:
    active, pinned, candidate = (Network(seed=seed).version() for seed in range(3))
    async with RegistryServer() as registry:
        for version in (candidate, pinned, active):
            await registry.activate(version)
        at = Address.parse(registry.address)
        queries = [query(step, version=pinned.name if step % 2 else None) for step in range(40)]
        with structlog.testing.capture_logs() as lines:
            async with running(
                tmp_path, registry=at, shadow=candidate.name, cached_versions=2
            ) as channel:
                await serves(channel, active.name)
                await decisions(channel, queries)
                await until(lambda: len(shadows(lines)) == len(queries))
    loaded = [line["policy_version"] for line in lines if line["event"] == "policy loaded"]
    assert loaded.count(candidate.name) == 1
    assert loaded.count(pinned.name) <= 2


def test_a_version_as_shadow_needs_a_policy_that_follows_the_registry() -> None:
    with pytest.raises(ConfigurationError, match="which only --policy learned follows"):
        load(TamiyoSettings, policy="wait", shadow="mlp-1")
    with pytest.raises(ConfigurationError, match="the shadow cannot be schedule"):
        load(TamiyoSettings, shadow="schedule")
    assert load(TamiyoSettings, policy="wait", shadow="heuristic").shadow == "heuristic"
