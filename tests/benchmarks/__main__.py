"""Measures every row of rows.json: `python -m tests.benchmarks`.

Prints a table and writes build/bench.json. Exits with 1 where a row does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.benchmarks.decisions import deciding, idle
from tests.benchmarks.ingest import ingesting
from tests.benchmarks.kasmina_interval import attaching, throughput
from tests.benchmarks.other_servers import beside_others, check_environments
from tests.benchmarks.reading import ROWS, reading
from tests.benchmarks.report import LEAST_REPETITIONS, Measurement, load_rows, report, table, write
from tests.benchmarks.updates import updating

Measurements = dict[str, Measurement]

ATTACHED_PAIRS = 20
"""The cost of being attached is a few hundredths: it takes more pairs than others to see them."""
INGEST_TURNS = 40
"""A turn takes a tenth of a second, and a disk has better and worse ones."""
ROUNDS = 10
"""What uses all cores cannot take turns within an interval: it takes more rounds."""


def groups(
    repetitions: int, rows: int
) -> dict[str, tuple[str, Callable[[], Awaitable[Measurements]]]]:
    """What can be measured, by name: what is said of it before, and how."""
    pairs, rounds = max(repetitions, ATTACHED_PAIRS), max(repetitions, ROUNDS)
    turns = max(repetitions, INGEST_TURNS)
    return {
        "attached": (f"{pairs} pairs of intervals, 8 minutes", lambda: attaching(pairs)),
        "images": (f"{rounds} rounds, 4 minutes", lambda: throughput(rounds)),
        "decisions": (f"{repetitions} rounds, 3 minutes", lambda: deciding(repetitions)),
        "streams": (f"{repetitions} rounds, a minute", lambda: idle(repetitions)),
        "ingest": (f"{turns} turns, half a minute", lambda: ingesting(turns)),
        "reading": (
            f"{repetitions} rounds over {rows} transitions",
            lambda: reading(repetitions, rows),
        ),
        "update": (
            f"{rounds} pairs, half a minute",
            lambda: asyncio.to_thread(updating, rounds),
        ),
        "servers": (f"{repetitions} rounds, 4 minutes", lambda: beside_others(repetitions)),
    }


async def measure(repetitions: int, rows: int, only: Sequence[str]) -> Measurements:
    """Every row of the groups, one group after the other."""
    measured: Measurements = {}
    for name, (what, measuring) in groups(repetitions, rows).items():
        if name in only:
            print(f"{name}: {what} ...", flush=True)
            measured |= await measuring()
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=LEAST_REPETITIONS)
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="transitions to read back; a million take minutes"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(groups(0, 0)),
        default=list(groups(0, 0)),
        help="measure these alone",
    )
    arguments = parser.parse_args()
    if "servers" in arguments.only:
        check_environments()
    measured = asyncio.run(measure(arguments.repetitions, arguments.rows, arguments.only))
    declared = load_rows()
    if len(set(arguments.only)) < len(groups(0, 0)):
        declared = [row for row in declared if row["name"] in measured]
    rows = report(measured, declared)
    write(rows, arguments.out)
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print(table(rows))
    print(f"\nwritten to {arguments.out}")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
