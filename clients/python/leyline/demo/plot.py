"""A demonstration as a picture: the accuracy over its episodes, and below it the slots' lives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from leyline.demo.session import Demonstration
from leyline.record import EpisodeRecord, StepRecord, stage_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "DORMANT": "#eeeeee",
    "GERMINATED": "#f2d16b",
    "TRAINING": "#6bb7d6",
    "BLENDING": "#b07cc6",
    "FOSSILIZED": "#5aa469",
}
_LINE, _BEST_LINE = "#777777", "#111111"


def plot(demonstration: Demonstration, path: Path) -> None:
    """Write the picture, as PNG.

    Intervals run from left to right, episode after episode. A slot's bar has its stage's colour in
    each interval; while its seed blends, the bar is as high as alpha.
    """
    # matplotlib is heavy and in the extra for a whole stack: imported where it is needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    episodes = [e for _, e in sorted(demonstration.record.episodes.items()) if e.completed]
    figure = Figure(figsize=(14, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    width = demonstration.horizon + 1
    for place, episode in enumerate(episodes):
        _draw_accuracy(above, episode, place * width, best=_best(episodes) is episode)
        _draw_slots(below, episode, place * width)
    above.set_ylabel("validation accuracy, %")
    above.set_title(
        f"{demonstration.dataset}: {len(episodes)} episodes of {demonstration.horizon} intervals, "
        f"{len(demonstration.updates)} policy versions learned on the way"
    )
    above.grid(axis="y", alpha=0.3)
    below.set_xlabel("episode, and the policy version that decided in it")
    centres = [place * width + demonstration.horizon / 2 for place in range(len(episodes))]
    below.set_xticks(centres, [_label(episode) for episode in episodes], fontsize=8)
    stages = [Patch(color=colour, label=stage.lower()) for stage, colour in _COLOURS.items()]
    figure.legend(handles=stages, loc="outside lower center", ncols=len(stages), frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", length=0)
    figure.savefig(path, dpi=120)


def _best(episodes: list[EpisodeRecord]) -> EpisodeRecord:
    return max(episodes, key=lambda episode: episode.accuracies[-1])


def _label(episode: EpisodeRecord) -> str:
    version = (episode.policy_version or "").rpartition("-")[2]
    return f"{episode.index}\n{version[:6]}"


def _draw_accuracy(axes: Axes, episode: EpisodeRecord, start: float, best: bool) -> None:
    accuracies = [100 * accuracy for accuracy in episode.accuracies]
    moments = [start + interval for interval in range(len(accuracies))]
    colour = _BEST_LINE if best else _LINE
    axes.plot(moments, accuracies, color=colour, linewidth=2.4 if best else 1.4)
    axes.annotate(
        f"{accuracies[-1]:.1f}",
        (moments[-1], accuracies[-1]),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=colour,
        fontweight="bold" if best else "normal",
    )


def _draw_slots(axes: Axes, episode: EpisodeRecord, start: float) -> None:
    """Draw each slot's stage in each interval, from the readings at the interval's end."""
    names: dict[int, str] = {}
    for interval, step in enumerate(episode.completed):
        for slot in step.snapshot.slots:
            names[slot.depth] = slot.slot_id
            stage = stage_name(slot.stage)
            height = 0.8 * (slot.alpha if stage == "BLENDING" else 1.0)
            axes.bar(
                start + interval,
                max(height, 0.08),
                width=1.0,
                bottom=slot.depth - 0.4,
                align="edge",
                color=_COLOURS[stage],
            )
        _mark_decision(axes, step, start + interval)
    axes.set_yticks(sorted(names), [names[depth] for depth in sorted(names)])


def _mark_decision(axes: Axes, step: StepRecord, moment: float) -> None:
    """Mark where a seed was culled: the bars alone show only that it is gone."""
    if step.action != "CULL" or step.no_op_reason is not None:
        return
    depths = {slot.slot_id: slot.depth for slot in step.snapshot.slots}
    if step.slot_id in depths:
        axes.plot(moment, depths[step.slot_id], marker="x", color="#b03030", markersize=5)
