from __future__ import annotations

import pytest
import torch

from kasmina.network.host import HostShape, UnknownHost, build_host, host_names


@pytest.mark.parametrize("image", [(1, 8, 8), (3, 8, 8), (3, 28, 28), (3, 32, 32)])
def test_the_weak_cnn_takes_every_image_that_leaves_a_map_for_its_stages(
    image: tuple[int, int, int],
) -> None:
    host = build_host("weak-cnn", HostShape(image, 10, (16, 32, 64)), seed=0)
    assert host(torch.zeros(2, *image)).shape == (2, 10)


def test_a_slot_sees_a_map_of_its_stages_width() -> None:
    host = build_host("weak-cnn", HostShape((3, 32, 32), 100, (4, 6, 8)), seed=0)
    h = torch.randn(2, 3, 32, 32)
    for stage, width, side in zip(host.stages, host.widths, (16, 8, 4), strict=True):
        h = stage(h)
        assert h.shape == (2, width, side, side)
        assert h.min() >= 0


def test_the_weak_cnn_has_the_parameters_of_its_description() -> None:
    host = build_host("weak-cnn", HostShape((3, 32, 32), 100, (16, 32, 64)), seed=0)
    convolutions = 9 * (3 * 16 + 16 * 32 + 32 * 64)
    norms = 2 * (16 + 32 + 64)
    linear = 64 * 100 + 100
    assert sum(p.numel() for p in host.parameters()) == convolutions + norms + linear


def test_an_unknown_host_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(UnknownHost, match=r"'resnet'.*weak-cnn"):
        build_host("resnet", HostShape((3, 32, 32), 10, (16,)), seed=0)
    assert "weak-cnn" in host_names()


def test_images_too_small_for_the_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16x16, not 8x8"):
        build_host("weak-cnn", HostShape((1, 8, 8), 10, (4, 4, 4, 4)), seed=0)


def test_a_hosts_weights_are_a_function_of_the_seed_and_take_nobody_elses_random_numbers() -> None:
    shape = HostShape((3, 32, 32), 10, (4, 4, 4))
    before = torch.get_rng_state()
    first, again, other = (build_host("weak-cnn", shape, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.head[2].weight, again.head[2].weight)  # type: ignore[index]
    assert not torch.equal(first.head[2].weight, other.head[2].weight)  # type: ignore[index]
