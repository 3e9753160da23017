"""Arms that take turns both end, and neither is left standing still."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.benchmarks.reference import Reference
from tests.benchmarks.turns import TURN_S, in_turns


async def counting(*arguments: str) -> Reference:
    return await Reference.start("tests.benchmarks.counting", arguments)


def states(*arms: Reference) -> list[str]:
    """R, S or T: runs, sleeps, stopped (proc_pid_stat(5))."""
    pids: Sequence[int] = [pid for arm in arms for pid in arm.pids()]
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]


async def test_both_end_and_each_is_charged_for_its_own_turns() -> None:
    long, short = await counting("40_000_000"), await counting("4_000_000")
    costs = await in_turns((long, long.interval()), (short, short.interval()))
    assert costs[0].cpu > costs[1].cpu > 0
    assert costs[0].wall > TURN_S
    assert "T" not in states(long, short)
    await long.close()
    await short.close()


async def test_where_one_fails_that_is_said_and_the_other_does_not_stand_still() -> None:
    fails, counts = await counting("10_000_000", "3"), await counting("20_000_000")
    with pytest.raises(RuntimeError, match="status 3"):
        await in_turns((fails, fails.interval()), (counts, counts.interval()))
    assert states(counts) != ["T"]
    await counts.close()
