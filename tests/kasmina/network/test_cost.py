"""The account of multiply-adds, against sums by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.kasmina.network.tiny_hosts import FOREIGN, HOSTS

from kasmina.data.images import Dataset
from kasmina.network.blueprint import multiply_adds
from kasmina.network.cost import host_cost
from kasmina.network.host import HostShape
from kasmina.network.hosts import build_host
from kasmina.network.slot import Action
from kasmina.training.configuration import TrainerConfig
from kasmina.training.trainer import GrowthTrainer

CONFIG = TrainerConfig(
    channels=(4, 6),
    horizon=6,
    batch_size=16,
    interval_batches=3,
    blend_intervals=1,
    blueprints={"slot-0": "conv1x1", "slot-1": "conv3x3"},
    threads=1,
)
# Images of 3x16x16, pooled after each convolution; 4 classes; seeds see maps of 8x8 and 4x4.
FIRST, SECOND, HEAD = 9 * 3 * 4 * 256, 9 * 4 * 6 * 64, 6 * 4
HOST = FIRST + SECOND + HEAD
SEEDS = 2 * 4 * 4 * 64, 2 * 9 * 6 * 6 * 16
IMAGES, VALIDATION, BATCH = 48, 40, 16


def test_a_hosts_forward_pass_is_counted_and_where_it_is_spent() -> None:
    host = build_host("weak-cnn", HostShape((3, 16, 16), 4, (4, 6)), seed=0)
    cost = host_cost(host, (3, 16, 16))
    assert cost.forward == HOST
    assert cost.after == cost.downstream == (SECOND + HEAD, HEAD)
    assert cost.pixels == ((4, 8, 8), (6, 4, 4))


def test_resnet_18_costs_what_is_known_of_it() -> None:
    host = build_host("resnet18", HostShape((3, 32, 32), 10), seed=0)
    assert host_cost(host, (3, 32, 32)).forward == 555_422_720


def test_attention_is_counted_with_the_rest() -> None:
    host = build_host("vit", HostShape((3, 32, 32), 100), seed=0)
    patches, width = 64, 96
    projections = 4 * patches * width * width
    attention = 2 * patches * patches * width
    perceptron = 2 * patches * width * 2 * width
    blocks = 6 * (projections + attention + perceptron)
    assert host_cost(host, (3, 32, 32)).forward == patches * 48 * width + blocks + width * 100


@pytest.mark.parametrize("host", HOSTS)
def test_counting_changes_nothing(stripes: Dataset, host: str) -> None:
    settings = HOSTS[host]
    shape = HostShape(
        stripes.shape,
        stripes.classes,
        settings.get("channels", ()),
        settings.get("host_options", {}),
    )
    built = build_host(host, shape, seed=0).train()
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    numbers = torch.get_rng_state()
    host_cost(built, stripes.shape)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(before[name], tensor) for name, tensor in built.state_dict().items())
    assert all(module.training for module in built.modules())


def test_a_module_that_runs_as_a_whole_is_charged_for_it() -> None:
    host = build_host(FOREIGN, HostShape((3, 16, 16), 4), seed=0)
    cost = host_cost(host, (3, 16, 16))
    assert cost.downstream == (cost.forward,) * 4
    assert cost.forward > cost.after[0] > cost.after[1] > cost.after[2] > cost.after[3] > 0
    assert cost.pixels[2:] == ((8, 16, 1), (8, 1, 1))


def test_what_an_episode_spends_adds_up_from_interval_to_interval(
    stripes: Dataset, tmp_path: Path
) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    spent = 0
    gradmax = [2 * BATCH * seed for seed in SEEDS]

    def interval(cost_of_an_image: int, cost_of_training: int, beside: int) -> None:
        nonlocal spent
        facts = trainer.train_interval()
        spent += IMAGES * cost_of_training + VALIDATION * cost_of_an_image + beside
        assert (facts.multiply_adds, facts.multiply_adds_spent) == (cost_of_an_image, spent)
        assert facts.multiply_adds_bare == (3 * IMAGES + VALIDATION) * HOST + sum(gradmax)

    interval(HOST, 3 * HOST, sum(gradmax))
    for action in (Action.GERMINATE, Action.ADVANCE):
        trainer.apply(action, "slot-0")
    shadow = 3 * SEEDS[0] + 2 * (SECOND + HEAD)
    interval(HOST, 3 * HOST + shadow, sum(gradmax))
    trainer.apply(Action.ADVANCE, "slot-0")
    grown = HOST + SEEDS[0]
    interval(grown, 3 * grown, gradmax[1] + VALIDATION * (grown + HOST))

    trainer.save(tmp_path / "episode.safetensors")
    trainer = GrowthTrainer.load(tmp_path / "episode.safetensors", stripes)
    trainer.apply(Action.GERMINATE, "slot-1")
    trainer.apply(Action.ADVANCE, "slot-1")
    shadow = 3 * SEEDS[1] + 2 * HEAD
    interval(grown, 3 * grown + shadow, gradmax[1] + VALIDATION * (grown + HOST))


def test_seeds_that_the_shadow_pass_goes_through_are_counted(stripes: Dataset) -> None:
    config = replace(CONFIG, planted={"slot-1": "conv3x3"})
    waiting, growing = GrowthTrainer(config, stripes), GrowthTrainer(config, stripes)
    for action in (Action.GERMINATE, Action.ADVANCE):
        growing.apply(action, "slot-0")
    more = (
        growing.train_interval().multiply_adds_spent - waiting.train_interval().multiply_adds_spent
    )
    assert more == IMAGES * (3 * SEEDS[0] + 2 * (SECOND + HEAD + SEEDS[1]))
    assert (multiply_adds("conv1x1", (4, 8, 8)), multiply_adds("conv3x3", (6, 4, 4))) == SEEDS
