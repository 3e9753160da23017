"""Watches go on after a break of the connection; errors are readable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1.health import aio  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2 import HealthCheckResponse  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import (  # type: ignore[import-untyped]
    add_HealthServicer_to_server,
)
from grpc_status import rpc_status  # type: ignore[import-untyped]
from tests.leyline.serving import trainer_of

from leyline.channel import NO_CREDENTIALS
from leyline.client import Client, Trainer, patience
from leyline.error import ServiceError
from leyline.v1.trainer_pb2 import (
    GetRunRequest,
    GetRunResponse,
    ListRunsRequest,
    ListRunsResponse,
    Run,
    RunSpec,
    StartRunRequest,
    StartRunResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from leyline.v1.trainer_pb2_grpc import TrainerServiceServicer


class FragileTrainer(TrainerServiceServicer):
    """Has a run of five events, and breaks every watch after two."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def WatchRun(
        self, request: WatchRunRequest, context: Any
    ) -> AsyncIterator[WatchRunResponse]:
        self.asked.append(request.after_sequence)
        for sequence in range(request.after_sequence + 1, 6):
            if sequence > request.after_sequence + 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield WatchRunResponse(sequence=sequence)

    async def ListRuns(self, request: ListRunsRequest, context: Any) -> ListRunsResponse:
        first, size = int(request.page_token or 0), request.page_size or 3
        names = [f"r{number}" for number in range(4, -1, -1)]
        more = str(first + size) if first + size < len(names) else ""
        runs = [Run(run_id=name) for name in names[first : first + size]]
        return ListRunsResponse(runs=runs, next_page_token=more)

    async def StartRun(self, request: StartRunRequest, context: Any) -> StartRunResponse:
        status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="the host is unknown")
        for detail in (
            error_details_pb2.ErrorInfo(reason="UNKNOWN_HOST", metadata={"host": "strong-cnn"}),
            error_details_pb2.BadRequest(
                field_violations=[
                    {"field": "spec.host.name", "description": "there is no such host"}
                ]
            ),
            error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2)),
        ):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        await context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError

    async def GetRun(self, request: GetRunRequest, context: Any) -> GetRunResponse:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")
        raise AssertionError


def fragile_trainer() -> FragileTrainer:
    return FragileTrainer()  # the other calls answer UNIMPLEMENTED


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)


async def test_a_watch_goes_on_after_each_break_with_the_last_sequence_it_saw() -> None:
    servicer = fragile_trainer()
    breaks: list[tuple[str, float]] = []
    async with trainer_of(
        servicer, lambda error, wait_s: breaks.append((error.message, wait_s))
    ) as trainer:
        seen = [event.sequence async for event in trainer.watch("r")]
    assert seen == [1, 2, 3, 4, 5]
    assert servicer.asked == [0, 2, 4]
    assert breaks == [("no service answers at " + trainer.address + ": gone", 0.01)] * 2


async def test_a_service_that_stays_away_is_asked_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.08)
    waits: list[float] = []
    async with Trainer(
        "127.0.0.1:1", NO_CREDENTIALS, lambda _, wait_s: waits.append(wait_s)
    ) as trainer:
        with pytest.raises(ServiceError, match="no service answers"):
            _ = [event async for event in trainer.watch("r")]
    assert waits[:4] == [0.01, 0.02, 0.04, 0.08]
    assert set(waits[4:]) <= {0.08}


async def test_a_page_of_runs_has_the_token_of_the_next() -> None:
    async with trainer_of(fragile_trainer()) as trainer:
        runs, token = await trainer.page(2)
        assert ([run.run_id for run in runs], token) == (["r4", "r3"], "2")
        runs, token = await trainer.page(2, token)
        assert ([run.run_id for run in runs], token) == (["r2", "r1"], "4")
        assert [run.run_id async for run in trainer.list()] == ["r4", "r3", "r2", "r1", "r0"]


async def test_a_watch_that_is_refused_for_good_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0)
    servicer = fragile_trainer()
    async with trainer_of(servicer) as trainer:
        with pytest.raises(ServiceError, match="gone"):
            _ = [event async for event in trainer.watch("r")]


async def test_an_error_says_its_reason_its_facts_and_the_fields_that_are_to_blame() -> None:
    async with trainer_of(fragile_trainer()) as trainer:
        with pytest.raises(ServiceError) as caught:
            await trainer.start(RunSpec())
    error = caught.value
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "UNKNOWN_HOST")
    assert error.metadata == {"host": "strong-cnn"}
    assert error.retry_after_s == 2
    assert error.is_transient
    assert str(error) == (
        "the host is unknown (UNKNOWN_HOST)\n  spec.host.name: there is no such host"
    )


async def test_an_error_without_details_still_says_what_there_is() -> None:
    async with trainer_of(fragile_trainer()) as trainer:
        with pytest.raises(ServiceError) as caught:
            await trainer.get("r")
    assert str(caught.value) == "not yours (PERMISSION_DENIED)"
    assert not caught.value.is_transient


async def test_nobody_at_an_address_is_said_with_the_address() -> None:
    async with Trainer("127.0.0.1:1") as trainer:
        with pytest.raises(ServiceError, match=r"no service answers at 127\.0\.0\.1:1"):
            await trainer.get("r")


async def test_whoever_waits_for_a_server_that_is_not_there_hears_so() -> None:
    async with Client("127.0.0.1:1") as client:
        said = r"at 127\.0\.0\.1:1 does not serve: no service answers"
        with pytest.raises(ServiceError, match=said):
            await client.serving(within_s=1.0)


async def test_whoever_waits_for_a_server_goes_on_once_it_serves() -> None:
    server, health = grpc.aio.server(), aio.HealthServicer()
    add_HealthServicer_to_server(health, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    async with Client(address) as client:
        await health.set("", HealthCheckResponse.NOT_SERVING)
        await server.start()
        waiting = asyncio.create_task(client.serving(within_s=60.0))
        while await client.health() != "NOT_SERVING":
            pass
        assert not waiting.done()
        await health.set("", HealthCheckResponse.SERVING)
        await waiting
    await server.stop(None)
