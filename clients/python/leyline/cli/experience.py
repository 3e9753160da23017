"""`leyline experience`: what is stored."""

from __future__ import annotations

from typing import Annotated

import typer

from leyline.cli import experience_files
from leyline.cli.output import SIMIC, AsJson, Ca, SimicAt, finish, print_json, print_table
from leyline.client import Experience
from leyline.record import action_name
from leyline.v1.experience_pb2 import GetStatisticsResponse

commands = typer.Typer(help="Stored experience.", no_args_is_help=True)


experience_files.register(commands)


@commands.callback()
def _commands() -> None:
    pass


@commands.command()
def stats(
    run_id: Annotated[str, typer.Option("--run", help="Only this run.")] = "",
    simic: SimicAt = SIMIC,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Count what is stored.

    Examples:

      leyline experience stats

      leyline experience stats --run my-run --json
    """

    async def ask() -> GetStatisticsResponse:
        async with Experience(simic, ca) as experience:
            return await experience.statistics(run_id)

    counts = finish(ask())
    if as_json:
        print_json(counts)
        return
    print(f"runs         {counts.runs}")
    print(f"episodes     {counts.episodes}, {counts.episodes_ended} of them ended")
    print(f"transitions  {counts.transitions}, {counts.fallback_steps} of them by fallback")
    print()
    print_table(
        ["action", "slot", "steps", "no-ops"],
        [
            (action_name(count.action_type), count.slot_id or "-", count.steps, count.no_ops)
            for count in counts.actions
        ],
    )
    print()
    print_table(
        ["policy version", "steps", "episodes"],
        [(count.policy_version, count.steps, count.episodes) for count in counts.versions],
    )
