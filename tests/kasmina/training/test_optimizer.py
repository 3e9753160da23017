from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from kasmina.training.optimizer import GrowthOptimizer, OptimizerSettings, Schedule


def settings(**changes: object) -> OptimizerSettings:
    values: dict[str, object] = {
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "clip_norm": None,
        "schedule": "constant",
        "total_steps": 10,
    }
    return OptimizerSettings(**{**values, **changes})  # type: ignore[arg-type]


def layer(seed: int) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 2)


def gradients(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, generator=generator), torch.randn(2, generator=generator)


def give(module: nn.Module, values: tuple[Tensor, ...]) -> None:
    for parameter, value in zip(module.parameters(), values, strict=True):
        parameter.grad = value.clone()


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


def stepped(optimizer: GrowthOptimizer, host: nn.Module, steps: int) -> None:
    for step in range(steps):
        give(host, gradients(step))
        optimizer.step(live=[], apart={})


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_host_learns_as_by_plain_nesterov_momentum(schedule: Schedule) -> None:
    host, reference = layer(1), layer(1)
    ours = GrowthOptimizer(host, settings(schedule=schedule))
    theirs = torch.optim.SGD(
        reference.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    )
    for step in range(10):
        give(host, gradients(step))
        give(reference, gradients(step))
        cosine = 0.05 * (1.0 + math.cos(math.pi * step / 10))
        theirs.param_groups[0]["lr"] = cosine if schedule == "cosine" else 0.1
        theirs.step()
        ours.step(live=[], apart={})
        assert torch.equal(weights(host), weights(reference))


def test_the_cosine_ends_at_zero_and_stays_there() -> None:
    cosine = settings(schedule="cosine")
    assert cosine.learning_rate_at(0) == 0.1
    assert cosine.learning_rate_at(10) == pytest.approx(0.0, abs=1e-12)
    assert cosine.learning_rate_at(11) == cosine.learning_rate_at(10)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_rate_can_stay_for_a_share_of_the_steps_before_it_falls(share: float) -> None:
    both = settings(schedule="constant-then-cosine", constant_share=share)
    start = round(10 * share)
    cosine = settings(schedule="cosine", total_steps=10 - start)
    rates = [both.learning_rate_at(step) for step in range(12)]
    assert rates[: start + 1] == [0.1] * (start + 1)
    falling = [cosine.learning_rate_at(step) for step in range(12 - start)]
    assert rates[start:] == pytest.approx(falling)


def test_a_rate_that_stays_for_the_whole_run_never_falls() -> None:
    constant = settings(schedule="constant-then-cosine", constant_share=1.0)
    assert {constant.learning_rate_at(step) for step in range(12)} == {0.1}


def test_a_seed_that_comes_and_goes_leaves_everyone_elses_moments_alone() -> None:
    host, other, seed = layer(1), layer(2), layer(3)
    optimizer = GrowthOptimizer(host, settings())
    optimizer.adopt("slot-0", other)
    give(host, gradients(1))
    optimizer.step(live=[], apart={"slot-0": gradients(2)})
    before = {name: moment.clone() for name, moment in optimizer.state().items()}

    optimizer.adopt("slot-1", seed)
    assert {name: m for name, m in optimizer.state().items() if name.startswith("slot-1")} == {}
    optimizer.release("slot-1")

    after = optimizer.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_seeds_first_step_is_the_same_whatever_was_in_its_slot_before() -> None:
    def first_step(optimizer: GrowthOptimizer, host: nn.Module) -> Tensor:
        seed = layer(4)
        optimizer.adopt("slot-0", seed)
        give(host, gradients(7))
        optimizer.step(live=[], apart={"slot-0": gradients(8)})
        return weights(seed)

    host = layer(1)
    used = GrowthOptimizer(host, settings())
    used.adopt("slot-0", layer(3))
    give(host, gradients(1))
    used.step(live=[], apart={"slot-0": gradients(2)})
    used.release("slot-0")
    assert torch.equal(first_step(used, host), first_step(GrowthOptimizer(host, settings()), host))


def test_a_seed_keeps_its_moments_when_it_joins_the_network() -> None:
    host, seed = layer(1), layer(2)
    optimizer = GrowthOptimizer(host, settings())
    optimizer.adopt("slot-0", seed)
    reference = layer(2)
    theirs = torch.optim.SGD(
        reference.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    )
    for step in range(4):
        give(host, gradients(step))
        give(reference, gradients(10 + step))
        if step < 2:
            optimizer.step(live=[], apart={"slot-0": gradients(10 + step)})
        else:
            give(seed, gradients(10 + step))
            optimizer.step(live=["slot-0"], apart={})
        theirs.step()
    assert torch.equal(weights(seed), weights(reference))


def test_host_and_live_seeds_are_clipped_together_and_training_seeds_by_themselves() -> None:
    plain = settings(momentum=0.0, weight_decay=0.0, clip_norm=1.0, learning_rate=1.0)
    host, live, apart = layer(1), layer(2), layer(3)
    before = [weights(module) for module in (host, live, apart)]
    optimizer = GrowthOptimizer(host, plain)
    optimizer.adopt("slot-0", live)
    optimizer.adopt("slot-1", apart)
    give(host, gradients(1))
    give(live, gradients(2))
    optimizer.step(live=["slot-0"], apart={"slot-1": gradients(3)})
    moved = [
        weights(module) - start for module, start in zip((host, live, apart), before, strict=True)
    ]
    torch.testing.assert_close(torch.cat(moved[:2]).norm(), torch.tensor(1.0))
    torch.testing.assert_close(moved[2].norm(), torch.tensor(1.0))


def test_a_gradient_that_is_not_finite_moves_no_weight_of_a_training_seed() -> None:
    host, seed = layer(1), layer(2)
    optimizer = GrowthOptimizer(host, settings(momentum=0.0, weight_decay=0.0, clip_norm=1.0))
    optimizer.adopt("slot-0", seed)
    before = weights(seed)
    weight, bias = gradients(1)
    bias[0] = float("inf")
    give(host, gradients(2))
    optimizer.step(live=[], apart={"slot-0": (weight, bias)})
    assert torch.equal(weights(seed), before)


def test_restored_moments_go_on_bit_for_bit() -> None:
    host, copy = layer(1), layer(1)
    first = GrowthOptimizer(host, settings(schedule="cosine"))
    stepped(first, host, 3)
    copy.load_state_dict(host.state_dict())
    second = GrowthOptimizer(copy, settings(schedule="cosine"))
    second.restore({name: m.clone() for name, m in first.state().items()}, first.step_count)
    stepped(first, host, 3)
    stepped(second, copy, 3)
    assert torch.equal(weights(host), weights(copy))
