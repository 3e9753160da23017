"""`leyline experience`: what is stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli import experience_files
from leyline.cli.credentials import connecting
from leyline.cli.output import SIMIC, AsJson, SimicAt, as_dict, finish, print_json, print_table
from leyline.cli.times import point_in_time
from leyline.client import Experience
from leyline.record import action_name, termination_name
from leyline.v1.experience_pb2 import (
    EpisodeSummary,
    GetStatisticsResponse,
    IntegrityState,
    ListEpisodesRequest,
)

commands = typer.Typer(help="Stored experience.", no_args_is_help=True)


experience_files.register(commands)


@commands.callback()
def _commands() -> None:
    pass


@commands.command()
@connecting
def stats(
    run_id: Annotated[str, typer.Option("--run", help="Only this run.")] = "",
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Count what is stored.

    Examples:

      leyline experience stats

      leyline experience stats --run my-run --json
    """

    async def ask() -> GetStatisticsResponse:
        async with Experience(simic, credentials) as experience:
            return await experience.statistics(run_id)

    counts = finish(ask())
    if as_json:
        print_json(counts)
        return
    print(f"runs         {counts.runs}")
    print(f"episodes     {counts.episodes}, {counts.episodes_ended} of them ended")
    print(f"transitions  {counts.transitions}, {counts.fallback_steps} of them by fallback")
    print(f"database     {counts.stored_bytes:,} bytes, {_INTEGRITY[counts.integrity]}")
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


@commands.command()
@connecting
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Copy everything that Simic keeps into a file, while it goes on: experience, versions,
    trainings.

    The file is there whole or not at all. It is a SQLite database, whatever database Simic itself
    has, and `leyline serve simic --restore FILE` puts it into an empty one of either kind.

    Examples:

      leyline experience backup simic-2026-01-31.sqlite3

      leyline experience backup latest.sqlite3 --force --json
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=40),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not Console(stderr=True).is_terminal,
    )

    async def ask() -> str:
        async with Experience(simic, credentials) as experience:
            with progress:
                bar = progress.add_task("Simic makes the copy", total=None)
                return await experience.back_up(
                    file,
                    overwrite=force,
                    on_progress=lambda done, total: progress.update(
                        bar, description=file.name, completed=done, total=total
                    ),
                )

    sha256 = finish(ask())
    size = file.stat().st_size
    if as_json:
        print_json({"file": str(file), "bytes": size, "sha256": sha256})
        return
    print(f"{file}  {size:,} bytes, SHA-256 {sha256}")
    print(f"to restore: leyline serve simic --restore {file} --state-dir NEW_DIRECTORY")


_INTEGRITY = {
    IntegrityState.INTEGRITY_STATE_UNSPECIFIED: "last closed in good order",
    IntegrityState.INTEGRITY_STATE_CHECKING: "being checked after a stop that was not a clean one",
    IntegrityState.INTEGRITY_STATE_SOUND: "checked and sound",
    IntegrityState.INTEGRITY_STATE_DAMAGED: "DAMAGED: Simic's log says what",
}


@commands.command("list")
@connecting
def list_(
    run_id: Annotated[str, typer.Option("--run", help="Only this run.")] = "",
    version: Annotated[
        str, typer.Option(help="Only episodes of which this policy version decided a step.")
    ] = "",
    since: Annotated[
        Timestamp | None,
        typer.Option(
            metavar="TIME",
            parser=point_in_time,
            help="Only those that began then or later: a date or time (UTC unless it says "
            "otherwise), or how long ago, as 90m, 12h, 7d.",
        ),
    ] = None,
    until: Annotated[
        Timestamp | None,
        typer.Option(metavar="TIME", parser=point_in_time, help="Only those that began before."),
    ] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Only those that have ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    page_token: Annotated[
        str, typer.Option(metavar="TOKEN", help="Go on where an earlier list ended.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="List every one.")] = False,
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """List stored episodes, newest first.

    Examples:

      leyline experience list --run my-run --ended

      leyline experience list --since 7d --limit 10

      leyline experience list --since 2026-01-31 --until 2026-02-01T12:00 --all --json
    """
    request = ListEpisodesRequest(
        run_id=run_id,
        policy_version=version,
        began_after=since,
        began_before=until,
        ended_only=ended,
        page_size=limit,
        page_token=page_token,
    )

    async def ask() -> tuple[list[EpisodeSummary], str]:
        async with Experience(simic, credentials) as experience:
            episodes, token = await experience.page(request)
            while everything and token:
                request.page_token = token
                more, token = await experience.page(request)
                episodes += more
            return episodes, token

    episodes, token = finish(ask())
    if as_json:
        listed = [as_dict(episode) for episode in episodes]
        print_json({"episodes": listed, "next_page_token": token})
        return
    print_table(
        ["run", "episode", "policy", "pinned to", "steps", "ended", "began"],
        [
            (
                episode.head.run_id,
                episode.head.episode_index,
                episode.head.policy,
                episode.head.policy_version or "-",
                _steps(episode),
                termination_name(episode.end.termination) if episode.HasField("end") else "-",
                f"{episode.head.began_at.ToDatetime():%Y-%m-%d %H:%M:%S}",
            )
            for episode in episodes
        ],
    )
    if token:
        print(f"more: --page-token {token}", file=sys.stderr)


def _steps(episode: EpisodeSummary) -> str:
    """How many are stored, and of how many, where some are missing."""
    stored = episode.head.steps
    if not episode.HasField("end"):
        return str(stored)
    steps = episode.end.steps
    return str(steps) if stored >= steps else f"{stored} of {steps}"
