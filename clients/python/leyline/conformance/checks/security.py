"""Who may ask."""

from __future__ import annotations

import dataclasses

import grpc

from leyline.conformance.checks.expect import refused
from leyline.conformance.target import Connection, Failed, Skipped, Target
from leyline.error import ServiceError


async def refuses_plain_text(target: Target) -> None:
    """A server with a certificate answers nobody who speaks plain text."""
    if target.credentials.ca is None:
        raise Skipped("give --ca to test a server that speaks TLS")
    async with target.connect(secure=False) as connection:
        try:
            await connection.decide(target.query(target.snapshot()), timeout_s=2.0)
        except ServiceError as error:
            if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                return
            raise
    raise Failed("it decided for a caller in plain text")


async def refuses_without_token(target: Target) -> None:
    """Whoever brings no token is nobody."""
    if target.token is None:
        raise Skipped("give --token-file to test a server that asks for a token")
    async with target.connect(with_token=False) as connection:
        await _refuses_all(target, connection)


async def refuses_a_wrong_token(target: Target) -> None:
    """A token that is not quite right is no token."""
    if target.token is None:
        raise Skipped("give --token-file to test a server that asks for a token")
    # In the middle: the last letter of a base64 text may hold bits that nobody reads.
    place = len(target.token) // 2
    other = "A" if target.token[place] != "A" else "B"
    wrong = dataclasses.replace(
        target, token=target.token[:place] + other + target.token[place + 1 :]
    )
    async with wrong.connect() as connection:
        await _refuses_all(target, connection)


async def _refuses_all(target: Target, connection: Connection) -> None:
    query = target.query(target.snapshot())
    code = grpc.StatusCode.UNAUTHENTICATED.name
    await refused(connection.policy_info(), code=code)
    await refused(connection.decide(query), code=code)
    await refused(connection.stream([query]), code=code)
