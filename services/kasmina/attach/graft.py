"""Slots in a module that its owner goes on calling: forward hooks that stay.

The owner's passes go through the hooks: live seeds take part in them, and those in training mode
are kept until the owner says that they were learnt from. Passes of the host (shadow passes,
ablations) bring hooks of their own; these keep still then.

A copy of the module, or one that was pickled, computes what the module computes at that moment:
it has copies of the seeds, and nothing watches its passes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.network.growth import GrowingNetwork, Trace, blend
from kasmina.network.host import Visit
from kasmina.network.module_host import ModuleHost, UnfitModule
from kasmina.network.slot import Slot, Stage


class MisplacedStep(RuntimeError):
    """The training loop does not call things in an order in which seeds can learn."""


class GraftedHost(ModuleHost):
    """A module that has hooks already, which keep still while the host runs it."""

    running = False
    """Whether a pass is the host's own."""

    def through(self, images: Tensor, visit: Visit) -> Tensor:
        with self._by_itself():
            return super().through(images, visit)

    def downstream(self, depth: int, h: Tensor, images: Tensor, visit: Visit) -> Tensor:
        with self._by_itself():
            return super().downstream(depth, h, images, visit)

    def forward(self, images: Tensor) -> Tensor:
        with self._by_itself():
            return super().forward(images)

    @contextlib.contextmanager
    def _by_itself(self) -> Iterator[None]:
        before, self.running = self.running, True
        try:
            yield
        finally:
            self.running = before


@dataclass
class _Since:
    """What the owner did since the seeds learnt last."""

    passes: int = 0
    """In training mode, that came to their end."""
    went_back: int = 0
    """Of those, with gradients computed."""


class _Pass:
    """A pass of the owner's in training mode."""

    def __init__(self, images: Tensor, parameter: nn.Parameter, since: _Since) -> None:
        self.images = images
        self.since = since
        self.device_type = images.device.type
        self.autocast_dtype = (
            torch.get_autocast_dtype(self.device_type)
            if torch.is_autocast_enabled(self.device_type)
            else None
        )
        self.activations: dict[int, Tensor] = {}
        self.residuals: dict[int, Tensor] = {}
        self.logits: Tensor | None = None
        self.went_back = False
        self._parameter = parameter
        self._version = parameter._version

    @property
    def is_stale(self) -> bool:
        """Whether the weights have moved since."""
        return self._parameter._version != self._version

    def autocast(self) -> AbstractContextManager[object]:
        """The precision that the pass was computed in."""
        # Without a cache: one that outlives a pass without gradients would cut those of the owner's
        # next pass.
        return torch.autocast(
            self.device_type,
            dtype=self.autocast_dtype,
            enabled=self.autocast_dtype is not None,
            cache_enabled=False,
        )

    def note_gradient(self, gradient: Tensor) -> None:
        if not self.went_back:
            self.went_back = True
            self.since.went_back += 1


class Graft:
    """Slots in a module, from now on.

    Attributes:
        network: the module with its seeds, as one.
        evaluated: images that the module has seen in eval mode.
        wanted: depths at which the gradient of the next training pass is to be kept.
        before_training: called before every pass in training mode.
    """

    def __init__(self, host: GraftedHost, slots: Sequence[Slot]) -> None:
        """Raises `UnfitModule` where no parameter of the host learns."""
        module = host.module
        parameter = next((one for one in module.parameters() if one.requires_grad), None)
        if parameter is None:
            raise UnfitModule("no parameter of the module requires a gradient: nothing learns")
        self.network = GrowingNetwork(host, slots)
        self.evaluated = 0
        self.wanted: frozenset[int] = frozenset()
        self._is_last = False
        self._module = module
        self._host = host
        self._parameter = parameter
        self.before_training: Callable[[], None] | None = None
        self._watched = False
        self._open: _Pass | None = None
        self._kept: _Pass | None = None
        self._since = _Since()

    def install(self) -> None:
        """Puts the hooks in, for good."""
        self._module.register_forward_pre_hook(self._enter)
        for slot in self.network.slots:
            hook = functools.partial(self._at, slot)
            self._host.submodule(slot.depth).register_forward_hook(hook)
        self._module.register_forward_hook(self._leave)

    def place(self, seed: nn.Module) -> nn.Module:
        """The seed on the module's device, in its numbers."""
        return seed.to(self._parameter.device, self._parameter.dtype)

    def watch(self, *, is_last: bool) -> None:
        """Keeps passes in training mode from now on.

        In the last interval of an episode, passes in eval mode show the network as it will be left:
        without the seeds that only blend.
        """
        self._watched, self._is_last = True, is_last

    def unwatch(self) -> None:
        """Keeps no passes any more."""
        self._watched, self._is_last = False, False
        self.forget()

    def learn_from(self) -> tuple[Trace, Callable[[], AbstractContextManager[object]]]:
        """The training pass since the last call, and its precision.

        Passes before it do not count where no gradient was computed of them: a loop may leave out
        a batch. Raises `MisplacedStep` unless the gradient of exactly that one has been computed,
        and the weights have not moved since. The next pass begins anew either way.
        """
        kept, since = self._kept, self._since
        self.forget()
        if kept is None or kept.logits is None:
            raise MisplacedStep("step() without a pass of the model in training mode before it")
        if since.went_back > kept.went_back:
            raise MisplacedStep(
                f"the model ran {since.passes} times in training mode since the last step(): call"
                " step() after the backward pass of each"
            )
        if not kept.went_back:
            raise MisplacedStep("step() before backward(): the model's pass has no gradients yet")
        if kept.is_stale:
            raise MisplacedStep(
                "step() after optimizer.step(): call it before, right after backward()"
            )
        missing = [
            slot.slot_id for slot in self.network.slots if slot.depth not in kept.activations
        ]
        if missing:
            raise UnfitModule(
                f"the pass went past {', '.join(missing)}: a slot must run every time"
            )
        trace = Trace(kept.images, kept.logits, kept.activations, kept.residuals)
        return trace, kept.autocast

    def forget(self) -> None:
        """Drops the passes since the last call."""
        self._open, self._kept, self._since = None, None, _Since()

    @staticmethod
    def is_in(module: nn.Module) -> bool:
        """Whether there are slots in the module already."""
        owners = (getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values())
        return any(isinstance(owner, Graft) for owner in owners)

    def __getstate__(self) -> dict[str, Any]:
        # Of a copy: the tensors of a pass belong to the owner's own graph.
        return {
            **self.__dict__,
            "_watched": False,
            "_is_last": False,
            "before_training": None,
            "_open": None,
            "_kept": None,
            "_since": _Since(),
        }

    def _enter(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self._open = None
        if self._host.running:
            return
        learning = module.training and torch.is_grad_enabled()
        if learning and self.before_training is not None:
            self.before_training()
        if not self._watched:
            return
        images = given[0] if len(given) == 1 else None
        if not isinstance(images, Tensor):
            raise UnfitModule("call the model with one tensor, as the sample was")
        if not module.training:
            self.evaluated += len(images)
        elif learning:
            for parameter in self.network.seeds.parameters():
                parameter.grad = None
            self._kept = None
            self._open = _Pass(images, self._parameter, self._since)

    def _at(self, slot: Slot, submodule: nn.Module, given: object, h: Any) -> Tensor | None:
        if self._host.running:
            return None
        if self._open is not None:
            self._look(self._open, slot, h)
        if self._is_shown(slot):
            seed = self.network.seed(slot)
            self._follow(seed, h)
            residual = self.network.residual(slot, h)
            if self._open is not None:
                self._open.residuals[slot.depth] = residual
            return blend(slot, h, residual)
        overwritten = slot.depth in self._host.overwritten
        return h.clone() if overwritten and self._open is not None else None

    def _leave(self, module: nn.Module, given: object, logits: Any) -> None:
        if self._open is None or self._host.running:
            return
        if not isinstance(logits, Tensor):
            raise UnfitModule(f"the model gives a {type(logits).__name__}; logits are a tensor")
        if logits.requires_grad:
            logits.register_hook(self._open.note_gradient)
        self._open.logits = logits.detach()
        self._since.passes += 1  # one that raised is none
        self._kept, self._open = self._open, None

    def _look(self, current: _Pass, slot: Slot, h: Any) -> None:
        if not isinstance(h, Tensor):
            raise UnfitModule(f"{slot.slot_id} got a {type(h).__name__}; a slot needs one tensor")
        if slot.depth in current.activations:
            raise UnfitModule(f"{slot.slot_id} ran more than once in a pass: no slot can be there")
        current.activations[slot.depth] = h
        if slot.depth in self.wanted and h.requires_grad:
            h.retain_grad()

    def _is_shown(self, slot: Slot) -> bool:
        judged = self._is_last and not self._module.training
        return slot.is_live and not (judged and slot.stage is Stage.BLENDING)

    def _follow(self, seed: nn.Module, h: Tensor) -> None:
        """The owner may move the module, and change its mode, at any time."""
        if seed.training != self._module.training:
            seed.train(self._module.training)
        parameter = next(iter(seed.parameters()), None)
        if parameter is not None and parameter.device != h.device:
            seed.to(h.device)
