"""`leyline demo`: watch a network grow under a policy that learns while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import KASMINA, SIMIC, TAMIYO, KasminaAt, SimicAt, TamiyoAt, finish
from leyline.demo.plot import plot
from leyline.demo.preset import DEMO
from leyline.demo.session import DemoError, Demonstration, Session
from leyline.demo.summary import print_summary, summarize
from leyline.demo.view import LineView, LiveView
from leyline.installation import check_extra
from leyline.stack import Addresses
from leyline.supervision import on_signals, supervised_environment


def register(application: typer.Typer) -> None:
    """Add the command."""
    application.command()(demo)


@connecting
def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Run directory; else .leyline/demo-<time>.")
    ] = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Start no services, use those that run.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON; progress goes to stderr.")
    ] = False,
    kasmina: KasminaAt = KASMINA,
    tamiyo: TamiyoAt = TAMIYO,
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
) -> None:
    """Watch a network grow under a policy that learns while it serves. Takes a few minutes.

    Starts Kasmina, Tamiyo and Simic on free ports, runs ten short episodes, retrains the policy
    after every second one, and stops all again. Exits with 0 only if everything adds up.

    Examples:

      leyline demo

      leyline demo --dir /tmp/demo --json > summary.json

      leyline demo --connect --kasmina 127.0.0.1:50051
    """
    check_extra("plot" if connect else "stack")
    run_id = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    directory = (directory or Path(".leyline") / run_id).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    addresses = Addresses(kasmina, tamiyo, simic) if connect else None
    console = Console(stderr=as_json, highlight=False)
    demonstration = Demonstration(DEMO, run_id)
    console.print(f"leyline demo, preset {DEMO.name}, run directory {directory}", soft_wrap=True)
    try:
        finish(_carry_out(demonstration, addresses, directory, console, credentials))
    except DemoError as error:
        print(f"leyline: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except asyncio.CancelledError:
        print("leyline: broken off", file=sys.stderr)
        raise typer.Exit(130) from None
    summary = _write_results(demonstration, directory)
    if as_json:
        print(json.dumps(summary, indent=2))
    print_summary(summary, _files(summary), console)
    raise typer.Exit(1 if summary["problems"] else 0)


async def _carry_out(
    demonstration: Demonstration,
    addresses: Addresses | None,
    directory: Path,
    console: Console,
    credentials: Credentials,
) -> None:
    me = asyncio.current_task()
    assert me is not None
    with contextlib.ExitStack() as closing:
        closing.enter_context(on_signals(me.cancel, lambda: None))
        view: LiveView | LineView = LineView(console)
        if console.is_terminal:
            view = closing.enter_context(LiveView(console))
        async with contextlib.AsyncExitStack() as stack:
            if addresses is None:
                view.say("starting Kasmina, Tamiyo and Simic")
                addresses = await stack.enter_async_context(_services(directory))
            await Session(addresses, view, credentials).carry_out(demonstration)


@contextlib.asynccontextmanager
async def _services(directory: Path) -> AsyncIterator[Addresses]:
    """Run the three services, as `leyline up` does, in a process of its own.

    Raises:
        DemoError: they cannot be started, or cannot be kept running.
    """
    computing = {
        "LEYLINE_KASMINA_THREADS": str(min(2, os.cpu_count() or 1)),
        # Threads that wait by spinning take the time of the other services, and of each other.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "leyline.cli", "up", "--dir", str(directory)),
        *("--policy", "learned", "--free-ports", "--quiet", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env={**computing, **supervised_environment()},
        start_new_session=True,  # Ctrl-C is for us; we pass it on in our own time
    )
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise DemoError("the services could not be started; what they said is above")
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_until_ended(process))
            yield Addresses(**json.loads(line)["addresses"])
            watching.cancel()
    except* DemoError as errors:
        raise errors.exceptions[0] from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _until_ended(process: asyncio.subprocess.Process) -> None:
    await process.wait()
    raise DemoError("the services ended; what they said is above")


def _write_results(demonstration: Demonstration, directory: Path) -> dict[str, Any]:
    """Write the picture and the summary into the run directory."""
    picture = directory / "demo.png"
    plot(demonstration, picture)
    summary = {
        **summarize(demonstration),
        "directory": str(directory),
        "plot": str(picture),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _files(summary: dict[str, Any]) -> dict[str, str]:
    return {"run directory": summary["directory"], "picture": summary["plot"]}
