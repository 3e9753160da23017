"""A reference that only counts, for tests: `python -m tests.benchmarks.counting COUNT [STATUS]`.

With a status, it ends with that at the end of its first interval.
"""

from __future__ import annotations

import sys

from tests.benchmarks.reference import answer


def interval() -> None:
    """Counts."""
    for _ in range(int(sys.argv[1])):
        pass
    if len(sys.argv) > 2:
        sys.exit(int(sys.argv[2]))


if __name__ == "__main__":
    answer("counts", interval)
