"""Tamiyo over the wire."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.tamiyo.networks import Network
from tests.tamiyo.queries import query
from tests.tamiyo.registry_server import RegistryServer
from tests.tamiyo.running import info, running, serves, until

from chassis.address import Address
from chassis.errors import ErrorCode
from chassis.status import RemoteError, from_rpc_error, from_status
from leyline.observation import EXTENDED_SPEC, SEED_SPEC
from leyline.v1.decision_pb2 import Decision, DecisionQuery
from leyline.v1.policy_pb2 import (
    DecideRequest,
    GetPolicyInfoResponse,
    SlotRequirement,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from leyline.v1.snapshot_pb2 import STAGE_DORMANT, SlotReading
from tamiyo.policies import BUILT_IN
from tamiyo.service import serve
from tamiyo.settings import TamiyoSettings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    response = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service)
    )
    return int(response.status)


async def decide(channel: grpc.aio.Channel, asked: DecisionQuery) -> Decision:
    response = await PolicyServiceStub(channel).Decide(DecideRequest(query=asked))
    return response.decision


async def refusal(channel: grpc.aio.Channel, asked: DecisionQuery) -> RemoteError:
    """Return the error that a query gets."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await decide(channel, asked)
    return from_rpc_error(caught.value)


async def stream(
    channel: grpc.aio.Channel, queries: Sequence[DecisionQuery]
) -> list[StreamDecisionsResponse]:
    """Send queries on one stream without waiting for the answers."""
    requests = (StreamDecisionsRequest(query=asked) for asked in queries)
    call = PolicyServiceStub(channel).StreamDecisions(requests)
    return [response async for response in call]


@pytest.fixture
async def registry() -> Any:
    async with RegistryServer() as server:
        yield server


@pytest.mark.parametrize("name", BUILT_IN)
async def test_a_built_in_policy_says_who_it_is_and_decides(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, policy=name) as channel:
        answer = await info(channel)
        assert answer == GetPolicyInfoResponse(
            policy=name,
            implementation=answer.implementation,
            policy_version=f"{name}-1",
            spec_fingerprint=SEED_SPEC.fingerprint,
            spec_name="seed",
            slots=SlotRequirement(any=True),
            follows_registry=False,
            deterministic=True,
        )
        assert await health(channel, "leyline.v1.PolicyService") == SERVING
        for slots in (1, 3, 6):
            assert (await decide(channel, query(slots=slots))).policy_version == f"{name}-1"


async def test_a_built_in_policy_takes_the_spec_that_it_was_started_for(tmp_path: Path) -> None:
    asked = query()
    async with running(tmp_path, policy="wait", spec="extended") as channel:
        assert (await info(channel)).spec_fingerprint == EXTENDED_SPEC.fingerprint
        assert (await refusal(channel, asked)).reason == "FINGERPRINT_MISMATCH"
        asked.spec_fingerprint = EXTENDED_SPEC.fingerprint
        await decide(channel, asked)


async def test_health_says_not_serving_until_the_first_version_is_there(
    tmp_path: Path, registry: RegistryServer
) -> None:
    version = Network(seed=1).version()
    async with running(tmp_path, registry=registry.parsed_address) as channel:
        assert await health(channel) == NOT_SERVING
        refused = await refusal(channel, query())
        assert refused.error_code is ErrorCode.POLICY_NOT_READY
        assert refused.status is grpc.StatusCode.UNAVAILABLE
        assert refused.is_retryable
        nobody = await info(channel)
        assert nobody.policy_version == ""
        assert nobody.follows_registry
        await registry.activate(version)
        await serves(channel, version.name)
        while await health(channel) != SERVING:
            pass
        decided = await decide(channel, query())
        assert decided.policy_version == version.name
        assert (await info(channel)).slots == SlotRequirement(exactly=3)


def _nan(asked: DecisionQuery) -> None:
    asked.snapshot.val_loss = math.nan


def _no_stage(asked: DecisionQuery) -> None:
    asked.snapshot.slots[1].stage = 0  # type: ignore[assignment]


def _unknown_stage(asked: DecisionQuery) -> None:
    asked.snapshot.slots[1].stage = 17  # type: ignore[assignment]


def _no_mode(asked: DecisionQuery) -> None:
    asked.mode = 0  # type: ignore[assignment]


def _no_snapshot(asked: DecisionQuery) -> None:
    asked.ClearField("snapshot")


def _too_many_slots(asked: DecisionQuery) -> None:
    asked.snapshot.slots.extend(
        SlotReading(slot_id=f"more-{depth}", depth=depth, stage=STAGE_DORMANT)
        for depth in range(3, 66)
    )


def _same_slot_twice(asked: DecisionQuery) -> None:
    asked.snapshot.slots[1].slot_id = asked.snapshot.slots[0].slot_id


def _no_fingerprint(asked: DecisionQuery) -> None:
    asked.spec_fingerprint = "abc"


INVALID: list[tuple[Callable[[DecisionQuery], None], str]] = [
    (_nan, "snapshot.val_loss"),
    (_no_stage, "snapshot.slots[1].stage"),
    (_unknown_stage, "snapshot.slots[1].stage"),
    (_no_mode, "mode"),
    (_no_snapshot, "snapshot"),
    (_too_many_slots, "snapshot.slots"),
    (_same_slot_twice, "snapshot"),
    (_no_fingerprint, "spec_fingerprint"),
]


def spoilt(change: Callable[[DecisionQuery], None]) -> DecisionQuery:
    asked = query(1)
    change(asked)
    return asked


async def test_a_query_that_breaks_a_rule_is_refused_by_the_field_s_name(tmp_path: Path) -> None:
    async with running(tmp_path, policy="random") as channel:
        for change, field in INVALID:
            refused = await refusal(channel, spoilt(change))
            assert refused.status is grpc.StatusCode.INVALID_ARGUMENT
            assert refused.reason == "INVALID_ARGUMENT"
            assert f"query.{field}" in [broken.field for broken in refused.violations]
        assert (await decide(channel, query())).policy_version == "random-1"


async def test_on_a_stream_an_invalid_query_gets_its_error_in_its_place(tmp_path: Path) -> None:
    queries = [query(0)]
    for step, (change, _) in enumerate(INVALID, start=1):
        queries += [spoilt(change), query(step)]
    async with running(tmp_path, policy="random") as channel:
        responses = await stream(channel, queries)
        expected = [await decide(channel, asked) for asked in queries[::2]]
    assert [response.decision for response in responses[::2]] == expected
    for response, (_, field) in zip(responses[1::2], INVALID, strict=True):
        error = from_status(response.error)
        assert error.status is grpc.StatusCode.INVALID_ARGUMENT
        assert any(broken.field.endswith(field) for broken in error.violations)


async def test_a_broken_traceparent_gets_its_error_in_its_place_and_another_changes_no_decision(
    tmp_path: Path,
) -> None:
    said = (None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "nonsense", "")
    requests = [StreamDecisionsRequest(query=query(), traceparent=each) for each in said]
    async with running(tmp_path, policy="random") as channel:
        call = PolicyServiceStub(channel).StreamDecisions(iter(requests))
        answered = [response async for response in call]
        assert [each.decision for each in answered[:2]] == [await decide(channel, query())] * 2
    for response in answered[2:]:
        error = from_status(response.error)
        assert error.error_code is ErrorCode.INVALID_ARGUMENT
        assert [broken.field for broken in error.violations] == ["traceparent"]


async def test_a_query_that_the_policy_cannot_answer_is_refused_with_the_reason(
    tmp_path: Path, registry: RegistryServer
) -> None:
    version = Network(seed=1).version()
    await registry.activate(version)
    other_spec = query()
    other_spec.spec_fingerprint = EXTENDED_SPEC.fingerprint
    cases = [
        (other_spec, ErrorCode.FINGERPRINT_MISMATCH),
        (query(slots=4), ErrorCode.SLOT_COUNT_MISMATCH),
        (query(version="mlp-000000000000"), ErrorCode.POLICY_VERSION_NOT_FOUND),
    ]
    async with running(tmp_path, registry=registry.parsed_address) as channel:
        await serves(channel, version.name)
        for asked, code in cases:
            refused = await refusal(channel, asked)
            assert refused.error_code is code
            assert refused.status is code.spec.status
        responses = await stream(channel, [*(asked for asked, _ in cases), query()])
        errors = [from_status(response.error).error_code for response in responses[:-1]]
        assert errors == [code for _, code in cases]
        assert responses[-1].decision.policy_version == version.name


async def test_a_stream_s_answers_come_in_the_order_of_its_queries(tmp_path: Path) -> None:
    queries = [query(step) for step in range(200)]
    async with running(tmp_path, policy="random") as channel:
        responses = await stream(channel, queries)
    assert [response.step_id.step for response in responses] == list(range(200))


async def test_a_decision_is_the_same_on_any_stream_alone_again_and_after_a_restart(
    tmp_path: Path, registry: RegistryServer
) -> None:
    version = Network(seed=1).version()
    await registry.activate(version)
    queries = [query(step, episode=episode) for episode in range(8) for step in range(10)]
    async with running(tmp_path, registry=registry.parsed_address) as channel:
        await serves(channel, version.name)
        one_stream = [response.decision for response in await stream(channel, queries)]
        parts = [queries[start : start + 10] for start in range(0, 80, 10)]
        together = await asyncio.gather(*(stream(channel, part) for part in parts))
        eight_streams = [response.decision for part in together for response in part]
        at_once = await asyncio.gather(*(decide(channel, asked) for asked in queries))
    async with running(tmp_path, registry=registry.parsed_address) as channel:
        await serves(channel, version.name)
        restarted = [response.decision for response in await stream(channel, queries)]
    assert one_stream == eight_streams == list(at_once) == restarted
    assert len({decision.decision_id for decision in one_stream}) == 80


async def test_a_stream_that_is_open_at_the_end_is_told_so(tmp_path: Path) -> None:
    port_file = tmp_path / "address"
    settings = TamiyoSettings(
        policy="wait", listen=Address.parse("127.0.0.1:0"), port_file=port_file
    )
    server = asyncio.create_task(serve(settings))
    await until(port_file.exists)
    async with grpc.aio.insecure_channel(port_file.read_text().strip()) as channel:
        call = PolicyServiceStub(channel).StreamDecisions()
        await call.write(StreamDecisionsRequest(query=query()))
        assert isinstance(await call.read(), StreamDecisionsResponse)
        server.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert from_rpc_error(caught.value).error_code is ErrorCode.SHUTTING_DOWN
        await asyncio.gather(server, return_exceptions=True)


async def test_a_thousand_streams_are_open_at_once_and_each_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path, policy="heuristic") as channel:
        stub = PolicyServiceStub(channel)
        streams: list[Any] = [stub.StreamDecisions() for _ in range(1000)]
        for turn in range(2):
            for number, stream in enumerate(streams):
                asked = query(turn, run=f"run-{number}")
                await stream.write(StreamDecisionsRequest(query=asked))
            for number, stream in enumerate(streams):
                answer = await stream.read()
                assert answer.HasField("decision"), answer
                assert (answer.step_id.run_id, answer.step_id.step) == (f"run-{number}", turn)
        for stream in streams:
            await stream.done_writing()
