"""`leyline up`: the three services on this machine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from leyline.channel import own_token
from leyline.cli.output import KASMINA, SIMIC, TAMIYO, finish, print_json
from leyline.installation import check_extra
from leyline.stack import NAMES, Addresses, for_its_user_alone, make_own_folder, services
from leyline.supervision import ServiceFailed, Supervisor, die_with_supervisor, on_signals

_COLOURS = {"kasmina": "green", "tamiyo": "magenta", "simic": "cyan"}
_PLAIN = {"kasmina": KASMINA, "tamiyo": TAMIYO, "simic": SIMIC}


def register(application: typer.Typer) -> None:
    """Add the command."""
    application.command()(up)


def up(
    directory: Annotated[
        Path,
        typer.Option("--dir", help="Where the services keep their state and logs; yours alone."),
    ] = Path(".leyline"),
    policy: Annotated[
        str | None, typer.Option(help="Tamiyo's: learned, heuristic, random or wait.")
    ] = None,
    kasmina: Annotated[str, typer.Option(metavar="ADDRESS", help="Where it listens.")] = KASMINA,
    tamiyo: Annotated[str, typer.Option(metavar="ADDRESS", help="Where it listens.")] = TAMIYO,
    simic: Annotated[str, typer.Option(metavar="ADDRESS", help="Where it listens.")] = SIMIC,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Listen on ports that nobody uses.")
    ] = False,
    open_: Annotated[
        bool,
        typer.Option(
            "--open", help="Take calls of every user of this machine: none needs a token."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Logs go to files only.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as JSON, logs to stderr.")
    ] = False,
) -> None:
    """Run Kasmina, Tamiyo and Simic, and start again what crashes, until Ctrl-C.

    Examples:

      leyline up

      leyline up --policy heuristic --dir /tmp/growth

      leyline up --free-ports --quiet --json
    """
    check_extra("stack")
    die_with_supervisor()
    addresses = Addresses.free() if free_ports else Addresses(kasmina, tamiyo, simic)
    directory = directory.absolute()
    make_own_folder(directory)
    access = {} if open_ else for_its_user_alone(directory)
    supervisor = Supervisor(
        list(services(addresses, directory, policy)),
        directory,
        {**_environment(), **access},
        None if quiet else _Logs(),
    )
    try:
        token = None if open_ else own_token()
        announce = partial(_announce, addresses, directory, token, as_json)
        finish(_keep_up(supervisor, announce))
    except ServiceFailed as failure:
        for line in failure.tail if quiet else ():
            print(f"{failure.name:8}| {line}", file=sys.stderr)
        print(f"leyline: {failure}", file=sys.stderr)
        raise typer.Exit(1) from None


def _environment() -> dict[str, str]:
    """Have services log for people where people look."""
    if not sys.stderr.isatty():
        return {}
    return {f"LEYLINE_{name.upper()}_LOG_FORMAT": "console" for name in NAMES}


class _Logs:
    """Prints the services' lines to stderr, each after its service's name."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def __call__(self, name: str, line: str) -> None:
        text = Text(f"{name:8}| ", style=_COLOURS[name])
        self._console.print(text + Text.from_ansi(line), soft_wrap=True)


async def _keep_up(supervisor: Supervisor, announce: Callable[[], None]) -> None:
    stop = asyncio.Event()
    with on_signals(stop.set, supervisor.kill):
        starting = asyncio.ensure_future(supervisor.__aenter__())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return
        await starting
        try:
            announce()
            failing = asyncio.ensure_future(supervisor.wait())
            await asyncio.wait({failing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                await failing
        finally:
            await supervisor.__aexit__()


def _announce(addresses: Addresses, directory: Path, token: Path | None, as_json: bool) -> None:
    """Say where everything is."""
    where = {name: getattr(addresses, name) for name in _PLAIN}
    if as_json:
        shown = None if token is None else str(token)
        print_json({"addresses": where, "directory": str(directory), "token": shown}, lines=True)
        return
    for name, address in where.items():
        print(f"{name:8} {address}")
    if token is not None:
        print(f"callers show the token in {token}, as this command line does by itself")
    print(f"state and logs in {directory}; Ctrl-C stops all", flush=True)
