from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kasmina.data.images import Dataset
from kasmina.network.slot import Action, NoOpReason, Stage
from kasmina.training.configuration import EpisodeSeeds, Precision, TrainerConfig
from kasmina.training.order import BatchOrder
from kasmina.training.trainer import GrowthTrainer

SLOTS = ("slot-0", "slot-1", "slot-2")

CONFIG = TrainerConfig(
    seeds=EpisodeSeeds.of(3),
    horizon=6,
    channels=(4, 6, 8),
    batch_size=16,
    interval_batches=4,
    threads=1,
)


@given(images=st.integers(1, 50), batch_size=st.integers(1, 70), seed=st.integers(0, 2**63 - 1))
def test_every_pass_shows_every_image_once_and_every_batch_is_full(
    images: int, batch_size: int, seed: int
) -> None:
    order = BatchOrder(images, batch_size, seed)
    batches = [order.next_batch() for _ in range(-(-3 * images // batch_size))]
    assert all(len(batch) == batch_size for batch in batches)
    shown = torch.cat(batches)[: 3 * images].view(3, images)
    for one_pass in shown:
        assert one_pass.sort().values.tolist() == list(range(images))


@given(st.integers(0, 30))
def test_the_cursor_alone_says_where_to_go_on(batches: int) -> None:
    order, later = BatchOrder(20, 7, seed=1), BatchOrder(20, 7, seed=1)
    for _ in range(batches):
        order.next_batch()
    later.cursor = order.cursor
    assert torch.equal(order.next_batch(), later.next_batch())


def test_passes_have_different_orders() -> None:
    order = BatchOrder(100, 100, seed=1)
    assert not torch.equal(order.next_batch(), order.next_batch())


def test_an_interval_is_one_pass_unless_told_otherwise(stripes: Dataset) -> None:
    trainer = GrowthTrainer(replace(CONFIG, interval_batches=None), stripes)
    facts = trainer.train_interval()
    assert facts.training_images == 96
    assert trainer.snapshot().global_step == 6
    assert replace(CONFIG, interval_batches=None).steps_of_interval(5) == 1


def test_an_interval_reports_what_it_did(stripes: Dataset) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    facts = trainer.train_interval()
    assert (facts.training_images, facts.validation_images) == (64, 40)
    assert facts.parameters == trainer.parameter_count()
    assert facts.seconds > 0
    assert facts.train_loss == trainer.snapshot().train_loss
    assert (facts.val_loss, facts.val_accuracy) == (
        trainer.snapshot().val_loss,
        trainer.snapshot().val_accuracy,
    )


@pytest.mark.parametrize("batch", [1, 7, 40, 500])
def test_validation_sees_every_image_whatever_the_batch(stripes: Dataset, batch: int) -> None:
    trainer = GrowthTrainer(replace(CONFIG, validation_batch_size=batch), stripes)
    trainer.train_interval()
    facts = trainer.evaluate(stripes.validation)
    bits = np.unpackbits(np.frombuffer(facts.correct, dtype=np.uint8))
    assert facts.images == 40
    assert len(facts.correct) == 5
    assert facts.accuracy == bits[:40].mean()
    reference = GrowthTrainer(CONFIG, stripes)
    reference.train_interval()
    assert facts.loss == pytest.approx(reference.snapshot().val_loss, rel=1e-5)


def test_the_network_trains_again_after_a_validation(stripes: Dataset) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    trainer.train_interval()
    norm = trainer.network.host.get_submodule("stages.0.1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    trainer.evaluate(stripes.validation)
    assert torch.equal(norm.running_mean, before)
    trainer.train_interval()
    assert not torch.equal(norm.running_mean, before)


def test_a_network_learns(stripes: Dataset) -> None:
    trainer = GrowthTrainer(replace(CONFIG, horizon=12, interval_batches=8), stripes)
    untrained = trainer.snapshot()
    while not trainer.finished:
        trainer.train_interval()
    assert trainer.snapshot().val_loss < 0.5 * untrained.val_loss
    assert trainer.snapshot().val_accuracy > 0.9


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_episode_is_a_function_of_its_settings_and_its_actions(
    stripes: Dataset, precision: Precision
) -> None:
    def episode(seed: int) -> list[object]:
        trainer = GrowthTrainer(
            replace(CONFIG, seeds=EpisodeSeeds.of(seed), precision=precision), stripes
        )
        snapshots: list[object] = []
        for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE, Action.CULL):
            trainer.apply(action, "slot-1")
            trainer.train_interval()
            snapshots.append(trainer.snapshot())
        return snapshots

    torch.manual_seed(1)
    first = episode(seed=1)
    torch.manual_seed(2)
    torch.rand(5)
    assert episode(seed=1) == first
    assert episode(seed=2) != first


def test_progress_is_told_after_every_batch(stripes: Dataset) -> None:
    told: list[tuple[int, int]] = []
    trainer = GrowthTrainer(CONFIG, stripes)
    trainer.train_interval(lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_a_listener_raises_stops_the_interval(stripes: Dataset) -> None:
    def stop(done: int, of: int) -> None:
        if done == 2:
            raise InterruptedError

    trainer = GrowthTrainer(CONFIG, stripes)
    numbers = torch.get_rng_state()
    with pytest.raises(InterruptedError):
        trainer.train_interval(stop)
    assert trainer.interval == 0
    assert torch.equal(torch.get_rng_state(), numbers)


def test_there_is_no_interval_after_the_horizon(stripes: Dataset) -> None:
    trainer = GrowthTrainer(replace(CONFIG, horizon=1), stripes)
    trainer.train_interval()
    with pytest.raises(ValueError, match="horizon of 1"):
        trainer.train_interval()


def test_an_action_at_a_slot_that_there_is_not_is_a_no_op(stripes: Dataset) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    for action in (Action.GERMINATE, Action.ADVANCE, Action.CULL):
        assert trainer.apply(action, "slot-9").no_op_reason is NoOpReason.UNKNOWN_SLOT


def test_blueprints_are_chosen_as_the_settings_say(stripes: Dataset) -> None:
    def grown(config: TrainerConfig) -> list[str | None]:
        trainer = GrowthTrainer(config, stripes)
        chosen: list[str | None] = []
        for slot_id in ("slot-2", "slot-0", "slot-1", "slot-1"):
            if trainer.snapshot().slots[int(slot_id[-1])].has_seed:
                trainer.apply(Action.CULL, slot_id)
            chosen.append(trainer.apply(Action.GERMINATE, slot_id).blueprint)
        return chosen

    kinds = ("conv3x3", "conv1x1", "depthwise")
    fixed = replace(CONFIG, blueprints={"slot-1": "conv1x1", "slot-2": "depthwise"})
    assert grown(fixed) == ["depthwise", "conv3x3", "conv1x1", "conv1x1"]
    in_turn = replace(CONFIG, candidates=kinds, blueprint_choice="round-robin")
    assert grown(in_turn) == ["conv3x3", "conv1x1", "depthwise", "conv3x3"]
    drawing = replace(CONFIG, candidates=kinds, blueprint_choice="random")
    drawn = [grown(replace(drawing, seeds=EpisodeSeeds.of(seed))) for seed in range(6)]
    assert {kind for row in drawn for kind in row} == set(kinds)
    assert grown(replace(drawing, seeds=EpisodeSeeds.of(0))) == drawn[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_size": 1}, "batch_size is 1"),
        ({"horizon": 0}, "horizon is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"channels": (4, 0)}, "channels is"),
        ({"blueprint_choice": "random"}, "candidates is (); it must be at least one"),
        ({"blueprint_choice": "best"}, "blueprint_choice is 'best'"),
        ({"blueprints": {"slot-0": "karn"}}, "unknown blueprint 'karn'"),
        ({"planted": {"slot-0": "karn"}}, "unknown blueprint 'karn'"),
        ({"candidates": ("karn",)}, "unknown blueprint 'karn'"),
        ({"duds": ("karn",)}, "unknown blueprint 'karn'"),
        ({"alpha_schedule": "square"}, "alpha_schedule is 'square'"),
        ({"constant_share": 1.5}, "constant_share is 1.5"),
        ({"host": "resnet"}, "unknown host 'resnet'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"interval_batches": 0}, "interval_batches is 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(
    changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        replace(CONFIG, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"slots": ("slot-0", "slot-7")}, "slots names slot-7; the slots are slot-0, slot-1"),
        ({"blueprints": {"slot-7": "norm"}}, "blueprints names slot-7; the slots are slot-0"),
        ({"planted": {"slot-7": "norm"}}, "planted names slot-7; the slots are slot-0"),
        (
            {"planted": {"slot-0": "norm"}, "slots": ("slot-1",)},
            "planted names slot-0; the slots are slot-1",
        ),
        ({"host_options": {"blok": "2"}}, "host_options has 'blok'"),
    ],
)
def test_what_the_host_does_not_have_is_refused_by_name(
    stripes: Dataset, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        GrowthTrainer(replace(CONFIG, **changes), stripes)  # type: ignore[arg-type]


def test_an_episode_may_use_some_of_the_slots_which_keep_their_depth(stripes: Dataset) -> None:
    trainer = GrowthTrainer(replace(CONFIG, slots=("slot-2", "slot-0")), stripes)
    assert trainer.slot_ids == ("slot-0", "slot-2")
    for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE):
        assert trainer.apply(action, "slot-2").executed
        trainer.train_interval()
    assert [slot.depth for slot in trainer.snapshot().slots] == [0, 2]
    assert trainer.apply(Action.GERMINATE, "slot-1").no_op_reason is NoOpReason.UNKNOWN_SLOT
    everywhere = GrowthTrainer(CONFIG, stripes)
    for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE):
        everywhere.apply(action, "slot-2")
        everywhere.train_interval()
    slots = [trainer.snapshot().slots[1], everywhere.snapshot().slots[2]]
    assert slots[0] == slots[1]


def test_planted_seeds_are_part_of_the_network_from_step_0_and_learn(stripes: Dataset) -> None:
    planted = {"slot-1": "conv3x3", "slot-2": "norm"}
    trainer = GrowthTrainer(replace(CONFIG, planted=planted), stripes)
    bare = GrowthTrainer(CONFIG, stripes)
    first, second, third = trainer.snapshot().slots
    assert (first.stage, second.stage, third.stage) == (
        Stage.DORMANT,
        Stage.FOSSILIZED,
        Stage.FOSSILIZED,
    )
    assert (second.blueprint, third.blueprint) == ("conv3x3", "norm")
    assert trainer.snapshot().val_loss == bare.snapshot().val_loss
    assert trainer.parameter_count() > bare.parameter_count()
    before = trainer.network.seeds.state_dict()["slot-1.3.weight"].clone()
    trainer.train_interval()
    assert not torch.equal(trainer.network.seeds.state_dict()["slot-1.3.weight"], before)
    assert any(name.startswith("slot-1/") for name in trainer.optimizer.state())
    assert trainer.apply(Action.CULL, "slot-1").no_op_reason is NoOpReason.SEED_FOSSILIZED


def test_each_seed_of_an_episode_rules_what_it_is_named_for(stripes: Dataset) -> None:
    def parts(seeds: EpisodeSeeds) -> dict[str, object]:
        trainer = GrowthTrainer(replace(CONFIG, seeds=seeds), stripes)
        weights = trainer.network.host.state_dict()["head.2.weight"].tolist()
        trainer.apply(Action.GERMINATE, "slot-0")
        seed = trainer.network.seeds.state_dict()["slot-0.0.weight"].tolist()
        order = trainer._trainer.order.next_batch().tolist()
        augmented = trainer._trainer.augmentation(stripes.train.images[:8]).tolist()
        return {
            "initialization": weights,
            "order": order,
            "augmentation": augmented,
            "blueprint": seed,
        }

    base = EpisodeSeeds(1, 2, 3, 4)
    for name, value in parts(base).items():
        changed = parts(replace(base, **{name: 9}))
        assert changed[name] != value
        others = {other: part for other, part in parts(base).items() if other != name}
        assert others.items() <= changed.items()


def test_a_dud_learns_a_bias_at_best_and_its_state_says_so(stripes: Dataset) -> None:
    config = replace(CONFIG, duds=("conv1x1",), blueprints=dict.fromkeys(SLOTS, "conv1x1"))
    trainer = GrowthTrainer(config, stripes)
    plain = GrowthTrainer(replace(config, duds=()), stripes)
    for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE):
        trainer.apply(action, "slot-1")
        plain.apply(action, "slot-1")
        facts, other = trainer.train_interval(), plain.train_interval()
    assert trainer.network.slots[1].dud
    assert not plain.network.slots[1].dud
    h = torch.randn(4, 6, 3, 3)
    residual = trainer.network.eval().seed(trainer.network.slots[1])(h)
    assert residual.any()
    assert torch.equal(residual, residual[:1, :, :1, :1].expand_as(residual))
    assert facts.parameters == other.parameters
    assert facts.multiply_adds == other.multiply_adds
    assert facts.multiply_adds_spent == other.multiply_adds_spent


@pytest.mark.skipif(
    "LEYLINE_GROWTH_STEPS" not in os.environ or shutil.which("g++") is None,
    reason="compiling takes a minute and a C++ compiler: a part of make test-growth-full",
)
def test_a_compiled_host_is_isolated_all_the_same(stripes: Dataset) -> None:
    config = replace(CONFIG, channels=(4,), interval_batches=1, compile=True)
    waiting, growing = GrowthTrainer(config, stripes), GrowthTrainer(config, stripes)
    growing.apply(Action.GERMINATE, "slot-0")
    growing.apply(Action.ADVANCE, "slot-0")
    facts, other = waiting.train_interval(), growing.train_interval()
    assert (facts.train_loss, facts.val_loss) == (other.train_loss, other.val_loss)
    assert facts.multiply_adds == other.multiply_adds > 0
    eager = GrowthTrainer(replace(config, compile=False), stripes).train_interval()
    assert facts.train_loss == pytest.approx(eager.train_loss, rel=1e-3)


def test_settings_survive_json_and_unknown_ones_are_refused() -> None:
    assert TrainerConfig.from_dict({**CONFIG.to_dict(), "channels": [4, 6, 8]}) == CONFIG
    with pytest.raises(ValueError, match="lerning_rate"):
        TrainerConfig.from_dict({"lerning_rate": 0.1})
