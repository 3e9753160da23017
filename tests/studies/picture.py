"""A study's curves as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from tests.studies.arms import Result


def draw_curves(panels: Mapping[str, Sequence[Result]], unit: str, path: Path) -> None:
    """Validation accuracy by interval, a panel for each name: a line for each cell, the mean over
    its seeds, with the seeds themselves thinly behind it.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5 * len(panels), 4), sharey=True, squeeze=False
    )
    for axis, (title, results) in zip(axes[0], panels.items(), strict=True):
        cells = list(dict.fromkeys(result.cell for result in results))
        for number, cell in enumerate(cells):
            mine = [result for result in results if result.cell == cell]
            colour = f"C{number}"
            for result in mine:
                axis.plot(_intervals(result), _percent(result.accuracies), colour, alpha=0.3, lw=1)
            means = [sum(column) / len(mine) for column in zip(*_all(mine), strict=True)]
            axis.plot(_intervals(mine[0]), _percent(means), colour, lw=2, label=cell)
        axis.set_title(title)
        axis.set_xlabel(unit)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("validation accuracy, %")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_differences(
    rows: Mapping[str, tuple[Sequence[float], Sequence[float]]], titles: tuple[str, str], path: Path
) -> None:
    """Differences to twins in points, a row for each name and a panel for each of two times: every
    seed as a dot, the median as a bar.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.8 + 0.27 * len(rows)), sharey=True)
    places = range(len(rows))
    for panel, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for place, differences in zip(places, rows.values(), strict=True):
            values = differences[panel]
            axis.plot(values, [place] * len(values), "o", color="C0", alpha=0.5, ms=4)
            axis.plot([statistics.median(values)], [place], "|", color="C3", ms=11, mew=2)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_title(f"{title}, points")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(list(places), list(rows), fontsize="small")
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _intervals(result: Result) -> range:
    return range(result.first + 1, result.first + 1 + len(result.accuracies))


def _percent(accuracies: Sequence[float]) -> list[float]:
    return [100.0 * accuracy for accuracy in accuracies]


def _all(results: Sequence[Result]) -> list[list[float]]:
    return [result.accuracies for result in results]
