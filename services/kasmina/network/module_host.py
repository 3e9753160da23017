"""Any module as a host: slots at the outputs of submodules that are named.

    host = ModuleHost(network, slots=["layer1", "layer2"], sample=images)

A submodule is reached through forward hooks, which are there during a pass of the host alone: the
module keeps its own code, parameters and state_dict, and can be copied and pickled at any time.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kasmina.network.host import Host, Layout, Site, Visit
from kasmina.network.observing import at_rest

_LAYOUTS: dict[int, Layout] = {2: "features", 3: "tokens", 4: "map"}
"""By dimensions of the activation."""


class UnfitModule(ValueError):
    """The module cannot have slots where it was asked to."""


class ModuleHost(Host):
    """A module with slots at the outputs of named submodules.

    Each of them must run exactly once in a forward pass of the module, give one tensor of 2 to 4
    dimensions (features, tokens with their channels last, or a map), and not lie inside a part
    that is computed again on the way back (torch.utils.checkpoint).

    What follows a slot cannot be run by itself: for the shadow path the module runs as a whole,
    without gradient up to the slot. Tensors that pass by the slot are computed anew by the way,
    with running statistics and with the shadow pass's own random numbers.
    """

    def __init__(
        self, module: nn.Module, slots: Mapping[str, str] | Sequence[str], sample: Tensor
    ) -> None:
        """Finds the slots' depths, widths and layouts by passes over `sample`.

        `slots` has the submodule's name by slot id; with names alone, slots are `slot-0` and so on
        by depth. `sample` is a batch as the module is to get them. The passes are in eval mode;
        random numbers, buffers and modes are left as they were. Raises `UnfitModule`.
        """
        super().__init__()
        named = dict(slots) if isinstance(slots, Mapping) else {name: name for name in slots}
        _check_names(module, named)
        self.module = module
        self._names: tuple[str, ...] = tuple(named.values())
        self.overwritten: frozenset[int] = frozenset()
        """Depths whose activation the module overwrites later in the pass: keep a copy of it."""
        with at_rest(module, sample.device):
            found = self._explore(sample)
            ids = {name: slot_id for slot_id, name in named.items()}
            if not isinstance(slots, Mapping):
                ids = {name: f"slot-{depth}" for depth, name in enumerate(found)}
            self.sites = tuple(_site(ids[name], name, h) for name, h in found.items())
            self._names = tuple(found)
            self._check_effect(sample)

    def through(self, images: Tensor, visit: Visit) -> Tensor:
        return self._run(images, self._visited(visit))

    def downstream(self, depth: int, h: Tensor, images: Tensor, visit: Visit) -> Tensor:
        visited = self._visited(visit)
        learning = torch.is_grad_enabled()

        def at(place: int, output: Tensor) -> Tensor:
            if place != depth:
                return visited(place, output)
            torch.set_grad_enabled(learning)
            return h.clone() if depth in self.overwritten else h

        with torch.no_grad():  # puts back the mode that `at` changes
            return self._run(images, at)

    def downstream_modules(self, depth: int) -> Iterable[nn.Module]:
        return self.module.modules()

    def section(self, depth: int) -> Iterable[nn.Parameter]:
        return self.submodule(depth).parameters()

    def submodule(self, depth: int) -> nn.Module:
        """The part of the module whose output is the site at that depth."""
        return self.module.get_submodule(self._names[depth])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        return logits

    def _visited(self, visit: Visit) -> Visit:
        def at(depth: int, h: Tensor) -> Tensor:
            going_on = visit(depth, h)
            # Whoever was shown h may keep it, and what follows would overwrite it.
            return h.clone() if going_on is h and depth in self.overwritten else going_on

        return at

    def _run(self, images: Tensor, at: Visit) -> Tensor:
        """The module's pass, in which `at` gets the output of every submodule with a slot."""
        calls = [0] * len(self._names)

        def hook_of(depth: int) -> Callable[[nn.Module, object, object], Tensor]:
            def hook(submodule: nn.Module, given: object, output: object) -> Tensor:
                calls[depth] += 1
                name = self._names[depth]
                if calls[depth] > 1:
                    raise UnfitModule(f"{name!r} ran more than once in a forward pass: no slot")
                return at(depth, _activation(name, output))

            return hook

        handles = [
            self.module.get_submodule(name).register_forward_hook(hook_of(depth))
            for depth, name in enumerate(self._names)
        ]
        try:
            logits = self.module(images)
        finally:
            for handle in handles:
                handle.remove()
        if 0 in calls:
            name = self._names[calls.index(0)]
            raise UnfitModule(f"{name!r} did not run in a forward pass: no slot can be there")
        if not isinstance(logits, Tensor):
            raise UnfitModule(f"the module gives a {type(logits).__name__}; logits are a tensor")
        return logits

    def _explore(self, sample: Tensor) -> dict[str, Tensor]:
        """The activations by name of submodule, in order of depth."""
        found: dict[str, Tensor] = {}
        versions: dict[str, int] = {}

        def look(place: int, h: Tensor) -> Tensor:
            name = self._names[place]
            found[name], versions[name] = h, h._version
            return h

        with torch.no_grad():
            self._run(sample, look)
        self.overwritten = frozenset(
            depth for depth, (name, h) in enumerate(found.items()) if h._version > versions[name]
        )
        return found

    def _check_effect(self, sample: Tensor) -> None:
        """Refuses slots that the logits do not depend on: a seed there could not learn."""
        seen: list[Tensor] = []

        def look(depth: int, h: Tensor) -> Tensor:
            seen.append(h if h.requires_grad else h.requires_grad_())
            return h

        with torch.enable_grad():
            logits = self.through(sample, look)
            if not logits.requires_grad:
                raise UnfitModule("the logits have no gradient: the module detaches them")
            effects = torch.autograd.grad(logits.sum(), seen, allow_unused=True)
        for name, effect in zip(self._names, effects, strict=True):
            if effect is None:
                raise UnfitModule(f"the logits do not depend on the output of {name!r}")


def _check_names(module: nn.Module, named: Mapping[str, str]) -> None:
    if not named:
        raise UnfitModule("slots is empty; name at least one submodule")
    known = [name for name, _ in module.named_modules() if name]
    for name in named.values():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3) or known[:5]
            raise UnfitModule(f"the module has no {name!r}; it has {', '.join(close)}")
    if len(set(named.values())) < len(named):
        raise UnfitModule(f"slots names a submodule twice: {', '.join(named.values())}")


def _activation(name: str, output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise UnfitModule(f"{name!r} gives a {type(output).__name__}; a slot needs one tensor")
    if output.dim() not in _LAYOUTS:
        shape = tuple(output.shape)
        raise UnfitModule(f"{name!r} gives a tensor of {shape}; a slot needs 2 to 4 dimensions")
    return output


def _site(slot_id: str, name: str, h: Tensor) -> Site:
    layout = _LAYOUTS[h.dim()]
    return Site(slot_id, h.shape[-1] if layout == "tokens" else h.shape[1], layout)
