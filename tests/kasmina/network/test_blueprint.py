from __future__ import annotations

import pytest
import torch

from kasmina.network.blueprint import (
    UnknownBlueprint,
    blueprint_names,
    multiply_adds,
    output_parameters,
    parameter_count,
    plant,
)

BLUEPRINTS = ("bottleneck", "conv1x1", "conv3x3", "depthwise", "norm", "squeeze-excite")


def test_the_blueprints_are_known_by_name() -> None:
    assert set(BLUEPRINTS) <= set(blueprint_names())


@pytest.mark.parametrize("name", BLUEPRINTS)
@pytest.mark.parametrize("side", [1, 2, 8])
def test_a_fresh_seed_adds_exactly_nothing_to_a_map_of_any_size(name: str, side: int) -> None:
    h = torch.randn(4, 16, side, side).relu()
    seed = plant(name, channels=16, seed=3)
    residual = seed(h)
    assert residual.shape == h.shape
    assert torch.equal(h + residual, h)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_fresh_seed_gets_a_gradient_at_its_last_layer(name: str) -> None:
    seed = plant(name, channels=16, seed=3)
    (seed(torch.randn(4, 16, 4, 4).relu()) * torch.randn(4, 16, 4, 4)).sum().backward()
    gradients = [p.grad for p in seed.parameters() if p.grad is not None]
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_parameter_counts_are_those_of_the_layers() -> None:
    norm = 2 * 16
    assert parameter_count("conv3x3", 16) == 9 * 16 * 16 + norm + 9 * 16 * 16 + 16
    assert parameter_count("conv1x1", 16) == 16 * 16 + norm + 16 * 16 + 16
    assert parameter_count("depthwise", 16) == 9 * 16 + norm + 16 * 16 + 16
    assert parameter_count("squeeze-excite", 16) == (16 * 4 + 4) + (4 * 16 + 16)
    bottleneck = 16 * 4 + 2 * 4 + 9 * 4 * 4 + 2 * 4 + 4 * 16 + 16
    assert parameter_count("bottleneck", 16) == bottleneck
    assert parameter_count("norm", 16) == norm


def test_multiply_adds_are_those_of_the_products() -> None:
    pixels = 8 * 6
    assert multiply_adds("conv3x3", (16, 8, 6)) == 2 * 9 * 16 * 16 * pixels
    assert multiply_adds("conv1x1", (16, 8, 6)) == 2 * 16 * 16 * pixels
    assert multiply_adds("depthwise", (16, 8, 6)) == (9 * 16 + 16 * 16) * pixels
    assert multiply_adds("bottleneck", (16, 8, 6)) == (16 * 4 + 9 * 4 * 4 + 4 * 16) * pixels
    assert multiply_adds("squeeze-excite", (16, 8, 6)) == 16 * 4 + 4 * 16
    assert multiply_adds("norm", (16, 8, 6)) == 0


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_the_last_layer_of_a_fresh_seed_is_found_and_can_learn_at_once(name: str) -> None:
    seed = plant(name, channels=16, seed=3)
    outputs = output_parameters(seed)
    assert outputs == list(seed.parameters())[-2:]
    (seed(torch.randn(4, 16, 4, 4)) * torch.randn(4, 16, 4, 4)).sum().backward()
    for parameter in seed.parameters():
        assert parameter.grad is not None
        assert parameter.grad.any() == any(parameter is output for output in outputs)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_dud_costs_what_the_seed_costs_and_sees_nothing(name: str) -> None:
    dud, seed = plant(name, channels=8, seed=3, dud=True), plant(name, channels=8, seed=3)
    assert [p.tolist() for p in dud.parameters()] == [p.tolist() for p in seed.parameters()]
    for parameter in dud.parameters():
        parameter.data.normal_()
    first, second = dud(torch.randn(4, 8, 4, 4)), dud(torch.randn(4, 8, 4, 4))
    assert torch.equal(first, second)


def test_squeeze_and_excite_at_most_doubles_a_channel_and_at_most_silences_it() -> None:
    seed = plant("squeeze-excite", channels=8, seed=0)
    for parameter in seed.parameters():
        parameter.data.normal_(0.0, 30.0)
    h = torch.rand(16, 8, 4, 4)
    grown = h + seed(h)
    assert grown.min() >= 0
    assert (grown <= 2 * h).all()


def test_an_unknown_blueprint_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(UnknownBlueprint, match=r"'karn'.*conv1x1.*conv3x3.*depthwise"):
        plant("karn", channels=8, seed=0)
    with pytest.raises(UnknownBlueprint):
        parameter_count("karn", 8)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_seeds_weights_are_a_function_of_its_seed_and_take_nobody_elses_random_numbers(
    name: str,
) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        torch.cat([p.flatten() for p in plant(name, 8, seed).parameters()]) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "norm")  # which has nothing to draw
