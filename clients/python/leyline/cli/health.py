"""`leyline health`: whether a server serves."""

from __future__ import annotations

from typing import Annotated

import typer

from leyline.cli.output import AsJson, Ca, finish, print_json
from leyline.client import Client


def register(application: typer.Typer) -> None:
    """Add the command."""
    application.command()(health)


def health(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the server is.")],
    service: Annotated[
        str, typer.Option(help="One of its services by its full name; else the whole server.")
    ] = "",
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a server serves; the exit code says it too.

    Examples:

      leyline health 127.0.0.1:50051

      leyline health 127.0.0.1:50052 --service leyline.v1.PolicyService
    """

    async def ask() -> str:
        async with Client(address, ca) as client:
            return await client.health(service)

    status = finish(ask())
    if as_json:
        print_json({"address": address, "service": service, "status": status})
    else:
        print(status)
    raise typer.Exit(0 if status == "SERVING" else 1)
