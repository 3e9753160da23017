"""Who decides, and who is not to be decided for."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from leyline.conformance.checks.expect import keep_the_rules, refused_by_both
from leyline.conformance.target import SERVICE, Failed, Skipped, Target, resize
from leyline.observation import UnknownSpec, spec_by_name

_UNKNOWN_VERSION = "conformance-no-such-version"


async def serves(target: Target, services: Sequence[str]) -> None:
    """Health says SERVING for each of the services."""
    async with target.connect() as connection:
        for service in services:
            status = await connection.health(service)
            if status != "SERVING":
                raise Failed(f"health of {service or 'the whole server'!r} is {status}")


async def introduces_itself(target: Target) -> None:
    """GetPolicyInfo names a version; that it keeps the contract's rules is known by now."""
    if not target.info.policy_version:
        raise Failed("it names no policy_version although health says that it decides")


async def names_a_known_spec(target: Target) -> None:
    """A spec that the contract names has the contract's fingerprint."""
    name = target.info.spec_name
    try:
        known = spec_by_name(name)
    except UnknownSpec:
        raise Skipped(f"its observation spec {name!r} is one of its own") from None
    if target.info.spec_fingerprint != known.fingerprint:
        raise Failed(
            f"it says spec {name!r} with fingerprint {target.info.spec_fingerprint}; that spec's "
            f"is {known.fingerprint}"
        )


async def refuses_another_spec(target: Target) -> None:
    """A query that was filled for another spec is refused."""
    query = target.query(target.snapshot())
    first = "1" if query.spec_fingerprint.startswith("0") else "0"
    query.spec_fingerprint = first + query.spec_fingerprint[1:]
    async with target.connect() as connection:
        await refused_by_both(
            connection, query, code="FAILED_PRECONDITION", reason="FINGERPRINT_MISMATCH"
        )


async def refuses_another_number_of_slots(target: Target) -> None:
    """A policy for exactly so many slots refuses any other number."""
    if target.info.slots.WhichOneof("slots") != "exactly":
        raise Skipped("it decides for any number of slots")
    query = target.query(target.snapshot())
    resize(query.snapshot, target.info.slots.exactly % 64 + 1)
    async with target.connect() as connection:
        await refused_by_both(
            connection, query, code="FAILED_PRECONDITION", reason="SLOT_COUNT_MISMATCH"
        )


async def refuses_an_unknown_version(target: Target) -> None:
    """A query that is pinned to a version that does not exist is not decided by another one."""
    query = target.query(target.snapshot())
    query.policy_version = _UNKNOWN_VERSION
    async with target.connect() as connection:
        await refused_by_both(
            connection, query, code="NOT_FOUND", reason="POLICY_VERSION_NOT_FOUND"
        )


async def keeps_to_a_pinned_version(target: Target) -> None:
    """A query that is pinned to the default version is decided by it."""
    query = target.query(target.snapshot())
    query.policy_version = target.info.policy_version
    async with target.connect() as connection:
        decision = await connection.decide(query)
    keep_the_rules(query, decision)
    if decision.policy_version != query.policy_version:
        raise Failed(f"{decision.policy_version!r} decided where {query.policy_version!r} had to")


async def is_reflected(target: Target) -> None:
    """Server reflection lists the service."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async with target.connect() as connection:
        stub = reflection_pb2_grpc.ServerReflectionStub(connection.channel)
        try:
            call = stub.ServerReflectionInfo(iter([asked]), metadata=connection.metadata)
            answers = [answer async for answer in call]
        except grpc.aio.AioRpcError as error:
            raise Failed(f"grpc.reflection.v1alpha.ServerReflection: {error.code().name}") from None
    listed = [
        service.name for answer in answers for service in answer.list_services_response.service
    ]
    if SERVICE not in listed:
        raise Failed(f"reflection lists {sorted(listed)}, and not {SERVICE}")
