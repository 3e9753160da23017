"""Any module can be a host, and is none the worse for it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from tests.kasmina.network.tiny_hosts import SUBMODULES, Foreign
from torch import Tensor, nn

from kasmina.network.module_host import ModuleHost, UnfitModule

SAMPLE = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def module() -> Foreign:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Foreign(classes=4)


def host() -> ModuleHost:
    return ModuleHost(module(), SUBMODULES, SAMPLE)


class Row(nn.Module):
    """Layers a, b and c in a row, called as the test says."""

    def __init__(self, run: Callable[[Row, Tensor], object]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.run = run

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


def test_depth_width_and_layout_are_found_out_whatever_the_order_of_the_names() -> None:
    found = ModuleHost(module(), ["features", "stem", "tokens", "middle"], SAMPLE).sites
    assert [(site.slot_id, site.width, site.layout) for site in found] == [
        ("slot-0", 8, "map"),
        ("slot-1", 8, "map"),
        ("slot-2", 8, "tokens"),
        ("slot-3", 8, "features"),
    ]


def test_slots_can_have_names_of_their_own() -> None:
    found = ModuleHost(module(), {"late": "features", "early": "stem"}, SAMPLE).sites
    assert [site.slot_id for site in found] == ["early", "late"]


def test_becoming_a_host_changes_nothing_about_the_module() -> None:
    ours, untouched = module(), module()
    ours.middle.eval()
    numbers = torch.get_rng_state()
    ModuleHost(ours, SUBMODULES, SAMPLE)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert [part.training for part in ours.modules()].count(False) == len(
        list(ours.middle.modules())
    )
    state, before = ours.state_dict(), untouched.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert all(parameter.grad is None for parameter in ours.parameters())
    assert not any(part._forward_hooks for part in ours.modules())


def test_a_host_can_be_copied_pickled_and_saved_like_any_module() -> None:
    first = host().eval()
    first.through(SAMPLE, lambda depth, h: h)
    second = copy.deepcopy(first)
    assert torch.equal(second.through(SAMPLE, lambda depth, h: h), first(SAMPLE))
    plain = ModuleHost(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), ["1"], SAMPLE)
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded.through(SAMPLE, lambda depth, h: h), plain(SAMPLE))
    assert {f"module.{name}" for name in module().state_dict()} == first.state_dict().keys()


def test_with_empty_slots_it_computes_what_the_module_does_and_learns_as_it_does() -> None:
    def learnt(network: nn.Module, logits_of: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            logits_of(SAMPLE).square().sum().backward()
        return [parameter.grad for parameter in network.parameters()]

    ours, plain = host(), module()
    mine = learnt(ours, lambda images: ours.through(images, lambda depth, h: h))
    pairs = zip(mine, learnt(plain, plain), strict=True)
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


def test_what_a_visit_returns_goes_on() -> None:
    ours = host().eval()
    for depth in range(4):
        doubled = ours.through(SAMPLE, lambda at, h, depth=depth: 2 * h if at == depth else h)  # type: ignore[misc]
        assert not torch.allclose(doubled, ours(SAMPLE))


def test_an_activation_that_the_module_overwrites_is_kept_for_who_was_shown_it() -> None:
    ours, plain = host().eval(), module().eval()
    seen: dict[int, Tensor] = {}

    def look(depth: int, h: Tensor) -> Tensor:
        seen[depth] = h
        return h

    logits = ours.through(SAMPLE, look)
    assert torch.equal(seen[0], plain.stem(SAMPLE))
    assert (seen[0] < 0).any()
    assert torch.equal(logits, plain(SAMPLE))


@pytest.mark.parametrize("depth", range(4))
def test_downstream_of_a_slot_the_module_goes_on_from_what_it_is_given(depth: int) -> None:
    ours = host().eval()
    seen: dict[int, Tensor] = {}

    def look(at: int, h: Tensor) -> Tensor:
        seen[at] = h
        return h

    logits = ours.through(SAMPLE, look)
    visited: list[int] = []

    def note(at: int, h: Tensor) -> Tensor:
        visited.append(at)
        return h

    again = ours.downstream(depth, seen[depth], SAMPLE, note)
    torch.testing.assert_close(again, logits)
    assert visited == [at for at in range(4) if at != depth]
    assert not torch.allclose(ours.downstream(depth, seen[depth] + 1, SAMPLE, note), logits)


@pytest.mark.parametrize("depth", range(4))
def test_no_gradient_reaches_what_lies_before_a_slot_nor_passes_by_it(depth: int) -> None:
    ours = host()
    h = torch.randn({0: (3, 8, 4, 4), 1: (3, 8, 4, 4), 2: (3, 4, 8), 3: (3, 8)}[depth])
    h.requires_grad_()
    logits = ours.downstream(depth, h, SAMPLE, lambda at, h: h)
    logits.square().sum().backward()
    assert h.grad is not None
    learnt = {
        name.split(".")[0] for name, p in ours.module.named_parameters() if p.grad is not None
    }
    assert learnt == {"middle", "tokens", "features", "classifier"} - set(SUBMODULES[: depth + 1])
    assert torch.is_grad_enabled()


def test_the_section_of_a_slot_is_the_submodule() -> None:
    ours = host()
    assert isinstance(ours.module, Foreign)
    assert list(ours.section(3)) == list(ours.module.features.parameters())


def test_a_submodule_that_there_is_not_is_refused_with_the_names_that_are_close() -> None:
    with pytest.raises(UnfitModule, match=r"no 'midle'; it has middle"):
        ModuleHost(module(), ["stem", "midle"], SAMPLE)
    with pytest.raises(UnfitModule, match="slots is empty"):
        ModuleHost(module(), [], SAMPLE)
    with pytest.raises(UnfitModule, match="names a submodule twice"):
        ModuleHost(module(), {"one": "stem", "two": "stem"}, SAMPLE)


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (lambda row, x: row.c(row.a(row.a(x))), "'a' ran more than once in a forward pass"),
        (lambda row, x: row.c(row.b(x)), "'a' did not run in a forward pass"),
        (lambda row, x: (row.c(row.a(x)),), "the module gives a tuple; logits are a tensor"),
        (lambda row, x: row.c(row.a(x).detach()), "do not depend on the output of 'a'"),
        (lambda row, x: (row.a(x), row.c(x))[1], "do not depend on the output of 'a'"),
        (lambda row, x: row.c(row.a(x)).detach(), "the logits have no gradient"),
        (lambda row, x: row.c(row.a(x[0]))[None], r"'a' gives a tensor of \(4,\); a slot needs"),
    ],
)
def test_a_module_in_which_no_seed_could_work_is_refused_with_the_reason(
    run: Callable[[Row, Tensor], object], complaint: str
) -> None:
    row = Row(run)
    with pytest.raises(UnfitModule, match=complaint):
        ModuleHost(row, ["a"], torch.randn(2, 4))
    assert not any(part._forward_hooks for part in row.modules())


def test_a_submodule_that_gives_more_than_a_tensor_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    row = Row(lambda row, x: row.c(row.b(x)[0]))
    row.b = Pair()  # type: ignore[assignment]
    with pytest.raises(UnfitModule, match="'b' gives a tuple; a slot needs one tensor"):
        ModuleHost(row, ["b"], torch.randn(2, 4))


def test_a_module_whose_path_changes_later_is_refused_then() -> None:
    row = Row(lambda row, x: row.c(row.a(x)))
    late = ModuleHost(row, ["a"], torch.randn(2, 4))
    row.run = lambda row, x: row.c(row.b(x))
    with pytest.raises(UnfitModule, match="'a' did not run"):
        late.through(torch.randn(2, 4), lambda depth, h: h)
    assert not any(part._forward_hooks for part in row.modules())
