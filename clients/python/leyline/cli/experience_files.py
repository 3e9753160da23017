"""`leyline experience export` and `leyline experience import`: experience as files."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import SIMIC, AsJson, SimicAt, finish, print_json, print_table, tell_break
from leyline.cli.specs import read_spec
from leyline.client import Experience
from leyline.files.error import FileRefused, NotExperience
from leyline.installation import check_extra
from leyline.observation import BadSpec
from leyline.rules import violations
from leyline.v1.episode_pb2 import EpisodeReference
from leyline.v1.experience_pb2 import ReadEpisodesRequest

if TYPE_CHECKING:
    from leyline.files.importing import Report
    from leyline.files.source import Source
    from leyline.files.specs import Specs

# What needs this extra is imported by the commands, not with this module.
_EXTRA = "files"
_SUFFIX = ".parquet"


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    commands.command()(export)
    commands.command(name="import")(import_)


@connecting
def export(
    destination: Annotated[
        str, typer.Argument(help="NAME.parquet, or a data set's name for Minari: leyline/first-v0.")
    ],
    run_id: Annotated[str, typer.Option("--run", help="Only this run.")] = "",
    version: Annotated[
        str, typer.Option(help="Only episodes of which this policy version decided a step.")
    ] = "",
    since: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            help="Only episodes that began then or later: 2026-11-28 or 2026-11-28T12:30:00, UTC.",
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(metavar="TIME", help="Only episodes that began earlier.")
    ] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Only episodes that have ended.")] = False,
    spec: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="An observation spec of your own, as YAML or JSON, if the experience is under it.",
        ),
    ] = "",
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Write stored experience to a file: whole episodes, which `import` reads again.

    NAME.parquet has one row a step. A data set of Minari lies where Minari looks for its own
    (MINARI_DATASETS_PATH, else ~/.minari/datasets), and minari.load_dataset loads it; all its
    episodes have one observation spec and one number of slots. docs/experience-files.md says what
    is in either. A file that is there already is not replaced.

    Examples:

      leyline experience export all.parquet

      leyline experience export first.parquet --run first --ended

      leyline experience export leyline/november-v0 --since 2026-11-01 --until 2026-12-01 --json
    """
    request = ReadEpisodesRequest(run_id=run_id, policy_version=version, ended_only=ended)
    if since is not None:
        request.began_after.FromDatetime(since)
    if until is not None:
        request.began_before.FromDatetime(until)
    check_extra(_EXTRA)
    written = finish(_export(destination, request, _specs(spec), simic, credentials))
    if as_json:
        print_json(written)
        return
    counts = f"{written['episodes']} episodes, {written['steps']} steps, {written['bytes']:,} bytes"
    print(f"{written['path']}  {counts}")
    if written["left_out"]:
        print(
            f"left out: {written['left_out']} episodes without steps, or with steps missing; "
            "Minari has no such, Parquet has"
        )


async def _export(
    destination: str,
    request: ReadEpisodesRequest,
    specs: Specs,
    simic: str,
    credentials: Credentials,
) -> dict[str, Any]:
    from leyline.files.dataset import MinariExport
    from leyline.files.parquet import ParquetExport

    is_parquet = destination.endswith(_SUFFIX)
    export = (
        ParquetExport(Path(destination), specs) if is_parquet else MinariExport(destination, specs)
    )
    async with Experience(simic, credentials, tell_break) as experience:
        counted = await experience.statistics(request.run_id)
        is_whole = request == ReadEpisodesRequest(run_id=request.run_id)
        with export, _progress() as progress:
            bar = progress.add_task("", total=counted.transitions if is_whole else None)
            async for episode in experience.episodes(request):
                export.add(episode)
                progress.advance(bar, len(episode.steps))
    return {
        "path": str(export.path),
        "format": "parquet" if is_parquet else "minari",
        "episodes": export.episodes,
        "steps": export.steps,
        "left_out": export.left_out,
        "bytes": _size(export.path),
    }


def _specs(spec: str) -> Specs:
    from leyline.files.specs import Specs

    try:
        return Specs(read_spec(spec) if spec else None)
    except BadSpec as error:
        raise typer.BadParameter(f"--spec: {error}") from None


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@connecting
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="NAME.parquet, a data set's folder, or its name where Minari looks for its own."
        ),
    ],
    run_id: Annotated[str, typer.Option("--run", help="Only this run of the file.")] = "",
    new_name: Annotated[
        str, typer.Option("--as", help="Another name for the run; needs --run.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, and say what would be imported.")
    ] = False,
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Put experience from a file into Simic: what is new, and nothing twice.

    Episodes keep their run, index, policy, origin, steps and end. An episode that is there with
    another content stays as it is, is listed, and makes the exit code 1; the others are imported.
    Where an import broke off, the same command again completes it. Imported episodes follow no
    registry: they are pinned to no version, and they began when they were imported.

    Examples:

      leyline experience import first.parquet --dry-run

      leyline experience import leyline/november-v0 --json

      leyline experience import first.parquet --run first --as first-of-the-laptop
    """
    if new_name and not run_id:
        raise typer.BadParameter("--as: names one run anew: say which with --run")
    if new_name and violations(EpisodeReference(run_id=new_name)):
        raise typer.BadParameter(
            f"--as: {new_name!r} names no run: letters, digits, '.', '_' and '-', at most 63"
        )
    check_extra(_EXTRA)
    opened = _source(source)
    report = finish(_import(opened, run_id, new_name, dry_run, simic, credentials))
    if as_json:
        print_json({"dry_run": dry_run, **dataclasses.asdict(report)})
    else:
        _print(report, dry_run)
    raise typer.Exit(1 if report.refused else 0)


def _source(source: str) -> Source:
    from leyline.files.dataset import MinariSource, local_path
    from leyline.files.parquet import ParquetSource

    path = Path(source)
    if path.is_dir():
        return MinariSource(path)
    if path.exists() or source.endswith(_SUFFIX):
        return ParquetSource(path)
    return MinariSource(local_path(source))


async def _import(
    source: Source, run_id: str, new_name: str, dry_run: bool, simic: str, credentials: Credentials
) -> Report:
    from leyline.files.importing import Importer, rename

    async with Experience(simic, credentials, tell_break) as experience:
        await experience.health()
        importer = Importer(experience, dry_run=dry_run)
        with _progress() as progress:
            bar = progress.add_task("", total=None if run_id else source.total_steps)
            found = False
            try:
                for episode in source.episodes(run_id):
                    found = True
                    if new_name:
                        rename(episode, new_name)
                    await importer.take(episode)
                    progress.advance(bar, len(episode.steps))
            except NotExperience as error:
                await importer.finish()
                taken = importer.report.imported + importer.report.known
                are = "could be stored" if dry_run else "are stored"
                raise FileRefused(f"{error}; {taken} episodes before that {are}") from None
            await importer.finish()
    if run_id and not found:
        raise FileRefused(f"the file has no run {run_id!r}")
    return importer.report


def _print(report: Report, dry_run: bool) -> None:
    done = "would be imported" if dry_run else "imported"
    print(f"{done}: {report.imported} episodes, {report.steps} steps")
    print(f"there already: {report.known} episodes")
    if report.refused:
        print(f"refused: {len(report.refused)} episodes")
        print()
        print_table(
            ["run", "episode", "reason", "what is stored"],
            [dataclasses.astuple(refusal) for refusal in report.refused],
        )


def _progress() -> Progress:
    """A bar of steps with the time left; nothing where nobody watches."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("steps"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
