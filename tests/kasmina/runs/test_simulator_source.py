"""Simulated episodes are episodes like any other, but for the network that they do not leave."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.kasmina.runs.stage import Decide, Stage, by_coin, stage, wait

from chassis.validation import violations
from kasmina.data.dataset import Dataset
from kasmina.runs.state_directory import StateDirectory
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT
from leyline.v1.episode_pb2 import Seeds
from leyline.v1.trainer_pb2 import (
    BLUEPRINT_CHOICE_FIXED,
    GrowthSpec,
    HostSpec,
    RunSpec,
    TrainingSpec,
)
from leyline.v1.transition_pb2 import TERMINATION_HORIZON


class Simulation:
    """Plays simulated runs over one state folder."""

    def __init__(self, folder: Path, images: Dataset) -> None:
        self._state = StateDirectory.open(folder)
        self._images = images
        self._runs: list[Stage] = []

    def play(self, run_id: str, decide: Decide = by_coin, **parts: object) -> Stage:
        """Plays the first episode of a run."""
        host = HostSpec(name="simulator", options=parts.pop("options", {}))  # type: ignore[arg-type]
        spec = RunSpec(host=host, **parts)  # type: ignore[arg-type]
        run = stage(self._state, self._images, spec, decide, run_id)
        self._runs.append(run)
        run.play()
        return run

    def close(self) -> None:
        """Closes the journals."""
        for run in self._runs:
            run.journal.close()


@pytest.fixture
def simulation(tmp_path: Path, stripes: Dataset) -> Iterator[Simulation]:
    """A state folder to play in."""
    simulation = Simulation(tmp_path / "state", stripes)
    yield simulation
    simulation.close()


def test_a_simulated_episode_keeps_the_contract_and_leaves_no_network(
    simulation: Simulation,
) -> None:
    run = simulation.play("run", observation_spec="extended")
    transitions = run.transitions
    assert len(transitions) == 30
    assert [violations(transition) for transition in transitions] == [()] * 30
    for earlier, later in pairwise(transitions):
        assert earlier.next_snapshot == later.snapshot
    record = run.journal.episodes.get("run", 0)
    assert record is not None
    assert (record.steps, record.termination) == (30, TERMINATION_HORIZON)
    assert record.network_sha256 is None
    assert not run.setting.state.network("run", 0).exists()


def test_its_range_is_its_family_which_may_be_held_out(simulation: Simulation) -> None:
    drawn = []
    for family in ("default", "held-out"):
        run = simulation.play(family, wait, options={"family": family})
        record = run.journal.episodes.get(family, 0)
        assert record is not None
        assert violations(record.origin) == ()
        drawn.append((record.origin.situation.range, record.origin.situation.held_out))
    assert drawn == [("simulator.default", False), ("simulator.held-out", True)]


def test_slots_horizon_and_blueprints_are_as_the_specification_says(
    simulation: Simulation,
) -> None:
    run = simulation.play(
        "run",
        options={"slots": "6"},
        training=TrainingSpec(horizon=7),
        growth=GrowthSpec(choice=BLUEPRINT_CHOICE_FIXED, blueprints={"slot-5": "norm"}),
    )
    transitions = run.transitions
    assert len(transitions) == 7
    assert [slot.slot_id for slot in transitions[0].snapshot.slots] == [
        f"slot-{depth}" for depth in range(6)
    ]
    for transition in transitions:
        if transition.execution.HasField("blueprint"):
            slot_id = transition.decision.slot_id
            assert transition.execution.blueprint == run.setting.spec.growth.blueprints[slot_id]


def test_arms_with_the_same_seeds_see_the_same_until_the_first_action(
    simulation: Simulation,
) -> None:
    waiting = simulation.play("waiting", wait, seed=3)
    growing = simulation.play("growing", seed=3)
    other = simulation.play("other", wait, seed=4)
    first = next(
        step
        for step, transition in enumerate(growing.transitions)
        if transition.decision.action_type != ACTION_TYPE_WAIT
    )
    assert waiting.curve[:first] == growing.curve[:first]
    assert waiting.curve != growing.curve
    assert waiting.curve != other.curve


@pytest.mark.parametrize(
    ("seeds", "alike"),
    [
        (Seeds(situation=7, order=8, blueprint=9), True),
        (Seeds(situation=7, blueprint=9), False),
        (Seeds(order=8, blueprint=9), False),
    ],
)
def test_what_is_hidden_and_what_is_measured_have_seeds_of_their_own(
    simulation: Simulation, seeds: Seeds, alike: bool
) -> None:
    one, other = (
        simulation.play(run_id, wait, seed=seed, seeds=seeds).curve
        for run_id, seed in (("one", 1), ("other", 2))
    )
    assert (one == other) is alike
