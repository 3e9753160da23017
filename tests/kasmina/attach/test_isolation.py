"""Attaching, and a seed that learns apart, leave somebody else's training as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import (
    ADVANCE,
    GERMINATE,
    MODELS,
    OPTIMIZERS,
    Loop,
    Plan,
    assert_same,
    batches,
    follow,
)

from kasmina.attach import AttachOptions, Growth
from kasmina.network.blueprint import blueprint_names
from kasmina.network.slot import Stage

BOTH_LEARN: Plan = {
    0: (GERMINATE, "slot-0"),
    1: (ADVANCE, "slot-0"),
    2: (GERMINATE, "slot-1"),
    3: (ADVANCE, "slot-1"),
}
OPTIONS = AttachOptions(telemetry_every=2, ablation=batches(5), end_patience_s=0.0)


_Weights = dict[str, torch.Tensor]


def seed_weights(growth: Growth) -> _Weights:
    return {name: tensor.clone() for name, tensor in growth.network.seeds.named_parameters()}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_training_seed_leaves_the_loop_bit_for_bit_as_it_was_without_leyline(
    neighbours: Neighbours, tmp_path: Path, model: str, optimizer: str, bf16: bool
) -> None:
    alone = Loop.of(model, optimizer, bf16=bf16)
    alone.validate()
    alone.run(6)
    random = torch.get_rng_state()
    follow(neighbours, BOTH_LEARN)
    beside = Loop.of(model, optimizer, bf16=bf16)
    growth = beside.attached(neighbours, tmp_path, options=OPTIONS)
    beside.run(4, growth)
    before = seed_weights(growth)
    beside.run(2, growth)
    assert [slot.stage for slot in growth.slots] == [Stage.TRAINING, Stage.TRAINING]
    moved = [
        name for name, weights in seed_weights(growth).items() if (weights != before[name]).any()
    ]
    assert len(moved) == len(before), "every parameter of both seeds learns"
    assert torch.equal(random, torch.get_rng_state())
    assert beside.curve == alone.curve
    torch.set_rng_state(random)
    assert_same(alone.everything(), beside.everything())
    growth.end()


@pytest.mark.parametrize("blueprint", blueprint_names())
def test_no_blueprint_disturbs_the_loop(
    neighbours: Neighbours, tmp_path: Path, blueprint: str
) -> None:
    alone = Loop.of()
    alone.validate()
    alone.run(4)
    follow(neighbours, BOTH_LEARN)
    beside = Loop.of()
    blueprints = {"slot-0": blueprint, "slot-1": blueprint}
    growth = beside.attached(neighbours, tmp_path, options=AttachOptions(blueprints=blueprints))
    beside.run(4, growth)
    assert_same(alone.everything(), beside.everything())
    growth.end()


def test_a_seed_that_has_become_nan_leaves_the_loop_as_it_was_and_is_not_let_in(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    alone = Loop.of()
    alone.validate()
    alone.run(5)
    follow(neighbours, {0: (GERMINATE, "slot-0"), 1: (ADVANCE, "slot-0"), 4: (ADVANCE, "slot-0")})
    beside = Loop.of()
    growth = beside.attached(neighbours, tmp_path)
    beside.run(2, growth)
    next(growth.network.seeds.parameters()).data[0] = float("nan")
    beside.run(3, growth)
    assert_same(alone.everything(), beside.everything())
    assert growth.last_move is not None
    assert growth.last_move.no_op_reason is None  # of step 5, a WAIT
    assert growth.slots[0].stage is Stage.TRAINING
    refused = neighbours.policy.asked[5].snapshot.slots[0]
    assert refused.stage == 3
    growth.end()


def test_a_training_seed_sees_what_it_does_to_the_loss(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, {0: (GERMINATE, "slot-1"), 1: (ADVANCE, "slot-1")})
    loop = Loop.of(optimizer="adamw")
    growth = loop.attached(neighbours, tmp_path, horizon=14)
    loop.run(13, growth)
    images, labels = batches()
    loop.model.eval()
    with torch.no_grad():
        slot = growth.slots[1]
        without = loop.loss(loop.model(images), labels)
        slot.stage = Stage.FOSSILIZED
        with_it = loop.loss(loop.model(images), labels)
    assert with_it < without - 0.01
    growth.end()


def test_measuring_changes_nothing(neighbours: Neighbours, tmp_path: Path) -> None:
    grow: Plan = {
        0: (GERMINATE, "slot-0"),
        1: (ADVANCE, "slot-0"),
        2: (ADVANCE, "slot-0"),
        3: (ADVANCE, "slot-0"),
    }
    follow(neighbours, grow)
    ends: list[tuple[_Weights, list[tuple[float, float, float]], _Weights]] = []
    for telemetry in (OPTIONS, AttachOptions(telemetry_every=1000, end_patience_s=0.0)):
        loop = Loop.of()
        growth = loop.attached(neighbours, tmp_path / str(len(ends)), options=telemetry)
        loop.run(6, growth)
        ends.append((loop.everything(), loop.curve, seed_weights(growth)))
        growth.end()
    (one, curve, seeds), (other, other_curve, other_seeds) = ends
    assert_same(one, other)
    assert_same(seeds, other_seeds)
    assert curve == other_curve
