"""Versions become active one after the other while many streams ask: nobody notices but by name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc.aio
import pytest
from tests.tamiyo.networks import Network, Version
from tests.tamiyo.queries import query
from tests.tamiyo.registry_server import RegistryServer
from tests.tamiyo.running import serves, until
from tests.tamiyo.test_process import started

from leyline.v1.decision_pb2 import Decision, DecisionQuery
from leyline.v1.policy_pb2 import StreamDecisionsRequest, StreamDecisionsResponse
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from tamiyo.artifact import Artifact
from tamiyo.policies.learned import LearnedPolicy
from tamiyo.policy import decision_from

SWAPS = 200
STREAMS = 32
EPISODE_STEPS = 40
Answered = list[tuple[DecisionQuery, Decision]]


async def ask(channel: grpc.aio.Channel, stream: int, enough: asyncio.Event) -> Answered:
    """Ask on one stream until it is enough; every other stream keeps its version for an episode."""
    stub = PolicyServiceStub(channel)
    call: grpc.aio.StreamStreamCall[StreamDecisionsRequest, StreamDecisionsResponse] = (
        stub.StreamDecisions()
    )
    answered: Answered = []
    while not enough.is_set():
        episode, step = divmod(len(answered), EPISODE_STEPS)
        pinned = answered[-1][1].policy_version if stream % 2 and step else None
        asked = query(step, episode=episode, run=f"run-{stream}", version=pinned)
        await call.write(StreamDecisionsRequest(query=asked))
        answer = await call.read()
        assert isinstance(answer, StreamDecisionsResponse), "the stream was dropped"
        assert answer.HasField("decision"), answer.error
        assert answer.step_id == asked.snapshot.step_id
        assert answer.decision.policy_version == (pinned or answer.decision.policy_version)
        answered.append((asked, answer.decision))
    await call.done_writing()
    return answered


def decided_alone(version: Version, queries: list[DecisionQuery]) -> list[Decision]:
    """What a version decides where there is no other."""
    policy = LearnedPolicy(Artifact(version.manifest, version.data))
    return [decision_from(policy, asked, *policy.decide([asked])) for asked in queries]


def reported(registry: RegistryServer) -> set[str]:
    """The versions whose loading the policy server has told."""
    return {report.policy_version for report in registry.reports}


@pytest.mark.timeout(600)
async def test_two_hundred_swaps_under_load_drop_no_stream_and_mix_no_versions(
    tmp_path: Path,
) -> None:
    versions = [Network(seed=seed).version() for seed in range(SWAPS + 1)]
    enough = asyncio.Event()
    async with RegistryServer() as registry:
        await registry.activate(versions[0])
        async with started(tmp_path, "--registry", registry.address) as tamiyo:
            await serves(tamiyo.channel, versions[0].name)
            asking = [
                asyncio.create_task(ask(tamiyo.channel, stream, enough))
                for stream in range(STREAMS)
            ]
            for version in versions[1:]:
                await registry.activate(version)
                await serves(tamiyo.channel, version.name)
            enough.set()
            streams = await asyncio.gather(*asking)
            await until(lambda: reported(registry) == {version.name for version in versions})
    by_version: dict[str, Answered] = {version.name: [] for version in versions}
    order = list(by_version)
    for stream, answered in enumerate(streams):
        seen = [order.index(decision.policy_version) for _, decision in answered]
        assert seen == sorted(seen), f"stream {stream} went back to an older version"
        for asked, decision in answered:
            by_version[decision.policy_version].append((asked, decision))
    for version in versions:
        queries = [asked for asked, _ in by_version[version.name]]
        decisions = [decision for _, decision in by_version[version.name]]
        assert decisions == decided_alone(version, queries), version.name
    used = sum(bool(answered) for answered in by_version.values())
    print(f"\n{sum(map(len, streams))} decisions on {STREAMS} streams by {used} versions")
    assert used > SWAPS / 2
