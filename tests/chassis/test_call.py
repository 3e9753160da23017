"""What the interceptor does around calls of all four kinds, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from chassis.channel import call_metadata, remaining_s
from chassis.errors import ErrorCode, LeylineError
from chassis.logging import bind_call
from chassis.status import RemoteError, from_rpc_error
from leyline.v1 import (
    experience_pb2,
    experience_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

Context = grpc.aio.ServicerContext[Any, Any]
GET = registry_pb2.GetPolicyRequest()
DOWNLOAD = registry_pb2.DownloadPolicyRequest(policy_version="v1")
CHUNK = registry_pb2.RegisterPolicyRequest(chunk=registry_pb2.ArtifactChunk(data=b"x"))
# The contract leaves the items to the servicer, who answers for each.
BATCH = experience_pb2.StreamTransitionsRequest(items=[experience_pb2.ExperienceItem()])


def _registry(channel: grpc.aio.Channel) -> registry_pb2_grpc.PolicyRegistryServiceAsyncStub:
    return registry_pb2_grpc.PolicyRegistryServiceStub(channel)


def _policy(channel: grpc.aio.Channel) -> policy_pb2_grpc.PolicyServiceAsyncStub:
    return policy_pb2_grpc.PolicyServiceStub(channel)


def _experience(channel: grpc.aio.Channel) -> experience_pb2_grpc.ExperienceServiceAsyncStub:
    return experience_pb2_grpc.ExperienceServiceStub(channel)


async def _finished(call: Any) -> None:
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


async def _refused(call: Any) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _finished(call)
    return from_rpc_error(failed.value)


def _fails(error: Exception) -> dict[str, Any]:
    """Make one method of each kind that fails with the same error."""

    async def unary(_request: Any, _context: Context) -> Any:
        raise error

    async def many(_request: Any, _context: Context) -> AsyncIterator[Any]:
        yield registry_pb2.DownloadPolicyResponse()
        raise error

    async def client_stream(requests: AsyncIterator[Any], _context: Context) -> Any:
        async for _ in requests:
            raise error

    async def both(requests: AsyncIterator[Any], _context: Context) -> AsyncIterator[Any]:
        async for _ in requests:
            yield experience_pb2.StreamTransitionsResponse()
            raise error

    return {
        "GetPolicy": unary,
        "DownloadPolicy": many,
        "RegisterPolicy": client_stream,
        "StreamTransitions": both,
    }


def _one_call_of_each_kind(channel: grpc.aio.Channel) -> list[Any]:
    registry, experience = _registry(channel), _experience(channel)
    return [
        registry.GetPolicy(GET),
        registry.DownloadPolicy(DOWNLOAD),
        registry.RegisterPolicy(iter([CHUNK])),
        experience.StreamTransitions(iter([BATCH])),
    ]


async def test_an_error_of_the_domain_reaches_the_client_from_every_kind_of_call(
    start: Any,
) -> None:
    error = LeylineError(ErrorCode.POLICY_VERSION_NOT_FOUND, policy_version="v7")
    _, channel = await start(_fails(error))
    for call in _one_call_of_each_kind(channel):
        remote = await _refused(call)
        assert remote.error_code is ErrorCode.POLICY_VERSION_NOT_FOUND
        assert remote.status is grpc.StatusCode.NOT_FOUND
        assert remote.message == "there is no policy version 'v7'"
        assert remote.metadata == {"policy_version": "v7"}


async def test_an_unexpected_exception_tells_the_client_an_id_that_the_log_has_and_no_more(
    start: Any,
) -> None:
    secret = "password=hunter2"
    _, channel = await start(_fails(RuntimeError(secret)))
    with structlog.testing.capture_logs() as lines:
        for call in _one_call_of_each_kind(channel):
            remote = await _refused(call)
            assert remote.error_code is ErrorCode.INTERNAL
            assert secret not in repr(remote)
            error_id = remote.metadata["error_id"]
            logged = [line for line in lines if line.get("error_id") == error_id]
            assert [str(line["exc_info"]) for line in logged] == [secret]


async def test_an_error_out_of_a_task_group_is_the_error_in_it(start: Any) -> None:
    async def get(_request: Any, _context: Context) -> Any:
        async def fail() -> None:
            raise LeylineError(ErrorCode.TRAINING_NOT_FOUND, training_id="t")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(asyncio.Event().wait())

    _, channel = await start({"GetPolicy": get})
    remote = await _refused(_registry(channel).GetPolicy(GET))
    assert remote.error_code is ErrorCode.TRAINING_NOT_FOUND


async def test_a_task_group_that_also_failed_unexpectedly_is_internal(start: Any) -> None:
    async def get(_request: Any, _context: Context) -> Any:
        known = LeylineError(ErrorCode.TRAINING_NOT_FOUND, training_id="t")
        raise ExceptionGroup("both", [known, RuntimeError("other")])

    _, channel = await start({"GetPolicy": get})
    remote = await _refused(_registry(channel).GetPolicy(GET))
    assert remote.error_code is ErrorCode.INTERNAL


async def test_a_method_that_the_servicer_does_not_have_is_unimplemented(start: Any) -> None:
    _, channel = await start()
    remote = await _refused(_registry(channel).GetPolicy(GET))
    assert remote.status is grpc.StatusCode.UNIMPLEMENTED
    assert remote.error_code is ErrorCode.METHOD_NOT_IMPLEMENTED


async def test_a_method_that_nobody_knows_is_unimplemented(start: Any) -> None:
    _, channel = await start()
    remote = await _refused(channel.unary_unary("/leyline.v1.Nowhere/Go")(b""))
    assert remote.status is grpc.StatusCode.UNIMPLEMENTED


async def test_a_synchronous_handler_is_refused(start: Any) -> None:
    def get(_request: Any, _context: Context) -> Any:
        return registry_pb2.GetPolicyResponse()

    _, channel = await start({"GetPolicy": get})
    remote = await _refused(_registry(channel).GetPolicy(GET))
    assert remote.status is grpc.StatusCode.UNKNOWN


async def test_a_broken_rule_is_refused_before_the_servicer_sees_the_message(start: Any) -> None:
    async def never(_request: Any, _context: Context) -> Any:
        pytest.fail("the servicer was called")

    async def never_many(_request: Any, context: Context) -> None:
        pytest.fail("the servicer was called")

    _, channel = await start({"GetPolicy": never, "Decide": never, "DownloadPolicy": never_many})
    too_long = registry_pb2.GetPolicyRequest(policy_version="v" * 129)
    for call, field, rule in (
        (_registry(channel).GetPolicy(too_long), "policy_version", "string.max_len"),
        (_policy(channel).Decide(policy_pb2.DecideRequest()), "query", "required"),
        (
            _registry(channel).DownloadPolicy(registry_pb2.DownloadPolicyRequest()),
            "policy_version",
            "string.min_len",
        ),
    ):
        remote = await _refused(call)
        assert remote.error_code is ErrorCode.INVALID_ARGUMENT
        assert [(broken.field, broken.rule) for broken in remote.violations] == [(field, rule)]


async def test_every_message_of_a_client_stream_is_validated(start: Any) -> None:
    seen: list[bytes] = []

    async def register(requests: AsyncIterator[Any], _context: Context) -> Any:
        async for request in requests:
            seen.append(request.chunk.data)
        return registry_pb2.RegisterPolicyResponse()

    async def echo(requests: AsyncIterator[Any], _context: Context) -> AsyncIterator[Any]:
        async for _ in requests:
            yield experience_pb2.StreamTransitionsResponse()

    _, channel = await start({"RegisterPolicy": register, "StreamTransitions": echo})
    empty = registry_pb2.RegisterPolicyRequest(chunk=registry_pb2.ArtifactChunk())
    remote = await _refused(_registry(channel).RegisterPolicy(iter([CHUNK, CHUNK, empty, CHUNK])))
    assert [broken.field for broken in remote.violations] == ["chunk.data"]
    assert seen == [b"x", b"x"]
    invalid = experience_pb2.StreamTransitionsRequest()
    remote = await _refused(_experience(channel).StreamTransitions(iter([invalid])))
    assert [broken.field for broken in remote.violations] == ["items"]


async def test_bytes_that_are_no_message_are_the_clients_mistake(start: Any) -> None:
    _, channel = await start(_fails(LeylineError(ErrorCode.SHUTTING_DOWN)))
    bytes_of_no_message = b"\x0a\xff"
    registry = "/leyline.v1.PolicyRegistryService"
    alone = channel.unary_unary(f"{registry}/GetPolicy")(bytes_of_no_message)
    in_a_stream = channel.stream_unary(f"{registry}/RegisterPolicy")(iter([bytes_of_no_message]))
    for call in (alone, in_a_stream):
        remote = await _refused(call)
        assert remote.error_code is ErrorCode.INVALID_ARGUMENT
        (violation,) = remote.violations
        assert "no message" in violation.description


async def test_a_servicer_may_write_its_responses_instead_of_yielding_them(start: Any) -> None:
    async def download(_request: Any, context: Context) -> None:
        for offset in range(3):
            chunk = registry_pb2.ArtifactChunk(offset=offset, data=b"x")
            await context.write(registry_pb2.DownloadPolicyResponse(chunk=chunk))

    _, channel = await start({"DownloadPolicy": download})
    answers = [answer async for answer in _registry(channel).DownloadPolicy(DOWNLOAD)]
    assert [answer.chunk.offset for answer in answers] == [0, 1, 2]


async def test_the_servicers_generator_is_closed_at_once_when_the_client_goes_away(
    start: Any,
) -> None:
    closed = asyncio.Event()

    async def watch(_request: Any, _context: Context) -> AsyncIterator[Any]:
        try:
            while True:
                yield registry_pb2.WatchPoliciesResponse(sequence=1)
                await asyncio.sleep(0)
        finally:
            closed.set()

    _, channel = await start({"WatchPolicies": watch})
    call = _registry(channel).WatchPolicies(registry_pb2.WatchPoliciesRequest())
    async for _ in call:
        break
    call.cancel()
    await closed.wait()


async def test_the_clients_request_id_comes_back_with_an_error_and_another_is_made(
    start: Any,
) -> None:
    error = LeylineError(ErrorCode.TRAINING_NOT_FOUND, training_id="t")
    _, channel = await start(_fails(error))
    get = _registry(channel).GetPolicy
    mine = await _refused(get(GET, metadata=(("x-request-id", "mine-1"),)))
    assert mine.request_id == "mine-1"
    made = {(await _refused(get(GET))).request_id for _ in range(2)}
    assert len(made) == 2
    forged = await _refused(get(GET, metadata=(("x-request-id", 'a" level="error'),)))
    assert forged.request_id not in ("", 'a" level="error')


async def test_what_a_call_binds_stands_in_its_own_log_lines_and_metadata_only(
    start: Any,
) -> None:
    bound: list[dict[str, Any]] = []
    passed_on: list[tuple[tuple[str, str], ...]] = []

    async def get(request: Any, _context: Context) -> Any:
        if request.policy_version:
            bind_call(run_id=request.policy_version, episode=3)
        bound.append(structlog.contextvars.get_contextvars())
        passed_on.append(call_metadata())
        return registry_pb2.GetPolicyResponse()

    _, channel = await start({"GetPolicy": get})
    named = registry_pb2.GetPolicyRequest(policy_version="v1")
    await _registry(channel).GetPolicy(named, metadata=(("x-request-id", "one"),))
    await _registry(channel).GetPolicy(GET, metadata=(("x-request-id", "two"),))
    method = "/leyline.v1.PolicyRegistryService/GetPolicy"
    assert bound == [
        {"request_id": "one", "method": method, "run_id": "v1", "episode": 3},
        {"request_id": "two", "method": method},
    ]
    assert passed_on == [(("x-request-id", "one"),), (("x-request-id", "two"),)]


async def test_a_unary_call_without_a_deadline_gets_the_servers(start: Any) -> None:
    async def forever(_request: Any, _context: Context) -> Any:
        await asyncio.Event().wait()

    _, channel = await start({"GetPolicy": forever}, default_deadline_s=0.05)
    remote = await _refused(_registry(channel).GetPolicy(GET))
    assert remote.error_code is ErrorCode.DEADLINE_EXCEEDED


async def test_the_clients_own_deadline_is_the_one_that_counts(start: Any) -> None:
    left: list[float] = []

    async def get(_request: Any, context: Context) -> Any:
        left.append(remaining_s(context, at_most_s=1000))
        await asyncio.sleep(0.1)
        return registry_pb2.GetPolicyResponse()

    _, channel = await start({"GetPolicy": get}, default_deadline_s=0.01)
    await _registry(channel).GetPolicy(GET, timeout=100)
    assert 0 < left[0] < 1000


async def test_a_message_that_is_too_large_is_refused_with_both_sizes(start: Any) -> None:
    async def register(requests: AsyncIterator[Any], _context: Context) -> Any:
        async for _ in requests:
            pass
        return registry_pb2.RegisterPolicyResponse()

    server, _ = await start({"RegisterPolicy": register}, max_message_bytes=64 * 1024)
    large = registry_pb2.ArtifactChunk(data=b"x" * 100_000)
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        request = registry_pb2.RegisterPolicyRequest(chunk=large)
        remote = await _refused(_registry(channel).RegisterPolicy(iter([request])))
    assert remote.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "65536" in remote.message


async def test_calls_beyond_the_limit_are_refused_and_the_others_answered(start: Any) -> None:
    release = asyncio.Event()

    async def get(_request: Any, _context: Context) -> Any:
        await release.wait()
        return registry_pb2.GetPolicyResponse()

    _, channel = await start({"GetPolicy": get}, max_concurrent_rpcs=2)
    calls = [_registry(channel).GetPolicy(GET) for _ in range(3)]
    pending = [asyncio.ensure_future(_outcome(call)) for call in calls]
    done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = (task.result() for task in done)
    assert isinstance(refused, RemoteError)
    assert refused.error_code is ErrorCode.TOO_MANY_CALLS
    assert refused.retry_after_s == 0.5
    health = health_pb2_grpc.HealthStub(channel)
    await health.Check(health_pb2.HealthCheckRequest())
    release.set()
    outcomes = await asyncio.gather(*pending)
    assert sum(outcome is None for outcome in outcomes) == 2
    assert await _outcome(_registry(channel).GetPolicy(GET)) is None


async def test_an_old_connection_takes_no_new_calls_and_its_open_ones_get_their_grace(
    start: Any,
) -> None:
    peers: list[str] = []
    sent = 0

    async def get(_request: Any, context: Context) -> Any:
        peers.append(context.peer())
        return registry_pb2.GetPolicyResponse()

    async def watch(_request: Any, context: Context) -> AsyncIterator[Any]:
        nonlocal sent
        peers.append(context.peer())
        while True:
            sent += 1
            yield registry_pb2.WatchPoliciesResponse(sequence=sent)
            await asyncio.sleep(0.02)

    _, channel = await start(
        {"GetPolicy": get, "WatchPolicies": watch},
        max_connection_age_s=1,
        max_connection_age_grace_s=5,
    )
    watching: Any = _registry(channel).WatchPolicies(registry_pb2.WatchPoliciesRequest())
    while len(set(peers)) < 2:
        await _registry(channel).GetPolicy(GET)
        await asyncio.sleep(0.02)
    sent_by_then = sent
    while (await watching.read()).sequence <= sent_by_then:
        pass  # what was sent after the connection was old arrives
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await _read_on(watching)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def _read_on(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def _outcome(call: Any) -> RemoteError | None:
    """How a call was refused; None where it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None
