"""A demonstration on the screen: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from leyline.demo.session import Demonstration
from leyline.record import EpisodeRecord, StepRecord, stage_name
from leyline.v1.snapshot_pb2 import STAGE_BLENDING, SlotReading

STAGE_COLOURS = {
    "DORMANT": "bright_black",
    "GERMINATED": "yellow",
    "TRAINING": "cyan",
    "BLENDING": "magenta",
    "FOSSILIZED": "green",
}


class LineView:
    """A line for each thing that happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: set[tuple[int, int]] = set()
        self._updates = 0

    def say(self, text: str) -> None:
        """Say what happens now."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def update(self, demonstration: Demonstration) -> None:
        """Say what is new: steps that are complete, versions that were learned."""
        for update in demonstration.updates[self._updates :]:
            self._updates += 1
            self.say(
                f"learned {update.policy_version} from {update.episodes} episodes "
                f"in {update.gradient_steps} gradient steps"
            )
        for episode in demonstration.record.episodes.values():
            for number, step in episode.steps.items():
                if step.completed and (episode.index, number) not in self._said:
                    self._said.add((episode.index, number))
                    self.say(self._line(demonstration, episode, number, step))

    def _line(
        self, demonstration: Demonstration, episode: EpisodeRecord, number: int, step: StepRecord
    ) -> str:
        slots = " ".join(
            f"{stage_name(slot.stage)[0]}{slot.alpha:.1f}"
            if slot.stage == STAGE_BLENDING
            else stage_name(slot.stage)[0]
            for slot in _in_order(step)
        )
        return (
            f"episode {episode.index + 1:2}/{demonstration.preset.episodes} "
            f"step {number + 1:2}/{demonstration.horizon}  "
            f"{100 * step.snapshot.val_accuracy:5.1f} %  [{slots}]  {step}"
        )


class LiveView:
    """A table that changes in place. Use it as a context."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4)
        self._progress = Progress(
            TextColumn("steps"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("steps", total=None)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Say what happens now, above the table."""
        self._live.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def update(self, demonstration: Demonstration) -> None:
        """Draw the table anew."""
        done = sum(1 for _ in demonstration.record.steps)
        self._progress.update(self._task, total=demonstration.steps, completed=done)
        self._live.update(self._table(demonstration))

    def _table(self, demonstration: Demonstration) -> RenderableType:
        episode = demonstration.record.current
        step = episode.newest if episode else None
        parts: list[RenderableType] = [self._progress]
        if episode is not None:
            parts += ["", _head(demonstration, episode)]
        if step is not None:
            parts += ["", _slots(step)]
        parts += ["", _past(demonstration)]
        return Group(*parts)


def _head(demonstration: Demonstration, episode: EpisodeRecord) -> Text:
    step, learned = episode.newest, len(demonstration.updates)
    text = Text.assemble(
        (f"episode {episode.index + 1} of {demonstration.preset.episodes}", "bold"),
        f"   policy {episode.policy_version or '…'}   {learned} versions learned\n",
    )
    if step is None:
        return text
    number = len(episode.steps)
    text.append(f"step {number} of {demonstration.horizon}", "bold")
    text.append(f"   accuracy {100 * step.snapshot.val_accuracy:.1f} %   last decision ")
    text.append(str(step), "red" if step.no_op_reason or step.is_fallback else "bold")
    if demonstration.record.state == "PAUSED":
        text.append(f"\npaused: {demonstration.record.message}", "bold yellow")
    return text


def _in_order(step: StepRecord) -> list[SlotReading]:
    return sorted(step.snapshot.slots, key=lambda slot: slot.depth)


def _slots(step: StepRecord) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("slot", "stage", "alpha", "for", "improvement", "gradient"):
        table.add_column(column, min_width=10)
    for slot in _in_order(step):
        stage = stage_name(slot.stage)
        improved = slot.HasField("seed_improvement")
        table.add_row(
            slot.slot_id,
            Text(stage, STAGE_COLOURS[stage]),
            "━" * round(10 * slot.alpha),
            f"{slot.epochs_in_stage} steps",
            f"{100 * slot.seed_improvement:+.1f} points" if improved else "",
            f"{slot.gradient_norm:.4f}" if slot.HasField("gradient_norm") else "",
        )
    return table


def _past(demonstration: Demonstration) -> Text:
    """Final accuracy of each episode that has ended."""
    ended = [
        episode
        for _, episode in sorted(demonstration.record.episodes.items())
        if episode.termination and episode.completed
    ]
    accuracies = "  ".join(f"{100 * episode.accuracies[-1]:.1f}" for episode in ended)
    return Text(f"final accuracies in %: {accuracies or '…'}", "bright_black")
