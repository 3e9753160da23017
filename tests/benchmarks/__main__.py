"""Measures every row of rows.json: `python -m tests.benchmarks`.

Prints a table and writes build/bench.json. Exits with 1 where a row does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
from pathlib import Path

from tests.benchmarks.decisions import deciding, idle
from tests.benchmarks.kasmina_interval import attaching, throughput
from tests.benchmarks.other_servers import beside_others, check_environments
from tests.benchmarks.report import LEAST_REPETITIONS, Measurement, load_rows, report, table, write

ATTACHED_PAIRS = 20
"""The cost of being attached is a few hundredths: it takes more pairs than others to see them."""
ROUNDS = 10
"""What uses all cores cannot take turns within an interval: it takes more rounds."""


async def measure(repetitions: int) -> dict[str, Measurement]:
    """Every row, one after the other."""
    pairs, rounds = max(repetitions, ATTACHED_PAIRS), max(repetitions, ROUNDS)
    print(f"what it costs to be attached: {pairs} pairs of intervals, 8 minutes ...", flush=True)
    attached = await attaching(pairs)
    print(f"images a second: {rounds} rounds, 4 minutes ...", flush=True)
    trained = await throughput(rounds)
    print(f"decisions a second: {repetitions} rounds, 2 minutes ...", flush=True)
    decided = await deciding(repetitions)
    print(f"open streams: {repetitions} rounds, a minute ...", flush=True)
    idled = await idle(repetitions)
    print(f"other servers: {repetitions} rounds, 2 minutes ...", flush=True)
    beside = await beside_others(repetitions)
    return attached | trained | decided | idled | beside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=LEAST_REPETITIONS)
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    check_environments()
    rows = report(asyncio.run(measure(arguments.repetitions)), load_rows())
    write(rows, arguments.out)
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print(table(rows))
    print(f"\nwritten to {arguments.out}")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
