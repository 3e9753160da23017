"""Turns measurements into the rows that `make bench` prints and writes.

`rows.json` names every row, its unit, its reference, and its bar: the ratio that the row must not
exceed (``better: lower``) or fall short of (``better: higher``); null where it is only reported.
``judged: interval`` holds the worse ends of the 95 % intervals of the median and of the mean of the
ratios to the bar instead of the median itself: the one is blind to a few wild pairs, the other is
not. A row without a measurement fails, and so does a measurement without a row.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.paired import interval_of, interval_of_median

ROWS_FILE = Path(__file__).with_name("rows.json")
LEAST_REPETITIONS = 5


@dataclass(frozen=True)
class Measurement:
    """Interleaved repetitions of a row and of its reference, in the row's unit, pair by pair."""

    values: tuple[float, ...]
    reference_values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.reference_values):
            raise ValueError("a row and its reference are measured in pairs")
        if len(self.values) < LEAST_REPETITIONS:
            raise ValueError(f"at least {LEAST_REPETITIONS} repetitions are needed")


@dataclass(frozen=True)
class Row:
    """A row of the report.

    Attributes:
        ratio: the median of the pairs' ratios.
        ratio_interval: the 95 % interval of that median; None for fewer than six pairs.
        ratio_mean_interval: the 95 % interval of the ratios' mean, by Student's t.
        bar: None where the row is only reported.
    """

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    ratio_interval: tuple[float, float] | None
    ratio_mean_interval: tuple[float, float]
    bar: float | None
    holds: bool
    spread: tuple[float, float]
    reference_spread: tuple[float, float]
    ratio_spread: tuple[float, float]
    ratios: tuple[float, ...]


def load_rows(path: Path = ROWS_FILE) -> list[dict[str, Any]]:
    """The rows that there must be, in order."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def row_of(declared: Mapping[str, Any], measurement: Measurement) -> Row:
    """Judges one measurement by its declaration."""
    ratios = [v / r for v, r in zip(measurement.values, measurement.reference_values, strict=True)]
    ratio = statistics.median(ratios)
    interval = interval_of_median(ratios)
    mean, half = interval_of(ratios)
    mean_interval = (mean - half, mean + half)
    lower = declared["better"] == "lower"
    judged = ratio
    if declared.get("judged") == "interval":
        if interval is None:
            raise ValueError(f"{declared['name']} is judged by an interval: take more pairs")
        ends = (*interval, *mean_interval)
        judged = max(ends) if lower else min(ends)
    bar = declared["bar"]
    return Row(
        name=declared["name"],
        value=statistics.median(measurement.values),
        unit=declared["unit"],
        reference=declared["reference"],
        reference_value=statistics.median(measurement.reference_values),
        ratio=ratio,
        ratio_interval=interval,
        ratio_mean_interval=mean_interval,
        bar=bar,
        holds=bar is None or (judged <= bar if lower else judged >= bar),
        spread=(min(measurement.values), max(measurement.values)),
        reference_spread=(min(measurement.reference_values), max(measurement.reference_values)),
        ratio_spread=(min(ratios), max(ratios)),
        ratios=tuple(ratios),
    )


def report(measurements: Mapping[str, Measurement], declared: list[dict[str, Any]]) -> list[Row]:
    """All rows in the declared order.

    Raises:
        KeyError: a declared row was not measured, or a measured one is not declared.
    """
    names = [d["name"] for d in declared]
    missing = [name for name in names if name not in measurements]
    undeclared = [name for name in measurements if name not in names]
    if missing or undeclared:
        raise KeyError(
            f"rows without a measurement: {missing}; not in {ROWS_FILE.name}: {undeclared}"
        )
    return [row_of(d, measurements[d["name"]]) for d in declared]


def write(rows: list[Row], path: Path) -> None:
    """Writes the rows as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, medians with least and greatest beside them."""
    lines = [
        "| row | median (min-max) | reference | median (min-max) | ratio (min-max)"
        " | 95 % of that median | 95 % of the mean | bar | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.value:.3f} {row.unit} ({row.spread[0]:.3f}-{row.spread[1]:.3f}) "
            f"| {row.reference} | {row.reference_value:.3f} {row.unit} "
            f"({row.reference_spread[0]:.3f}-{row.reference_spread[1]:.3f}) "
            f"| {row.ratio:.3f} ({row.ratio_spread[0]:.3f}-{row.ratio_spread[1]:.3f}) "
            f"| {_interval(row.ratio_interval)} | {_interval(row.ratio_mean_interval)} "
            f"| {_verdict(row)} |"
        )
    return "\n".join(lines)


def _verdict(row: Row) -> str:
    """The bar, and whether it holds."""
    if row.bar is None:
        return "none | reported"
    return f"{row.bar} | {'yes' if row.holds else 'NO'}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "too few pairs" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
