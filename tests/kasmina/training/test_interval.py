from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kasmina.data.dataset import Dataset
from kasmina.network.slot import Action, NoOpReason
from kasmina.training.configuration import Precision, TrainerConfig
from kasmina.training.order import BatchOrder
from kasmina.training.trainer import GrowthTrainer

CONFIG = TrainerConfig(
    seed=3, horizon=6, channels=(4, 6, 8), batch_size=16, interval_batches=4, threads=1
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
    norm = trainer.network.host.stages[0][1]  # type: ignore[index]
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
        trainer = GrowthTrainer(replace(CONFIG, seed=seed, precision=precision), stripes)
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
    fixed = replace(CONFIG, blueprints=kinds)
    assert grown(fixed) == ["depthwise", "conv3x3", "conv1x1", "conv1x1"]
    in_turn = replace(fixed, blueprint_choice="round-robin")
    assert grown(in_turn) == ["conv3x3", "conv1x1", "depthwise", "conv3x3"]
    drawn = [grown(replace(fixed, blueprint_choice="random", seed=seed)) for seed in range(6)]
    assert {kind for row in drawn for kind in row} == set(kinds)
    assert grown(replace(fixed, blueprint_choice="random", seed=0)) == drawn[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_size": 1}, "batch_size is 1"),
        ({"horizon": 0}, "horizon is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"channels": ()}, "channels is"),
        ({"blueprints": ()}, "blueprints is"),
        ({"blueprints": ("conv3x3", "conv1x1")}, "one, or one for each of the 3 slots"),
        ({"blueprints": ("karn",)}, "unknown blueprint 'karn'"),
        ({"host": "resnet"}, "unknown host 'resnet'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"interval_batches": 0}, "interval_batches is 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(
    changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_settings_survive_json_and_unknown_ones_are_refused() -> None:
    assert TrainerConfig.from_dict({**CONFIG.to_dict(), "channels": [4, 6, 8]}) == CONFIG
    with pytest.raises(ValueError, match="lerning_rate"):
        TrainerConfig.from_dict({"lerning_rate": 0.1})
