"""`leyline serve`: one service, in this process."""

from __future__ import annotations

import importlib
from enum import StrEnum
from typing import Annotated

import typer

from leyline.installation import check_extra
from leyline.supervision import die_with_supervisor


class _Name(StrEnum):
    KASMINA = "kasmina"
    TAMIYO = "tamiyo"
    SIMIC = "simic"


def register(application: typer.Typer) -> None:
    """Add the command."""
    application.command(
        # What follows the name is the service's own, `--help` included.
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
    )(serve)


def serve(
    name: Annotated[_Name, typer.Argument(help="Which service.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="The service's own; --help shows them.")
    ] = None,
) -> None:
    """Run one service until it is stopped.

    Examples:

      leyline serve simic

      leyline serve tamiyo --policy heuristic

      leyline serve kasmina --help
    """
    die_with_supervisor()
    check_extra(name.value)
    # By name, because the client must not depend on the services.
    service = importlib.import_module(f"{name.value}.service")
    raise typer.Exit(service.main(arguments or []))
