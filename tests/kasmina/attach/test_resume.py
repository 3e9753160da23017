"""A loop that goes on from its own checkpoint goes on with its episode: nothing twice."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import (
    ADVANCE,
    GERMINATE,
    Loop,
    Plan,
    assert_same,
    follow,
)

from kasmina.attach import AttachError, AttachOptions, Growth, MisplacedStep
from kasmina.network.slot import Stage
from leyline.v1.transition_pb2 import (
    TERMINATION_ABANDONED,
    TERMINATION_CANCELLED,
    TERMINATION_HORIZON,
)

OPTIONS = AttachOptions(
    blend_intervals=2, decision_timeout_s=60.0, experience_timeout_s=60.0, end_patience_s=60.0
)
GROWS: Plan = {
    0: (GERMINATE, "slot-0"),
    1: (ADVANCE, "slot-0"),
    2: (ADVANCE, "slot-0"),
    3: (GERMINATE, "slot-1"),
    4: (ADVANCE, "slot-1"),
}
HORIZON = 6


def checkpoint(loop: Loop, growth: Growth) -> bytes:
    """Of loop and growth, as a script has it on its disk."""
    file = io.BytesIO()
    torch.save({"loop": loop.state(), "growth": growth.state_dict()}, file)
    return file.getvalue()


def resumed(neighbours: Neighbours, folder: Path, content: bytes) -> tuple[Loop, Growth]:
    """A new process's loop from the checkpoint."""
    loop = Loop.of("skipping", "adamw")
    growth = loop.attached(neighbours, folder, horizon=HORIZON, options=OPTIONS)
    state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    loop.restore(state["loop"])
    growth.load_state_dict(state["growth"])
    return loop, growth


def begun(neighbours: Neighbours, folder: Path) -> tuple[Loop, Growth]:
    loop = Loop.of("skipping", "adamw")
    return loop, loop.attached(neighbours, folder, horizon=HORIZON, options=OPTIONS)


def die(growth: Growth) -> None:
    """What is left when the process is gone: the journal, and no lock."""
    growth._connection.close(patience_s=0.0)


def grown(loop: Loop, growth: Growth) -> dict[str, torch.Tensor]:
    seeds = growth.network.seeds.state_dict()
    return loop.everything() | {f"seeds/{name}": tensor for name, tensor in seeds.items()}


@pytest.mark.parametrize("trained_after", [0, 1, 2])
def test_killed_and_resumed_it_is_bit_for_bit_the_uninterrupted_episode_and_recorded_once(
    neighbours: Neighbours, tmp_path: Path, trained_after: int
) -> None:
    follow(neighbours, GROWS)
    loop, growth = begun(neighbours, tmp_path / "whole")
    loop.run(HORIZON, growth)
    growth.end()
    whole, curve = grown(loop, growth), loop.curve
    decided = [one.decision for one in neighbours.experience.episode("mine", 0)]
    neighbours.experience.transitions.clear()
    neighbours.experience.ends.clear()
    neighbours.policy.asked.clear()

    loop, growth = begun(neighbours, tmp_path / "killed")
    loop.run(3, growth)
    kept = checkpoint(loop, growth)
    loop.run(trained_after, growth)
    die(growth)
    loop, growth = resumed(neighbours, tmp_path / "killed", kept)
    assert [slot.stage for slot in growth.slots] == [Stage.BLENDING, Stage.GERMINATED]
    assert growth.interval_count == 3
    loop.run(HORIZON - 3, growth)
    growth.end()
    assert loop.curve == curve[3:]
    assert_same(grown(loop, growth), whole)
    recorded = neighbours.experience.episode("mine", 0)
    assert [one.decision for one in recorded] == decided
    steps = [query.snapshot.step_id.step for query in neighbours.policy.asked]
    assert steps == list(range(HORIZON)), "no decision is asked for twice"
    end = neighbours.experience.ends["mine", 0]
    assert (end.termination, end.steps) == (TERMINATION_HORIZON, HORIZON)


def test_killed_between_the_last_interval_and_its_checkpoint_the_loop_gets_to_its_end(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, GROWS)
    loop, growth = begun(neighbours, tmp_path)
    loop.run(HORIZON - 1, growth)
    kept = checkpoint(loop, growth)
    loop.run(1, growth)
    die(growth)
    sent = sum(neighbours.experience.messages)
    last = loop.curve[-1]
    loop, growth = resumed(neighbours, tmp_path, kept)
    loop.run(1, growth)
    growth.end()
    assert loop.curve == [last]
    assert neighbours.experience.ends["mine", 0].termination == TERMINATION_HORIZON
    assert sum(neighbours.experience.messages) == sent
    assert len(neighbours.policy.asked) == HORIZON


def test_a_script_that_has_finished_can_be_run_again_and_begins_nothing(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, GROWS)
    loop, growth = begun(neighbours, tmp_path)
    loop.run(HORIZON, growth)
    kept, whole = checkpoint(loop, growth), grown(loop, growth)
    growth.end()
    introduced = len(neighbours.experience.introductions)
    loop, growth = resumed(neighbours, tmp_path, kept)
    assert checkpoint(loop, growth)
    growth.end()
    assert_same(grown(loop, growth), whole)
    assert len(neighbours.policy.asked) == HORIZON
    assert len(neighbours.experience.introductions) == introduced
    assert neighbours.experience.ends.keys() == {("mine", 0)}


def test_a_loop_that_begins_from_the_start_leaves_the_episode_before_as_abandoned(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    loop, growth = begun(neighbours, tmp_path)
    loop.run(2, growth)
    die(growth)
    loop, growth = begun(neighbours, tmp_path)
    assert growth.last_move is None, "it may yet be resumed"
    with pytest.raises(MisplacedStep, match=r"before load_state_dict\(\) or the first training"):
        growth.state_dict()
    loop.run(1, growth)
    growth.end()
    ends = neighbours.experience.ends
    assert (ends["mine", 0].termination, ends["mine", 0].steps) == (TERMINATION_ABANDONED, 2)
    assert (ends["mine", 1].termination, ends["mine", 1].steps) == (TERMINATION_CANCELLED, 1)


def test_a_loop_that_trains_nothing_leaves_the_episode_to_be_resumed(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    loop, growth = begun(neighbours, tmp_path)
    loop.run(2, growth)
    kept = checkpoint(loop, growth)
    die(growth)
    loop, growth = begun(neighbours, tmp_path)
    growth.end()
    loop.run(1)  # a model that is trained on without growth begins no episode
    loop, growth = resumed(neighbours, tmp_path, kept)
    loop.run(HORIZON - 2, growth)
    growth.end()
    assert neighbours.experience.ends.keys() == {("mine", 0)}
    assert neighbours.experience.ends["mine", 0].termination == TERMINATION_HORIZON


def test_an_episode_that_was_ended_is_not_resumed(neighbours: Neighbours, tmp_path: Path) -> None:
    loop, growth = begun(neighbours, tmp_path)
    loop.run(2, growth)
    kept = checkpoint(loop, growth)
    growth.end()
    with pytest.raises(AttachError, match=r"has ended \(CANCELLED\) .* attach without load_state"):
        resumed(neighbours, tmp_path, kept)


def test_a_state_of_another_run_or_of_other_slots_or_none_is_refused(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    _, growth = begun(neighbours, tmp_path)
    state = growth.state_dict()
    growth.end()
    other = Loop.of("skipping", "adamw")
    growth = other.attached(neighbours, tmp_path, run_id="yours", options=OPTIONS)
    with pytest.raises(AttachError, match="is of run 'mine', this one is 'yours': attach with"):
        growth.load_state_dict(state)
    with pytest.raises(AttachError, match="a loop that nothing was attached to has saved it"):
        growth.load_state_dict(None)
    state["run_id"] = "yours"
    state["growth"]["slots"][1]["slot_id"] = "late"
    with pytest.raises(ValueError, match="the state has the slots slot-0, late; the model has"):
        growth.load_state_dict(state)
    growth.end()
