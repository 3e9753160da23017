"""`leyline run fork`: an episode from one of its steps on, under another policy."""

from __future__ import annotations

from typing import Annotated

import typer

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import KASMINA, AsJson, Changes, KasminaAt, filled, finish
from leyline.cli.runs import print_run
from leyline.cli.watching import follow
from leyline.client import Trainer
from leyline.document import Document, InvalidDocument
from leyline.filling import Problem
from leyline.v1.trainer_pb2 import Run, RunSpec

_PARTS = ("step", "action_type", "slot_id")


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command()(fork)


@connecting
def fork(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run to fork from.")],
    episode: Annotated[int, typer.Argument(min=0, help="Its episode.")],
    step: Annotated[int, typer.Argument(min=0, help="The step at which the fork begins.")],
    policy: Annotated[
        str, typer.Option(metavar="NAME", help="Policy endpoint that decides in the fork.")
    ] = "",
    plan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP:ACTION:SLOT",
            help="Decide this, counting steps from the fork on, and ask no policy. Can be given "
            "more than once; `wait` alone only waits.",
        ),
    ] = None,
    changes: Changes = None,
    name: Annotated[str, typer.Option("--id", help="A name for the new run.")] = "",
    watch: Annotated[
        bool, typer.Option("--watch", help="Watch it until it ends, and show what came of it.")
    ] = False,
    kasmina: KasminaAt = KASMINA,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Go on with an episode from one of its steps, under another policy.

    The trainer keeps an episode's checkpoints where its run has keep_checkpoints set.

    Examples:

      leyline run fork my-run 0 12 --policy other --watch

      leyline run fork my-run 0 12 --plan 0:germinate:slot-1 --plan 1:advance:slot-1

      leyline run fork my-run 0 12 --plan wait --id what-if-not
    """
    if policy and plan:
        raise InvalidDocument("--plan", [Problem("", "a plan asks no policy: leave out --policy")])
    document = Document.empty("--set")
    document.change(f"fork.parent.run_id={run_id}")
    document.change(f"fork.parent.episode_index={episode}")
    document.change(f"fork.step={step}")
    if policy:
        document.change(f"policy.endpoint={policy}")
    if plan:
        document.change(f"policy.plan={_plan(plan)}")
    spec = filled(RunSpec, document, changes)

    async def ask() -> Run:
        async with Trainer(kasmina, credentials) as trainer:
            return await trainer.start(spec, name)

    run = finish(ask())
    if watch:
        follow(run.run_id, 0, kasmina, credentials, as_json, with_result=True)
    print_run(run, as_json)


def _plan(given: list[str]) -> str:
    """Return a plan as YAML; whether its values are good is found where it is read."""
    if given == ["wait"]:
        return "{}"
    actions = []
    for action in given:
        parts = action.split(":")
        if not 2 <= len(parts) <= len(_PARTS) or not all(parts):
            raise InvalidDocument("--plan", [Problem("", f"{action!r} is not STEP:ACTION:SLOT")])
        actions.append(
            "{" + ", ".join(f"{of}: {part}" for of, part in zip(_PARTS, parts, strict=False)) + "}"
        )
    return "{actions: [" + ", ".join(actions) + "]}"
