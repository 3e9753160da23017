"""Measures every row of rows.json: `python -m tests.benchmarks`.

Prints a table and writes build/bench.json. Exits with 1 where a row does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.benchmarks.epoch import epoch_with_slots
from tests.benchmarks.report import LEAST_REPETITIONS, Measurement, load_rows, report, table, write

MEASURES: dict[str, Callable[[int], Awaitable[Measurement]]] = {
    "epoch_with_slots": epoch_with_slots
}


async def measure(repetitions: int) -> dict[str, Measurement]:
    """Every row, one after the other."""
    measurements = {}
    for name, take in MEASURES.items():
        print(f"measuring {name}, {repetitions} repetitions ...", flush=True)
        measurements[name] = await take(repetitions)
    return measurements


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=LEAST_REPETITIONS)
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    rows = report(asyncio.run(measure(arguments.repetitions)), load_rows())
    write(rows, arguments.out)
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print(table(rows))
    print(f"\nwritten to {arguments.out}")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
