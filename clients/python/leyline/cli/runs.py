"""`leyline run`: runs of a trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from leyline.cli.output import (
    KASMINA,
    AsJson,
    Ca,
    Changes,
    KasminaAt,
    as_dict,
    changed,
    finish,
    print_json,
    print_table,
)
from leyline.client import Trainer
from leyline.record import RunRecord, state_name
from leyline.v1.trainer_pb2 import Run, RunSpec, WatchRunResponse

commands = typer.Typer(help="Runs: episodes of a network that grows.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]


def _print(run: Run, as_json: bool) -> None:
    if as_json:
        print_json(run)
        return
    episodes, horizon = run.spec.episodes, run.spec.training.horizon
    status = f": {run.status_message}" if run.status_message else ""
    print(f"run       {run.run_id}{' - ' if run.spec.title else ''}{run.spec.title}")
    print(f"state     {state_name(run.state)}{status}")
    print(f"data      {run.spec.dataset.name}, network {run.spec.host.name}")
    print(f"episodes  {run.episodes_ended} of {episodes} ended, {horizon} steps each")
    print(f"steps     {run.steps_completed}, {run.outbox_depth} not yet stored as experience")


@commands.command()
def start(
    dataset: Annotated[
        str | None, typer.Argument(help="cifar100, cifar10 or digits; or give --spec.")
    ] = None,
    spec_file: Annotated[
        Path | None, typer.Option("--spec", help="A RunSpec as JSON, to begin with.")
    ] = None,
    changes: Changes = None,
    run_id: Annotated[str, typer.Option("--id", help="A name for it.")] = "",
    follow: Annotated[bool, typer.Option("--watch", help="Watch it until it ends.")] = False,
    kasmina: KasminaAt = KASMINA,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Start a run.

    Examples:

      leyline run start digits --set episodes=4 --set training.horizon=10 --watch

      leyline run start cifar100 --set policy.mode=SELECTION_MODE_GREEDY --id greedy

      leyline run show greedy --json | jq .spec > spec.json; leyline run start --spec spec.json
    """
    content: dict[str, Any] = {}
    if spec_file is not None:
        try:
            content = json.loads(spec_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise typer.BadParameter(f"{spec_file}: {error}", param_hint="--spec") from None
    if dataset is not None:
        content.setdefault("dataset", {})["name"] = dataset
    spec = RunSpec()
    changed(content, changes or [], spec)

    async def ask() -> Run:
        async with Trainer(kasmina, ca) as trainer:
            return await trainer.start(spec, run_id)

    run = finish(ask())
    if follow:
        watch(run.run_id, kasmina=kasmina, ca=ca, as_json=as_json)
    else:
        _print(run, as_json)


@commands.command()
def show(
    run_id: RunId, kasmina: KasminaAt = KASMINA, ca: Ca = None, as_json: AsJson = False
) -> None:
    """Show a run.

    Examples:

      leyline run show my-run
    """

    async def ask() -> Run:
        async with Trainer(kasmina, ca) as trainer:
            return await trainer.get(run_id)

    _print(finish(ask()), as_json)


@commands.command("list")
def list_(kasmina: KasminaAt = KASMINA, ca: Ca = None, as_json: AsJson = False) -> None:
    """List runs, newest first.

    Examples:

      leyline run list
    """

    async def ask() -> list[Run]:
        async with Trainer(kasmina, ca) as trainer:
            return [run async for run in trainer.list()]

    runs = finish(ask())
    if as_json:
        print_json([as_dict(run) for run in runs])
        return
    print_table(
        ["run", "state", "data", "episodes", "steps", "created"],
        [
            (
                run.run_id,
                state_name(run.state),
                run.spec.dataset.name,
                f"{run.episodes_ended}/{run.spec.episodes}",
                run.steps_completed,
                f"{run.created_at.ToDatetime():%Y-%m-%d %H:%M:%S}",
            )
            for run in runs
        ],
    )


@commands.command()
def cancel(
    run_id: RunId,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    kasmina: KasminaAt = KASMINA,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """End a run after the interval that it is in.

    Examples:

      leyline run cancel my-run --reason "wrong data"
    """

    async def ask() -> Run:
        async with Trainer(kasmina, ca) as trainer:
            return await trainer.cancel(run_id, reason)

    _print(finish(ask()), as_json)


@commands.command()
def watch(
    run_id: RunId,
    after: Annotated[int, typer.Option(help="Show events after this sequence only.")] = 0,
    kasmina: KasminaAt = KASMINA,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Show what happens in a run until it ends; the exit code says whether it completed.

    Examples:

      leyline run watch my-run

      leyline run watch my-run --json | jq -c .step_decided.decision
    """

    async def follow() -> RunRecord:
        record = RunRecord()
        async with Trainer(kasmina, ca) as trainer:
            async for event in trainer.watch(run_id, after):
                record.add(event)
                if as_json:
                    print_json(event, lines=True)
                else:
                    _print_event(event, record)
        return record

    raise typer.Exit(0 if finish(follow()).state == "COMPLETED" else 1)


def _print_event(event: WatchRunResponse, record: RunRecord) -> None:
    kind = event.WhichOneof("event")
    if kind == "state_changed":
        message = f": {record.message}" if record.message else ""
        print(f"{record.state}{message}", flush=True)
    elif kind == "episode_began":
        version = event.episode_began.policy_version or "pinned at its first decision"
        print(f"episode {event.episode_began.episode_index}, policy {version}", flush=True)
    elif kind == "step_completed":
        step_id = event.step_completed.step_id
        step = record.episodes[step_id.episode_index].steps.get(step_id.step)
        accuracy = event.step_completed.next_snapshot.val_accuracy
        print(f"  step {step_id.step:3}  {100 * accuracy:5.1f} %  {step or ''}", flush=True)
    elif kind == "episode_ended":
        ended = record.episodes[event.episode_ended.episode_index]
        print(f"  {ended.termination}", flush=True)
