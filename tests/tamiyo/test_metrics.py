"""What Prometheus is told of decisions and versions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.scraping import scraped
from tests.tamiyo.networks import Network
from tests.tamiyo.queries import query
from tests.tamiyo.registry_server import RegistryServer
from tests.tamiyo.running import running, serves

from chassis.address import Address
from leyline.supervision import free_address
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.policy_pb2 import DecideRequest, StreamDecisionsRequest
from leyline.v1.policy_pb2_grpc import PolicyServiceStub


async def test_decisions_are_counted_by_type_with_their_batches_and_their_time(
    tmp_path: Path,
) -> None:
    address = free_address()
    async with running(tmp_path, policy="wait", metrics_listen=Address.parse(address)) as channel:
        stub: Any = PolicyServiceStub(channel)
        for step in range(3):
            await stub.Decide(DecideRequest(query=query(step)))
        shown = await scraped(address)
        assert shown.value("leyline_decisions_total", action_type="WAIT") == 3
        assert shown.value("leyline_decision_batch_size_sum") == 3
        assert shown.value("leyline_decision_seconds_count") == 3


async def test_queries_that_get_an_error_are_counted_by_its_reason(tmp_path: Path) -> None:
    address = free_address()
    broken = DecisionQuery()
    async with running(tmp_path, policy="wait", metrics_listen=Address.parse(address)) as channel:
        stream = PolicyServiceStub(channel).StreamDecisions()
        for asked in (broken, query(0)):
            await stream.write(StreamDecisionsRequest(query=asked))
            await stream.read()
        shown = await scraped(address)
        assert shown.value("leyline_decision_errors_total", reason="INVALID_ARGUMENT") == 1
        assert shown.total("leyline_decisions_total") == 1


async def test_how_often_a_shadow_agrees_is_counted(tmp_path: Path) -> None:
    address = free_address()
    async with running(
        tmp_path, policy="wait", shadow="wait", metrics_listen=Address.parse(address)
    ) as channel:
        await PolicyServiceStub(channel).Decide(DecideRequest(query=query(0)))
        async with asyncio.timeout(60):
            # It is asked after the answer is out.
            while (await scraped(address)).total("leyline_shadow_decisions_total") < 1:
                pass
        shown = await scraped(address)
    assert shown.value("leyline_shadow_decisions_total", agrees="true") == 1
    assert shown.value("leyline_shadow_decisions_total", agrees="false") == 0


async def test_versions_that_were_loaded_and_refused_are_counted(tmp_path: Path) -> None:
    address = free_address()
    good, bad = Network(seed=1).version(), Network(seed=2).version()
    async with RegistryServer() as registry:
        await registry.activate(good)
        async with running(
            tmp_path, registry=registry.parsed_address, metrics_listen=Address.parse(address)
        ) as channel:
            await serves(channel, good.name)
            registry.corrupt = True
            await registry.activate(bad)
            await registry.next_report(bad)
            shown = await scraped(address)
    assert shown.value("leyline_policy_loads_total") == 1
    assert shown.value("leyline_policy_refusals_total") == 1
