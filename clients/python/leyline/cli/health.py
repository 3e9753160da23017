"""`leyline health`: whether a server serves."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import AsJson, finish, print_json
from leyline.client import Client
from leyline.error import ServiceError


def register(application: typer.Typer) -> None:
    """Add the command."""
    application.command()(health)


@connecting
def health(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the server is.")],
    service: Annotated[
        str, typer.Option(help="One of its services by its full name; else the whole server.")
    ] = "",
    answers: Annotated[
        bool, typer.Option("--answers", help="Succeed with any answer, NOT_SERVING included.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the answer.")
    ] = 30.0,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Say whether a server serves; the exit code says it too.

    Examples:

      leyline health 127.0.0.1:50051

      leyline health 127.0.0.1:50052 --service leyline.v1.PolicyService

      leyline health 127.0.0.1:50051 --answers --timeout 10
    """

    async def ask() -> str:
        try:
            async with asyncio.timeout(timeout_s), Client(address, credentials) as client:
                return await client.health(service)
        except TimeoutError:
            message = f"no answer from {address} within {timeout_s:g} s"
            raise ServiceError("DEADLINE_EXCEEDED", "", message) from None

    status = finish(ask())
    if as_json:
        print_json({"address": address, "service": service, "status": status})
    else:
        print(status)
    raise typer.Exit(0 if answers or status == "SERVING" else 1)
