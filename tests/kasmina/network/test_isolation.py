"""A seed in TRAINING learns, and nothing else in the world can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.kasmina.network.tiny_hosts import FOREIGN, HOSTS
from torch import Tensor

from kasmina.data.images import Dataset
from kasmina.network.blueprint import blueprint_names
from kasmina.network.slot import Action, Stage
from kasmina.training.configuration import EpisodeSeeds, Precision, TrainerConfig
from kasmina.training.trainer import GrowthTrainer

SLOTS = ("slot-0", "slot-1", "slot-2")


CONFIG = TrainerConfig(
    seeds=EpisodeSeeds.of(5),
    horizon=12,
    host="noisy-cnn",
    **HOSTS["noisy-cnn"],
    batch_size=16,
    interval_batches=5,
    weight_decay=0.01,
    clip_norm=0.05,  # small enough to bind in every step
    label_smoothing=0.1,
    blend_intervals=1,
    threads=1,
    telemetry_every=2,
)


def everything_but_the_seeds(trainer: GrowthTrainer) -> dict[str, Tensor]:
    """Weights, buffers, moments and random numbers of the network without what is in TRAINING."""
    slots = {slot.slot_id for slot in trainer.network.slots if slot.stage is Stage.TRAINING}
    state = {
        f"network/{name}": tensor.clone()
        for name, tensor in trainer.network.state_dict().items()
        if not any(name.startswith(f"seeds.{slot_id}.") for slot_id in slots)
    }
    for name, moment in trainer.optimizer.state().items():
        if name.split("/")[0] not in slots:
            state[f"moments/{name}"] = moment.clone()
    for index, numbers in enumerate(trainer.random_states()):
        state[f"random/{index}"] = numbers
    state["random/process"] = torch.get_rng_state()
    return state


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


def seed_weights(trainer: GrowthTrainer, slot_id: str) -> Tensor:
    seed = trainer.network.seeds[slot_id]
    return torch.cat([parameter.detach().flatten() for parameter in seed.parameters()]).clone()


def put_to_training(trainer: GrowthTrainer, slot_id: str) -> None:
    assert trainer.apply(Action.GERMINATE, slot_id).executed
    assert trainer.apply(Action.ADVANCE, slot_id).executed


def trained_pair(
    config: TrainerConfig, dataset: Dataset, slot_ids: tuple[str, ...], poisoned: bool = False
) -> tuple[GrowthTrainer, GrowthTrainer]:
    """Two intervals of the same episode: one that waits, one with seeds in TRAINING."""
    waiting, growing = GrowthTrainer(config, dataset), GrowthTrainer(config, dataset)
    for slot_id in slot_ids:
        put_to_training(growing, slot_id)
        if poisoned:
            next(growing.network.seeds[slot_id].parameters()).data[0] = float("nan")
    for _ in range(2):
        waiting.train_interval()
        growing.train_interval()
    return waiting, growing


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("slot_ids", [("slot-0",), ("slot-1",), ("slot-2",), SLOTS])
@pytest.mark.parametrize("host", HOSTS)
def test_a_training_seed_leaves_the_host_bit_for_bit_unchanged(
    stripes: Dataset, host: str, precision: Precision, slot_ids: tuple[str, ...]
) -> None:
    config = replace(CONFIG, host=host, **HOSTS[host], precision=precision)
    waiting, growing = trained_pair(config, stripes, slot_ids)
    assert_same(everything_but_the_seeds(waiting), everything_but_the_seeds(growing))
    for slot_id in slot_ids:
        fresh = GrowthTrainer(config, stripes)
        put_to_training(fresh, slot_id)
        assert not torch.equal(seed_weights(growing, slot_id), seed_weights(fresh, slot_id))


@pytest.mark.parametrize("blueprint", blueprint_names())
def test_every_blueprint_is_isolated(stripes: Dataset, blueprint: str) -> None:
    kinds = dict.fromkeys(SLOTS, blueprint)
    waiting, growing = trained_pair(replace(CONFIG, blueprints=kinds), stripes, SLOTS)
    assert_same(everything_but_the_seeds(waiting), everything_but_the_seeds(growing))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("slot_id", SLOTS)
@pytest.mark.parametrize("host", ["noisy-cnn", FOREIGN])
def test_a_seed_that_has_become_nan_leaves_the_host_bit_for_bit_unchanged(
    stripes: Dataset, host: str, precision: Precision, slot_id: str
) -> None:
    config = replace(CONFIG, host=host, **HOSTS[host], precision=precision)
    waiting, growing = trained_pair(config, stripes, (slot_id,), poisoned=True)
    assert seed_weights(growing, slot_id).isnan().any()
    assert_same(everything_but_the_seeds(waiting), everything_but_the_seeds(growing))


def test_what_is_measured_of_the_host_is_the_same_beside_a_training_seed(stripes: Dataset) -> None:
    waiting, growing = (t.snapshot() for t in trained_pair(CONFIG, stripes, SLOTS))
    assert replace(waiting, slots=()) == replace(growing, slots=())
    for alone, beside in zip(waiting.slots, growing.slots, strict=True):
        assert alone.gradient_norm == beside.gradient_norm
        assert alone.activation_sparsity == beside.activation_sparsity
        assert alone.gradmax_norm == beside.gradmax_norm is not None


@pytest.mark.parametrize("host", HOSTS)
def test_a_training_seed_leaves_live_seeds_up_and_down_the_network_unchanged(
    stripes: Dataset, host: str
) -> None:
    def grown(with_training_seed: bool) -> GrowthTrainer:
        trainer = GrowthTrainer(replace(CONFIG, host=host, **HOSTS[host]), stripes)
        for slot_id in ("slot-0", "slot-2"):
            put_to_training(trainer, slot_id)
        trainer.train_interval()
        for slot_id in ("slot-0", "slot-2"):
            trainer.apply(Action.ADVANCE, slot_id)
        trainer.train_interval()
        assert trainer.apply(Action.ADVANCE, "slot-0").executed  # fossilised; slot-2 still blends
        if with_training_seed:
            put_to_training(trainer, "slot-1")
        trainer.train_interval()
        return trainer

    alone, beside = grown(with_training_seed=False), grown(with_training_seed=True)
    assert [slot.stage for slot in beside.network.slots[:3]] == [
        Stage.FOSSILIZED,
        Stage.TRAINING,
        Stage.BLENDING,
    ]
    assert_same(everything_but_the_seeds(alone), everything_but_the_seeds(beside))


def test_a_training_seed_sees_live_seeds_downstream_and_no_other_training_seed(
    stripes: Dataset,
) -> None:
    def first_seed_beside(*others: str, blending: bool, poisoned: bool = False) -> Tensor:
        trainer = GrowthTrainer(CONFIG, stripes)
        for slot_id in others:
            put_to_training(trainer, slot_id)
            if poisoned:
                next(trainer.network.seeds[slot_id].parameters()).data[0] = float("nan")
        trainer.train_interval()
        if blending:
            for slot_id in others:
                trainer.apply(Action.ADVANCE, slot_id)
        put_to_training(trainer, "slot-0")
        trainer.train_interval()
        return seed_weights(trainer, "slot-0")

    alone = first_seed_beside(blending=False)
    assert torch.equal(alone, first_seed_beside("slot-1", "slot-2", blending=False))
    assert torch.equal(alone, first_seed_beside("slot-1", "slot-2", blending=False, poisoned=True))
    assert not torch.equal(alone, first_seed_beside("slot-2", blending=True))


def test_a_germinated_seed_is_not_trained_and_changes_nothing(stripes: Dataset) -> None:
    waiting, growing = GrowthTrainer(CONFIG, stripes), GrowthTrainer(CONFIG, stripes)
    for slot_id in SLOTS:
        growing.apply(Action.GERMINATE, slot_id)
    before = {name: t.clone() for name, t in growing.network.seeds.state_dict().items()}
    waiting.train_interval()
    growing.train_interval()
    assert_same(before, dict(growing.network.seeds.state_dict()))
    assert waiting.network.host.state_dict().keys() == growing.network.host.state_dict().keys()
    assert_same(dict(waiting.network.host.state_dict()), dict(growing.network.host.state_dict()))


def test_a_bad_batch_does_not_spoil_a_good_seed(
    stripes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = GrowthTrainer(replace(CONFIG, momentum=0.0, weight_decay=0.0), stripes)
    put_to_training(trainer, "slot-1")
    trainer.train_interval()
    before = seed_weights(trainer, "slot-1")
    poison = torch.Tensor.new_full
    seed = trainer.network.seeds["slot-1"]
    handle = seed.register_forward_hook(
        lambda module, given, residual: residual * poison(residual, (), float("inf"))
    )
    trainer.train_interval()
    handle.remove()
    assert torch.equal(seed_weights(trainer, "slot-1"), before)


def test_a_seed_that_is_not_finite_is_not_let_into_the_host(stripes: Dataset) -> None:
    _, growing = trained_pair(CONFIG, stripes, ("slot-1",), poisoned=True)
    outcome = growing.apply(Action.ADVANCE, "slot-1")
    assert outcome.no_op_reason == "SEED_NOT_FINITE"
    assert growing.snapshot().slots[1].stage is Stage.TRAINING
    growing.train_interval()
    assert all(tensor.isfinite().all() for tensor in growing.network.host.state_dict().values())
    assert growing.apply(Action.CULL, "slot-1").executed
