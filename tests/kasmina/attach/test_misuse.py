"""What cannot be is refused at once, and the message says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import Loop, batches
from torch import Tensor, nn

from kasmina.attach import AttachError, AttachOptions, Growth, MisplacedStep, UnfitModule, attach

OPTIONS = AttachOptions(end_patience_s=0.0)


def arguments(loop: Loop, neighbours: Neighbours, folder: Path) -> dict[str, Any]:
    return {
        "slots": loop.model.slots,
        "loss": loop.loss,
        "sample": batches()[0][:2],
        "optimizer": loop.optimizer,
        "validated": (1.4, 0.25),
        "horizon": 3,
        "run_id": "mine",
        "policy": neighbours.address,
        "experience": neighbours.address,
        "state_dir": folder,
        "options": OPTIONS,
    }


def lbfgs(loop: Loop) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(loop.model.parameters())


class Peculiar(torch.optim.SGD):
    """An optimiser that wants to know more than its settings tell."""

    def __init__(self, parameters: Iterable[nn.Parameter], secret: int) -> None:
        super().__init__(parameters, lr=0.1 * secret)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"slots": []}, "slots has 0 names; it must have 1 to 64"),
        ({"slots": "first"}, "slots is 'first'; it must be a sequence of names, or a mapping"),
        ({"slots": ["frist"]}, "the module has no 'frist'; it has first"),
        ({"slots": ["first", "first"]}, "slots names 'first' twice; a submodule has one slot"),
        ({"slots": {"One": "first"}}, "slots has the id 'One'; it must match"),
        ({"sample": [1.0]}, "sample is a list; it must be a tensor"),
        ({"optimizer": None}, "optimizer is a NoneType; it must be an Optimizer"),
        ({"optimizer": lbfgs}, "optimizer is an LBFGS; give options.seed_optimizer another"),
        (
            {"optimizer": lambda loop: Peculiar(loop.model.parameters(), secret=3)},
            "optimizer is a Peculiar, which cannot be built for a seed .* options.seed_optimizer",
        ),
        ({"validated": (-1.0, 0.5)}, r"validated\[0\] is -1.0; a loss in nats is not negative"),
        ({"validated": (1.0, 50.0)}, r"validated\[1\] is 50.0; an accuracy is a fraction"),
        ({"horizon": 0}, "horizon is 0; it must be at least 1"),
        ({"run_id": "my run"}, "run_id is 'my run'; it must match"),
        ({"policy": "localhost"}, "policy is 'localhost'; it must be HOST:PORT"),
        ({"experience": "localhost"}, "experience is 'localhost'; it must be HOST:PORT"),
        ({"options": AttachOptions(seed=-1)}, r"seed is -1; it must be in \[0, 2\^64\)"),
        ({"options": AttachOptions(temperature=0.0)}, r"temperature is 0.0; it must be in \[0.01"),
        (
            {"options": AttachOptions(observation_spec="sead")},
            "observation_spec is 'sead'; it must be",
        ),
        ({"options": AttachOptions(blueprints={"slot-7": "norm"})}, "blueprints names slot-7; the"),
        ({"options": AttachOptions(blueprints={"slot-0": "tree"})}, "tree"),
        ({"options": AttachOptions(blueprint_choice="random")}, r"candidates is \(\); it must be"),
        ({"options": AttachOptions(blend_intervals=0)}, "blend_intervals is 0; it must be at"),
        ({"options": AttachOptions(telemetry_every=0)}, "telemetry_every is 0; it must be at"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_and_nothing_has_changed(
    neighbours: Neighbours, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    loop = Loop.of("features")
    changed = {
        name: value(loop) if name == "optimizer" and callable(value) else value
        for name, value in change.items()
    }
    right = arguments(loop, neighbours, tmp_path)
    with pytest.raises(ValueError, match=complaint):
        attach(loop.model, **(right | changed))
    assert neighbours.policy.asked == []
    assert not any(part._forward_hooks for part in loop.model.modules())
    attach(loop.model, **right).end()


def test_a_model_in_which_nothing_learns_or_grows_is_refused(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    loop = Loop.of("features")
    right = arguments(loop, neighbours, tmp_path)
    frozen = Loop.of("features").model.requires_grad_(False)
    with pytest.raises(UnfitModule, match="no parameter of the module requires a gradient"):
        attach(frozen, **right)
    attach(loop.model, **right).end()
    with pytest.raises(UnfitModule, match="has slots already: attach to a fresh one"):
        attach(loop.model, **right)


def test_a_run_is_attached_to_once_at_a_time_and_by_the_same_settings(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    growth = Loop.of("features").attached(neighbours, tmp_path)
    with pytest.raises(AttachError, match=r"attached already .* end that, or"):
        Loop.of("features").attached(neighbours, tmp_path)
    growth.end()
    with pytest.raises(AttachError, match="began with other settings: take another run_id, or"):
        Loop.of("features").attached(neighbours, tmp_path, horizon=11)


def no_pass(loop: Loop, growth: Growth) -> None:
    growth.step(batches()[1])


def no_backward(loop: Loop, growth: Growth) -> None:
    images, labels = batches()
    loop.model.train()(images)
    growth.step(labels)


def no_training_mode(loop: Loop, growth: Growth) -> None:
    images, labels = batches()
    loop.loss(loop.model.eval()(images), labels).backward()
    growth.step(labels)


def too_late(loop: Loop, growth: Growth) -> None:
    images, labels = batches()
    loop.backward(images, labels)
    loop.optimizer.step()
    growth.step(labels)


def twice(loop: Loop, growth: Growth) -> None:
    images, labels = batches()
    loop.backward(images, labels)
    growth.step(labels)
    growth.step(labels)


def forgotten(loop: Loop, growth: Growth) -> None:
    images, labels = batches()
    loop.backward(images, labels)
    loop.backward(images, labels)
    growth.step(labels)


def no_step(loop: Loop, growth: Growth) -> None:
    growth.interval(train_loss=1.0, val_loss=1.0, val_accuracy=0.5)


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (no_pass, "without a pass of the model in training mode"),
        (no_backward, r"before backward\(\)"),
        (no_training_mode, "without a pass of the model in training mode"),
        (too_late, r"after optimizer.step\(\): call it before, right after backward\(\)"),
        (twice, "without a pass of the model in training mode"),
        (forgotten, r"ran 2 times .* call step\(\) after the backward pass of each"),
        (no_step, r"interval\(\) without a step\(\) since the last one"),
    ],
)
def test_a_call_that_is_missing_or_misplaced_is_told_and_the_loop_can_go_on(
    neighbours: Neighbours, tmp_path: Path, act: Callable[[Loop, Growth], None], complaint: str
) -> None:
    loop = Loop.of("features")
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        with pytest.raises(MisplacedStep, match=complaint):
            act(loop, growth)
        loop.run(1, growth)
        assert growth.interval_count == 1


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ((-0.1, 1.0, 0.5), "train_loss is -0.1; a loss in nats is not negative"),
        ((1.0, -0.1, 0.5), "val_loss is -0.1; a loss"),
        ((1.0, 1.0, 62.5), r"val_accuracy is 62.5; an accuracy is a fraction in \[0, 1\]"),
        ((1.0, 1.0, float("nan")), "val_accuracy is nan"),
    ],
)
def test_a_number_that_cannot_be_is_refused_and_can_be_corrected(
    neighbours: Neighbours,
    tmp_path: Path,
    numbers: tuple[float, float, float],
    complaint: str,
) -> None:
    loop = Loop.of("features")
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        loop.train_epoch(growth)
        train_loss, val_loss, val_accuracy = numbers
        with pytest.raises(ValueError, match=complaint):
            growth.interval(train_loss=train_loss, val_loss=val_loss, val_accuracy=val_accuracy)
        assert growth.interval_count == 0
        growth.interval(train_loss=float("nan"), val_loss=float("inf"), val_accuracy=0.5)
        told = neighbours.policy.asked[1].snapshot
        assert (told.train_loss, told.val_loss) == (1e6, 1e6), "the worst that can be said"


def test_a_loss_that_no_seed_could_learn_from_is_refused_at_the_first_step(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    loop = Loop.of("features")

    def of_each(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    growth = attach(loop.model, **(arguments(loop, neighbours, tmp_path) | {"loss": of_each}))
    with growth:
        images, labels = batches()
        loop.backward(images, labels)
        with pytest.raises(ValueError, match=r"loss gives \(48,\); it must give a scalar tensor"):
            growth.step(labels)
