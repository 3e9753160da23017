"""The benchmark of reading reads what it says, by every way that it compares."""

from __future__ import annotations

from tests.benchmarks.reading import EPISODES, reading
from tests.benchmarks.report import LEAST_REPETITIONS
from tests.simic import simulated


async def test_every_way_of_reading_gives_every_transition() -> None:
    measured = await reading(LEAST_REPETITIONS, 2 * EPISODES * simulated.HORIZON)
    assert set(measured) == {"reading_to_learn", "reading_streamed"}
