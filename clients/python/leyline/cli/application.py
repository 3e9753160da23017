"""All commands in one application, and how any of them fails."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from leyline.channel import CredentialsError
from leyline.cli import (
    certs,
    conformance,
    demo,
    experience,
    forks,
    health,
    importing,
    networks,
    policies,
    runs,
    serve,
    training,
    up,
    watching,
)
from leyline.client import DownloadCorrupt
from leyline.conformance import Unreachable
from leyline.document import InvalidDocument
from leyline.error import ServiceError
from leyline.files.error import FileRefused
from leyline.installation import DISTRIBUTION, InstallationError
from leyline.network import NoNetwork

application = typer.Typer(
    name="leyline",
    help="Neural networks that grow while they train, under a policy that anyone can swap.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
demo.register(application)
up.register(application)
serve.register(application)
for module in (watching, forks, networks):
    module.register(runs.commands)
application.add_typer(runs.commands, name="run")
application.add_typer(networks.commands, name="network")
application.add_typer(training.commands, name="training")
importing.register(policies.commands)
application.add_typer(policies.commands, name="policy")
application.add_typer(experience.commands, name="experience")
application.add_typer(certs.commands, name="certs")
health.register(application)
conformance.register(application)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"leyline {importlib.metadata.version(DISTRIBUTION)}")
        raise typer.Exit


@application.callback()
def _application(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Run a command; says in one line what went wrong; returns the exit code."""
    try:
        application(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except InvalidDocument as error:
        one, *more = str(error).splitlines()
        print(
            f"leyline: {one}" if not more else f"leyline: {1 + len(more)} mistakes", file=sys.stderr
        )
        for line in (one, *more) if more else ():
            print(line, file=sys.stderr)
        return 2
    except (
        ServiceError,
        InstallationError,
        CredentialsError,
        DownloadCorrupt,
        FileRefused,
        NoNetwork,
        OSError,
    ) as error:
        print(f"leyline: {_said(error)}", file=sys.stderr)
        return 1
    except Unreachable as error:
        print(f"leyline: {error}", file=sys.stderr)
        return 2
    return 0


def _said(error: Exception) -> str:
    """What an error says; of the operating system's about one file: which, and what it is."""
    if not isinstance(error, OSError) or error.filename2 is not None:
        return str(error)
    if not isinstance(error.filename, str | bytes | os.PathLike):
        # None, or the number of an open file.
        return str(error)
    file = Path(os.fsdecode(error.filename))
    if isinstance(error, FileNotFoundError) and not file.parent.exists():
        return f"there is no folder {file.parent}: make it, or name another"
    return f"{file}: {error.strerror}"
