"""`leyline run watch`: what happens in a run, with the time that it will yet take."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from leyline import document
from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import KASMINA, AsJson, KasminaAt, as_dict, finish, print_json, tell_break
from leyline.client import Trainer
from leyline.pace import Pace
from leyline.record import EpisodeRecord, RunRecord, stage_name, state_name
from leyline.v1.snapshot_pb2 import STAGE_FOSSILIZED
from leyline.v1.trainer_pb2 import Run, WatchRunResponse


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command()(watch)


@connecting
def watch(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
    after: Annotated[int, typer.Option(help="Show events after this sequence only.")] = 0,
    kasmina: KasminaAt = KASMINA,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Show what happens in a run until it ends; the exit code says whether it completed.

    Where the connection breaks, it is made again, and nothing is shown twice or left out.

    Examples:

      leyline run watch my-run

      leyline run watch my-run --json | jq -c .step_decided.decision
    """
    follow(run_id, after, kasmina, credentials, as_json, with_result=False)


def follow(
    run_id: str,
    after: int,
    kasmina: str,
    credentials: Credentials,
    as_json: bool,
    *,
    with_result: bool,
) -> None:
    """Show a run until it ends, and leave with the exit code that says how.

    Args:
        with_result: whether what came of it, and its settled specification, is shown at the end.
    """
    record = RunRecord()

    async def watched() -> Run:
        async with Trainer(kasmina, credentials, tell_break) as trainer:
            with _View(record, Pace((await trainer.get(run_id)).spec), as_json) as view:
                async for event in trainer.watch(run_id, after):
                    record.add(event)
                    view.show(event)
            return await trainer.get(run_id)

    run = finish(watched())
    if with_result and as_json:
        print_json({"run": as_dict(run)}, lines=True)
    elif with_result:
        for episode in record.episodes.values():
            print(f"# episode {episode.index}: {_outcome(episode)}")
        print(as_yaml(run), end="")
    raise typer.Exit(0 if record.state == "COMPLETED" else 1)


def as_yaml(run: Run) -> str:
    """Return a run's settled specification as a file that can be run again."""
    return (
        f"# run {run.run_id}: {state_name(run.state)}, {run.episodes_ended} of "
        f"{run.spec.episodes} episodes ended\n{document.write(run.spec)}"
    )


class _View:
    """Shows events as lines, and on a terminal below them how far the run is."""

    def __init__(self, record: RunRecord, pace: Pace, as_json: bool) -> None:
        self._record = record
        self._pace = pace
        self._as_json = as_json
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("intervals"),
                BarColumn(bar_width=40),
                TextColumn("{task.fields[pace]}"),
                console=Console(stderr=True),
                redirect_stdout=sys.stdout.isatty(),
                transient=True,
            )
            self._task = self._bar.add_task("", total=pace.total, pace=str(pace))

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: WatchRunResponse) -> None:
        """Show the next event, which the record has taken in."""
        self._pace.add(event)
        if self._as_json:
            print_json(event, lines=True)
        else:
            self._print(event)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._pace.done, pace=str(self._pace))

    def _print(self, event: WatchRunResponse) -> None:
        record, kind = self._record, event.WhichOneof("event")
        if kind == "state_changed":
            message = f": {record.message}" if record.message else ""
            print(f"{record.state}{message}", flush=True)
        elif kind == "episode_began":
            began = event.episode_began
            version = began.policy_version or "pinned at its first decision"
            pair = began.origin.evaluation_pair
            evaluates = (
                f", evaluation pair {pair}" if began.origin.HasField("evaluation_pair") else ""
            )
            print(f"episode {began.episode_index}, policy {version}{evaluates}", flush=True)
        elif kind == "step_completed":
            step_id = event.step_completed.step_id
            step = record.episodes[step_id.episode_index].steps.get(step_id.step)
            accuracy = event.step_completed.next_snapshot.val_accuracy
            pace = f"  [{self._pace}]" if self._bar is None else ""
            print(
                f"  step {step_id.step:3}  {100 * accuracy:5.1f} %  {step or ''}{pace}", flush=True
            )
        elif kind == "episode_ended":
            ended = record.episodes[event.episode_ended.episode_index]
            print(f"  {ended.termination}", flush=True)


def _outcome(episode: EpisodeRecord) -> str:
    steps = episode.completed
    if not steps:
        return episode.termination or "no step completed"
    grown = [
        f"{slot.slot_id} {stage_name(slot.stage).lower()}"
        for slot in sorted(steps[-1].snapshot.slots, key=lambda slot: slot.depth)
        if slot.stage == STAGE_FOSSILIZED
    ]
    return (
        f"{episode.termination or 'not ended'}, {100 * steps[-1].snapshot.val_accuracy:.1f} % "
        f"after {len(steps)} steps, policy {episode.policy_version or '-'}, "
        f"{', '.join(grown) or 'nothing grown'}"
    )
