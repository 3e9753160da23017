from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kasmina.network.host import HostShape, Site, StagedHost
from kasmina.network.hosts import UnknownHost, build_host, host_names


def built(name: str, shape: HostShape) -> StagedHost:
    host = build_host(name, shape, seed=0)
    assert isinstance(host, StagedHost)
    return host


def activations(host: StagedHost, images: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []

    def look(depth: int, h: Tensor) -> Tensor:
        assert depth == len(seen)
        seen.append(h)
        return h

    host.through(images, look)
    return seen


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("image", [(1, 8, 8), (3, 8, 8), (3, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", ["weak-cnn", "resnet18", "vit"])
def test_a_host_takes_images_of_the_usual_sizes_and_has_widths_of_its_own(
    name: str, image: tuple[int, int, int]
) -> None:
    host = built(name, HostShape(image, 10)).eval()
    assert host(torch.zeros(2, *image)).shape == (2, 10)
    assert [site.slot_id for site in host.sites] == [f"slot-{d}" for d in range(len(host.sites))]


@pytest.mark.parametrize(
    ("name", "channels", "sides"),
    [
        ("weak-cnn", (4, 6, 8), (16, 8, 4)),
        ("resnet18", (4, 6, 8, 10), (32, 16, 8, 4)),
        ("vit", (6, 6), (8, 8)),
    ],
)
def test_a_slot_sees_a_map_of_its_stages_width(
    name: str, channels: tuple[int, ...], sides: tuple[int, ...]
) -> None:
    host = built(name, HostShape((3, 32, 32), 100, channels))
    maps = activations(host, torch.randn(2, 3, 32, 32))
    assert [tuple(h.shape) for h in maps] == [
        (2, width, side, side) for width, side in zip(channels, sides, strict=True)
    ]
    assert [(site.width, site.layout) for site in host.sites] == [(w, "map") for w in channels]


def test_the_weak_cnn_has_the_parameters_of_its_description() -> None:
    host = built("weak-cnn", HostShape((3, 32, 32), 100, (16, 32, 64)))
    convolutions = 9 * (3 * 16 + 16 * 32 + 32 * 64)
    norms = 2 * (16 + 32 + 64)
    linear = 64 * 100 + 100
    assert parameters(host) == convolutions + norms + linear


def test_the_weak_cnn_has_as_many_convolutions_a_stage_as_it_is_told() -> None:
    one = HostShape((3, 32, 32), 10, (4, 6))
    three = HostShape((3, 32, 32), 10, (4, 6), {"blocks": "3"})
    more = 2 * sum(9 * width * width + 2 * width for width in (4, 6))
    assert parameters(built("weak-cnn", three)) == parameters(built("weak-cnn", one)) + more
    maps = activations(built("weak-cnn", three), torch.randn(2, 3, 32, 32))
    assert [h.shape[-1] for h in maps] == [16, 8]


@pytest.mark.parametrize("stages", range(1, 13))
def test_the_weak_cnn_pools_until_a_pixel_is_left(stages: int) -> None:
    host = built("weak-cnn", HostShape((3, 32, 32), 10, (4,) * stages)).eval()
    sides = [h.shape[-1] for h in activations(host, torch.randn(2, 3, 32, 32))]
    assert sides == [16, 8, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1][:stages]
    assert all(h.min() >= 0 for h in activations(host, torch.randn(2, 3, 32, 32)))


def test_resnet_18_is_the_one_of_the_paper_for_small_images() -> None:
    # 11,173,962 of the CIFAR-10 form, of which 512 * 10 + 10 are the classifier's.
    host = built("resnet18", HostShape((3, 32, 32), 10))
    assert parameters(host) == 11_173_962


def test_a_vit_mixes_all_places_and_drops_out_as_it_is_told() -> None:
    options = {"depth": "2", "heads": "2", "dropout": "0.5", "patch": "8"}
    host = built("vit", HostShape((3, 32, 32), 10, (8, 8), options))
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(host(images), host(images))
    host.eval()
    assert torch.equal(host(images), host(images))
    images.requires_grad_()
    corner = activations(host, images)[0][0, :, 0, 0].sum()
    (effect,) = torch.autograd.grad(corner, images)
    assert (effect[0].abs().sum((0, 1)) > 0).all()
    assert effect[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "channels", "options", "complaint"),
    [
        ("weak-cnn", (4,) * 13, {}, "channels has 13 stages; weak-cnn has 1 to 12"),
        ("weak-cnn", (4,), {"blok": "2"}, "host_options has 'blok'; weak-cnn knows blocks"),
        ("weak-cnn", (4,), {"blocks": "0"}, "host_options blocks of weak-cnn is '0'"),
        ("weak-cnn", (4,), {"blocks": "1.5"}, "a whole number from 1 on"),
        ("resnet18", (4, 4), {}, "channels has 2 stages; resnet18 has 4"),
        ("resnet18", (), {"depth": "50"}, "host_options has 'depth'; resnet18 has no options"),
        ("vit", (8, 16), {}, r"channels is \(8, 16\); the groups of a vit are all of one width"),
        ("vit", (8, 8), {}, "3 heads do not divide that width"),
        ("vit", (9, 9), {"depth": "3"}, "2 groups do not divide it"),
        ("vit", (9,), {"patch": "5"}, "it does not divide images of 32x32"),
        ("vit", (9,), {"dropout": "1"}, r"dropout of vit is '1'; it must be a number in \[0, 1\)"),
        ("vit", (9,), {"dropout": "much"}, "dropout of vit is 'much'"),
    ],
)
def test_a_host_refuses_what_it_cannot_be_and_says_what_it_knows(
    name: str, channels: tuple[int, ...], options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_host(name, HostShape((3, 32, 32), 10, channels, options), seed=0)


def test_an_unknown_host_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(UnknownHost, match=r"'lenet'.*resnet18.*vit.*weak-cnn"):
        build_host("lenet", HostShape((3, 32, 32), 10, (16,)), seed=0)
    assert {"resnet18", "vit", "weak-cnn"} <= set(host_names())


@pytest.mark.parametrize("name", ["weak-cnn", "resnet18", "vit"])
def test_a_hosts_weights_are_a_function_of_the_seed_and_take_nobody_elses_random_numbers(
    name: str,
) -> None:
    options = {"heads": "2", "depth": "4"} if name == "vit" else {}
    shape = HostShape((3, 32, 32), 10, (4, 4, 4, 4), options)
    before = torch.get_rng_state()
    first, again, other = (
        torch.cat([p.detach().flatten() for p in build_host(name, shape, seed).parameters()])
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["weak-cnn", "resnet18", "vit"])
def test_what_lies_downstream_of_a_slot_ends_in_the_same_logits(name: str) -> None:
    host = built(name, HostShape((3, 16, 16), 10)).eval()
    images = torch.randn(2, 3, 16, 16)
    for depth, h in enumerate(activations(host, images)):
        visited: list[int] = []

        def look(later: int, h: Tensor, visited: list[int] = visited) -> Tensor:
            visited.append(later)
            return h

        assert torch.equal(host.downstream(depth, h, images, look), host(images))
        assert visited == list(range(depth + 1, len(host.sites)))


@pytest.mark.parametrize(
    ("layout", "shape"), [("map", (2, 5, 3, 4)), ("tokens", (2, 7, 5)), ("features", (2, 5))]
)
def test_every_layout_is_a_map_to_seeds_and_comes_back(layout: str, shape: tuple[int, ...]) -> None:
    site = Site("slot-0", 5, layout)  # type: ignore[arg-type]
    h = torch.randn(shape)
    pixels = site.as_map(h)
    assert pixels.dim() == 4
    assert pixels.shape[:2] == (2, 5)
    assert torch.equal(site.from_map(pixels), h)
