"""`leyline run`: runs of a trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import (
    KASMINA,
    AsJson,
    Changes,
    KasminaAt,
    as_dict,
    filled,
    finish,
    print_json,
    print_table,
)
from leyline.cli.watching import as_yaml, follow
from leyline.client import Trainer
from leyline.document import Document, InvalidDocument
from leyline.filling import Problem
from leyline.indices import episode_indices, in_words
from leyline.record import state_name
from leyline.v1.trainer_pb2 import Run, RunSpec

commands = typer.Typer(help="Runs: episodes of a network that grows.", no_args_is_help=True)

_FILE_ENDINGS = (".yaml", ".yml", ".json")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]


def print_run(run: Run, as_json: bool) -> None:
    """Print a run for people, or as JSON."""
    if as_json:
        print_json(run)
        return
    spec = run.spec
    status = f": {run.status_message}" if run.status_message else ""
    data = f"{spec.dataset.name}, " if spec.dataset.name else ""
    print(f"run       {run.run_id}{' - ' if spec.title else ''}{spec.title}")
    print(f"state     {state_name(run.state)}{status}")
    print(f"data      {data}network {spec.host.name}")
    horizon = spec.training.horizon
    indices = episode_indices(spec)
    shared = "" if indices == range(len(indices)) else f" ({in_words(indices)})"
    print(f"episodes  {run.episodes_ended} of {len(indices)}{shared} ended, {horizon} steps each")
    print(f"steps     {run.steps_completed}, {run.outbox_depth} not yet stored as experience")


def _document(what: str | None) -> Document:
    """Return what a run's argument names: a file, or a data set to run on."""
    if what is None:
        return Document.empty("--set")
    if what == "-" or Path(what).is_file():
        return Document.read(Path(what))
    if what.endswith(_FILE_ENDINGS):
        raise InvalidDocument(what, [Problem("", "there is no such file")])
    document = Document.empty("--set")
    document.change(f"dataset.name={what}")
    return document


@commands.command()
@connecting
def start(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|DATASET",
            help="A run as YAML or JSON (- for the standard input), or the name of a data set.",
        ),
    ] = None,
    changes: Changes = None,
    run_id: Annotated[str, typer.Option("--id", help="A name for it.")] = "",
    watch: Annotated[
        bool, typer.Option("--watch", help="Watch it until it ends, and show what came of it.")
    ] = False,
    kasmina: KasminaAt = KASMINA,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Start a run.

    Examples:

      leyline run start digits --set episodes=4 --set training.horizon=10 --watch

      leyline run start run.yaml --set policy.mode=greedy --id greedy

      leyline run show greedy --yaml | leyline run start - --set seed=2
    """
    spec = filled(RunSpec, _document(what), changes)

    async def ask() -> Run:
        async with Trainer(kasmina, credentials) as trainer:
            return await trainer.start(spec, run_id)

    run = finish(ask())
    if watch:
        follow(run.run_id, 0, kasmina, credentials, as_json, with_result=True)
    print_run(run, as_json)


@commands.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A run as YAML or JSON.")],
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Check a file without a service: its fields, their values, and the rules of the contract.

    Whether a data set, host, blueprint or policy of that name is there, only the trainer knows.

    Examples:

      leyline run check run.yaml

      leyline run check run.yaml --set training.horizon=40 --json
    """
    if file != "-" and not Path(file).is_file():
        raise InvalidDocument(file, [Problem("", "there is no such file")])
    spec = filled(RunSpec, Document.read(Path(file)), changes)
    if as_json:
        print_json(spec)
    else:
        print(f"{file}: good")


@commands.command()
@connecting
def show(
    run_id: RunId,
    yaml: Annotated[
        bool, typer.Option("--yaml", help="Print its specification as a file to run again.")
    ] = False,
    kasmina: KasminaAt = KASMINA,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Show a run.

    Examples:

      leyline run show my-run

      leyline run show my-run --yaml > again.yaml
    """

    async def ask() -> Run:
        async with Trainer(kasmina, credentials) as trainer:
            return await trainer.get(run_id)

    run = finish(ask())
    if yaml:
        print(as_yaml(run), end="")
    else:
        print_run(run, as_json)


@commands.command("list")
@connecting
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    page_token: Annotated[
        str, typer.Option(metavar="TOKEN", help="Go on where an earlier list ended.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="List every run.")] = False,
    kasmina: KasminaAt = KASMINA,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first.

    Examples:

      leyline run list

      leyline run list --limit 10

      leyline run list --all --json | jq -r '.runs[].run_id'
    """

    async def ask() -> tuple[list[Run], str]:
        async with Trainer(kasmina, credentials) as trainer:
            runs, token = await trainer.page(limit, page_token)
            while everything and token:
                more, token = await trainer.page(limit, token)
                runs += more
            return runs, token

    runs, token = finish(ask())
    if as_json:
        print_json({"runs": [as_dict(run) for run in runs], "next_page_token": token})
        return
    print_table(
        ["run", "state", "data", "network", "episodes", "steps", "created"],
        [
            (
                run.run_id,
                state_name(run.state),
                run.spec.dataset.name or "-",
                run.spec.host.name,
                f"{run.episodes_ended}/{run.spec.episodes}",
                run.steps_completed,
                f"{run.created_at.ToDatetime():%Y-%m-%d %H:%M:%S}",
            )
            for run in runs
        ],
    )
    if token:
        print(f"more: leyline run list --limit {limit} --page-token {token}", file=sys.stderr)


@commands.command()
@connecting
def cancel(
    run_id: RunId,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    kasmina: KasminaAt = KASMINA,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """End a run after the interval that it is in.

    Examples:

      leyline run cancel my-run --reason "wrong data"
    """

    async def ask() -> Run:
        async with Trainer(kasmina, credentials) as trainer:
            return await trainer.cancel(run_id, reason)

    print_run(finish(ask()), as_json)
