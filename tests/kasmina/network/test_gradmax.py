"""What a seed could do, measured without one."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tests.kasmina.network.tiny_hosts import FOREIGN
from torch import nn

from kasmina.network.blueprint import blueprint_names, output_parameters, plant
from kasmina.network.gradmax import GRADMAX_IMAGES, gradmax_norm
from kasmina.network.growth import GrowingNetwork
from kasmina.network.host import HostShape
from kasmina.network.hosts import build_host
from kasmina.network.slot import Slot, Stage

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("blueprint", blueprint_names())
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("name", ["weak-cnn", FOREIGN])
def test_it_is_the_gradient_that_the_last_layer_gets_in_the_network(
    name: str, depth: int, blueprint: str
) -> None:
    host = build_host(name, HostShape((3, 16, 16), 4), seed=1)
    slots = [Slot(site.slot_id, at, blend_steps=4) for at, site in enumerate(host.sites)]
    network = GrowingNetwork(host, slots)
    fresh = plant(blueprint, network.site(slots[depth]).width, seed=2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        trace = network.trace(IMAGES)
    h = trace.activations[depth]
    h.retain_grad()
    trace.logits.square().mean().backward()
    norm = gradmax_norm(network, slots[depth], fresh, h, nullcontext())

    planted = plant(blueprint, network.site(slots[depth]).width, seed=2)
    host = build_host(name, HostShape((3, 16, 16), 4), seed=1)
    slots[depth].stage = Stage.FOSSILIZED
    grown = GrowingNetwork(host, slots)
    grown.plant(slots[depth], planted)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        grown(IMAGES).square().mean().backward()
    gradients = [parameter.grad for parameter in list(planted.parameters())[-2:]]
    expected = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
    assert norm is not None
    assert norm > 0
    torch.testing.assert_close(norm, expected.norm(), rtol=1e-4, atol=1e-7)


def test_it_is_not_measured_where_nothing_starts_at_zero_or_no_gradient_came() -> None:
    host = build_host("weak-cnn", HostShape((3, 16, 16), 4), seed=1)
    slots = [Slot(site.slot_id, at, blend_steps=4) for at, site in enumerate(host.sites)]
    network = GrowingNetwork(host, slots)
    h = network.trace(IMAGES).activations[0]
    fresh = plant("conv3x3", 16, seed=2)
    assert gradmax_norm(network, slots[0], fresh, h, nullcontext()) is None
    warm = nn.Conv2d(16, 16, 1)
    assert output_parameters(warm) == []
    assert gradmax_norm(network, slots[0], warm, h, nullcontext()) is None


def test_a_large_batch_is_measured_on_its_first_images() -> None:
    images = torch.randn(GRADMAX_IMAGES + 8, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    norms = []
    for batch in (images, images[:GRADMAX_IMAGES]):
        host = build_host("weak-cnn", HostShape((3, 16, 16), 4), seed=1).eval()
        slots = [Slot(site.slot_id, at, blend_steps=4) for at, site in enumerate(host.sites)]
        network = GrowingNetwork(host, slots)
        trace = network.trace(batch)
        h = trace.activations[1]
        h.retain_grad()
        trace.logits.square().mean().backward()
        norms.append(gradmax_norm(network, slots[1], plant("conv3x3", 32, 2), h, nullcontext()))
    large, small = norms
    assert large is not None
    torch.testing.assert_close(large, small, rtol=1e-4, atol=1e-7)
