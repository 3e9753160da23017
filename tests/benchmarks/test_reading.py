"""The benchmark of reading, on few transitions."""

from __future__ import annotations

from tests.benchmarks.reading import EPISODES, reading
from tests.benchmarks.report import LEAST_REPETITIONS
from tests.simic import simulated


async def test_reading_is_measured_by_the_learners_way_and_streamed() -> None:
    measured = await reading(LEAST_REPETITIONS, 2 * EPISODES * simulated.HORIZON)
    assert set(measured) == {"reading_to_learn", "reading_streamed"}
