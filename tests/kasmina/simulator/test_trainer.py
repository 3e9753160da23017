"""A simulated episode: a function of family, seeds and actions, by the rules of every run."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kasmina.simulator.episodes import WAIT, advance, family, growing, last_slot, played

from kasmina.checkpoint import (
    Checkpoint,
    CheckpointCorrupt,
    CheckpointMismatch,
    CheckpointNotFound,
    write_checkpoint,
)
from kasmina.network.slot import Action, NoOpReason, Stage
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.policies import Choice, random_policy
from kasmina.simulator.situation import SimulationSeeds
from kasmina.simulator.trainer import SimulatedTrainer
from kasmina.training.interval import IntervalFacts

DEFAULT = family()


def chances(seed: int, count: int, slots: int = 3) -> list[Choice]:
    """Actions by chance, rather growing than not."""
    chance = random.Random(seed)
    actions = [*Action, Action.GERMINATE, Action.ADVANCE, Action.ADVANCE]
    choices: list[Choice] = []
    for _ in range(count):
        action = chance.choice(actions)
        slot_id = None if action is Action.WAIT else f"slot-{chance.randrange(slots)}"
        choices.append((action, slot_id))
    return choices


def without_clock(facts: IntervalFacts) -> IntervalFacts:
    return replace(facts, seconds=0.0)


@pytest.mark.parametrize("seed", range(5))
def test_an_episode_is_a_function_of_family_seeds_and_actions(seed: int) -> None:
    seeds = SimulationSeeds.of_episode(seed, 3)
    one, other = SimulatedTrainer(DEFAULT, seeds), SimulatedTrainer(DEFAULT, seeds)
    for action, slot_id in chances(seed, DEFAULT.episode.horizon):
        assert one.apply(action, slot_id) == other.apply(action, slot_id)
        assert without_clock(one.train_interval()) == without_clock(other.train_interval())
        assert one.snapshot() == other.snapshot()


@pytest.mark.parametrize("seed", range(3))
def test_saved_anywhere_it_goes_on_as_the_unbroken_one(seed: int, tmp_path: Path) -> None:
    unbroken = played(DEFAULT)
    for action, slot_id in chances(seed, DEFAULT.episode.horizon):
        unbroken.save(tmp_path / "episode")
        resumed = SimulatedTrainer.load(tmp_path / "episode")
        assert resumed.snapshot() == unbroken.snapshot()
        assert resumed.apply(action, slot_id) == unbroken.apply(action, slot_id)
        assert without_clock(resumed.train_interval()) == without_clock(unbroken.train_interval())
        assert resumed.true_accuracy == unbroken.true_accuracy


def test_a_file_that_is_no_checkpoint_of_a_simulated_episode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episode"
    with pytest.raises(CheckpointNotFound):
        SimulatedTrainer.load(path)
    path.write_bytes(b"not one at all")
    with pytest.raises((CheckpointCorrupt, CheckpointMismatch)):
        SimulatedTrainer.load(path)


def test_a_seed_goes_through_its_stages_and_blends_by_intervals() -> None:
    trainer = played(family(seeds={"bad_share": 0.0}))
    seen = []
    for choice in growing("slot-2", training=2, blending=3):
        advance(trainer, [choice])
        slot = last_slot(trainer)
        seen.append((slot.stage, round(slot.alpha, 3)))
    assert seen == [
        (Stage.GERMINATED, 0.0),
        (Stage.TRAINING, 0.0),
        (Stage.TRAINING, 0.0),
        (Stage.BLENDING, 0.333),
        (Stage.BLENDING, 0.667),
        (Stage.BLENDING, 1.0),
        (Stage.FOSSILIZED, 1.0),
    ]


def test_what_the_rules_do_not_allow_does_nothing_and_says_why() -> None:
    trainer = played(DEFAULT)
    reasons = [
        trainer.apply(Action.ADVANCE, "slot-0").no_op_reason,
        trainer.apply(Action.CULL, "slot-0").no_op_reason,
        trainer.apply(Action.GERMINATE, "slot-0").no_op_reason,
        trainer.apply(Action.GERMINATE, "slot-0").no_op_reason,
        trainer.apply(Action.GERMINATE, "slot-7").no_op_reason,
    ]
    assert reasons == [
        NoOpReason.SLOT_EMPTY,
        NoOpReason.SLOT_EMPTY,
        None,
        NoOpReason.SLOT_OCCUPIED,
        NoOpReason.UNKNOWN_SLOT,
    ]
    grown = played(family(seeds={"bad_share": 0.0}), growing("slot-1", blending=3))
    assert grown.apply(Action.CULL, "slot-1").no_op_reason is NoOpReason.SEED_FOSSILIZED


def test_what_was_not_measured_is_unset_and_what_was_is_in_range() -> None:
    trainer = played(DEFAULT)
    first = trainer.snapshot()
    assert first.train_loss is None
    assert first.generalization_gap is None
    for slot in first.slots:
        assert slot.gradient_norm is None
        assert slot.activation_sparsity is None
        assert slot.ablation_delta is None
        assert slot.seed_improvement is None
    advance(trainer, growing("slot-2", blending=2)[:-1])
    snapshot = trainer.snapshot()
    for slot in snapshot.slots:
        live = slot.stage is Stage.BLENDING
        assert slot.gradient_norm is not None
        assert slot.activation_sparsity is not None
        assert 0.0 <= slot.activation_sparsity <= 1.0
        assert (slot.ablation_delta is not None) == live
        assert (slot.gradmax_norm is None) == live
    assert snapshot.size_ratio > 1.0


def test_the_horizon_drops_what_is_not_fossilised() -> None:
    horizon = DEFAULT.episode.horizon
    trainer = played(DEFAULT, growing("slot-2", blending=3, start=horizon - 4)[:horizon])
    assert trainer.finished
    assert {slot.stage for slot in trainer.snapshot().slots} == {Stage.DORMANT}
    with pytest.raises(ValueError, match=f"at its horizon of {horizon}"):
        trainer.train_interval()


def test_what_the_horizon_drops_adds_nothing_to_the_network_that_remains() -> None:
    parameters = family(seeds={"bad_share": 0.0}, growth={"untrained_shock": 0.0})
    late = growing("slot-2", start=parameters.episode.horizon - 4)[: parameters.episode.horizon]
    assert late[-1] == WAIT
    fossil = growing("slot-1")
    kept = played(parameters, [*fossil, *[WAIT] * (parameters.episode.horizon - len(fossil))])
    dropped = played(parameters, [*fossil, *late[len(fossil) :]])
    assert [slot.stage for slot in dropped.snapshot().slots] == [
        Stage.DORMANT,
        Stage.FOSSILIZED,
        Stage.DORMANT,
    ]
    assert dropped.true_accuracy == pytest.approx(kept.true_accuracy)
    assert dropped.snapshot().size_ratio == kept.snapshot().size_ratio


def test_alpha_must_be_reached_before_a_seed_stays_and_then_it_stays_for_good() -> None:
    trainer = played(family(seeds={"bad_share": 0.0}), growing("slot-1", blending=3)[:-2])
    assert trainer.apply(Action.ADVANCE, "slot-1").no_op_reason is NoOpReason.ALPHA_NOT_REACHED
    trainer.train_interval()
    assert trainer.apply(Action.ADVANCE, "slot-1").executed
    for action in (Action.ADVANCE, Action.CULL):
        assert trainer.apply(action, "slot-1").no_op_reason is NoOpReason.SEED_FOSSILIZED
    assert trainer.apply(Action.WAIT).executed


def test_a_checkpoint_of_something_else_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "episode"
    write_checkpoint(path, Checkpoint("growing episode", {}, {}))
    with pytest.raises(CheckpointMismatch, match="simulated episode"):
        SimulatedTrainer.load(path)
    write_checkpoint(path, Checkpoint("simulated episode", {}, {"parameters": {}}))
    with pytest.raises(CheckpointCorrupt, match="written by another version"):
        SimulatedTrainer.load(path)


def test_an_interval_is_one_batch_to_whoever_listens_and_may_be_stopped() -> None:
    heard: list[tuple[int, int]] = []
    played(DEFAULT).train_interval(lambda done, of: heard.append((done, of)))
    assert heard == [(78, 78)]

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        played(DEFAULT).train_interval(stop)


def test_facts_are_those_of_a_run() -> None:
    trainer = played(DEFAULT)
    spent = 0
    for action, slot_id in chances(4, DEFAULT.episode.horizon):
        trainer.apply(action, slot_id)
        facts = trainer.train_interval()
        assert 0.0 <= facts.val_accuracy <= 1.0
        assert facts.parameters >= DEFAULT.host.parameters
        assert facts.multiply_adds >= DEFAULT.host.multiply_adds
        assert facts.training_images == DEFAULT.episode.batches * DEFAULT.episode.batch_size
        assert facts.multiply_adds_spent > spent
        spent = facts.multiply_adds_spent


@pytest.mark.parametrize("slots", [1, 6, 12])
def test_any_number_of_slots_can_be_played(slots: int) -> None:
    parameters: Parameters = DEFAULT.with_episode(slots=slots)
    trainer = SimulatedTrainer(parameters, SimulationSeeds.of_episode(1, 0))
    policy = random_policy(1, parameters.episode.horizon)
    while not trainer.finished:
        trainer.apply(*policy(trainer.snapshot()))
        trainer.train_interval()
    assert trainer.slot_ids == tuple(f"slot-{depth}" for depth in range(slots))
