"""Whatever family is accepted can be played, and nothing that it shows breaks the contract."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.kasmina.simulator.episodes import WAIT, advantage, changed, family, growing

from chassis.validation import violations
from kasmina.runs.observation import facts_message, snapshot_message
from kasmina.simulator.oracle import oracle_return
from kasmina.simulator.parameters import Parameters, ParametersError
from kasmina.simulator.situation import SimulationSeeds
from kasmina.simulator.trainer import SimulatedTrainer
from leyline.v1.snapshot_pb2 import StepId

pytestmark = pytest.mark.lengthy

SMALL = family(episode={"horizon": 9, "slots": 2})
STEP = StepId(run_id="run")
EXTREMES = st.sampled_from([0.0, 1e-300, 1e-9, 0.5, 1.0, 2.0, 1e3, 1e6])
NUMBERS = [
    (section, name, isinstance(value, list))
    for section in ("host", "seeds", "growth", "noise", "telemetry")
    for name, value in SMALL.to_dict()[section].items()
    # Not how many times larger than reason a seed is: the contract bounds what it may cost.
    if isinstance(value, float | list) and name not in ("candidates", "first_slot_size")
]


@st.composite
def families(draw: st.DrawFn) -> Parameters:
    """The default family with some numbers at the ends of what is accepted."""
    sections: dict[str, dict[str, Any]] = {}
    for section, name, is_range in draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=6)):
        value: Any = draw(EXTREMES)
        if is_range:
            value = sorted((value, draw(EXTREMES)))
        sections.setdefault(section, {})[name] = value
    try:
        return changed(SMALL, **sections)
    except ParametersError:
        assume(False)
        raise


@settings(max_examples=200)
@given(families(), st.integers(0, 20))
@example(family(seeds={"gain_first_slot": [0, 0], "gain_last_slot": [0, 0]}), 0)
@example(family(telemetry={"gradient_need": 1e6, "gradmax_quality": 1e6}), 0)
@example(family(noise={"ablation": 1e6, "loss": 1e6, "gradient": 1e6}), 0)
def test_any_family_that_is_accepted_can_be_played(parameters: Parameters, index: int) -> None:
    seeds = SimulationSeeds.of_episode(1, index)
    trainer = SimulatedTrainer(parameters, seeds)
    choices = [*growing("slot-0"), *[WAIT] * parameters.episode.horizon]
    for choice in choices[: parameters.episode.horizon]:
        trainer.apply(*choice)
        facts = trainer.train_interval()
        snapshot = trainer.snapshot()
        assert violations(snapshot_message(STEP, snapshot)) == ()
        assert violations(facts_message(facts, snapshot)) == ()
    assert advantage(trainer) <= oracle_return(parameters, seeds) + 1e-9
