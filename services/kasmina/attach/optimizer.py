"""Optimisers of seeds beside somebody else's optimiser of the host."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kasmina.training.optimizer import assign_finite

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Builds the optimiser of a seed's parameters."""


class SeedOptimizers:
    """An optimiser for each seed that learns; the host's is its owner's.

    Unless something else is given, each is of the class of the host's optimiser and has the
    settings of its first parameter group, whose learning rate it follows from step to step.
    """

    def __init__(
        self, host: Optimizer, make: MakeOptimizer | None, clip_norm: float | None
    ) -> None:
        """`make` builds an optimiser that keeps its own learning rate. `clip_norm` is the largest
        gradient norm of a seed. Raises ValueError where the host's class cannot be had for seeds.
        """
        self._host = host
        self._make = make
        self._clip_norm = clip_norm
        self._seeds: dict[str, Optimizer] = {}
        if make is None:
            if isinstance(host, torch.optim.LBFGS):
                raise ValueError("optimizer is an LBFGS; give options.seed_optimizer another one")
            self._like_host([nn.Parameter(torch.zeros(1))])

    @property
    def learning_rate(self) -> float:
        """Of the host's next step."""
        return float(self._host.param_groups[0]["lr"])

    def adopt(self, slot_id: str, seed: nn.Module) -> None:
        """Gives the seed in a slot fresh optimiser state."""
        parameters = list(seed.parameters())
        self._seeds[slot_id] = self._make(parameters) if self._make else self._like_host(parameters)

    def release(self, slot_id: str) -> None:
        """Drops the state of the seed in a slot; nothing where it never learnt."""
        self._seeds.pop(slot_id, None)

    def step(
        self, live: Iterable[str], apart: Mapping[str, tuple[Tensor, ...]], scale: float
    ) -> None:
        """One step of the `live` seeds, whose gradients are where backward() left them, and of
        those that learn `apart`, with the gradients given.

        `scale` is what the loss was multiplied by.
        """
        for slot_id in live:
            optimizer = self._ready(slot_id)
            self._step(optimizer, scale)
        for slot_id, gradients in apart.items():
            optimizer = self._ready(slot_id)
            assign_finite(_parameters(optimizer), gradients)
            self._step(optimizer, scale)

    def state(self) -> dict[str, Any]:
        """State of every optimiser, as torch has it, by slot id."""
        return {slot_id: optimizer.state_dict() for slot_id, optimizer in self._seeds.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave. Seeds that had state must have been adopted."""
        for slot_id, optimizer in self._seeds.items():
            optimizer.load_state_dict(state[slot_id])

    def _ready(self, slot_id: str) -> Optimizer:
        """The optimiser with today's learning rate, its state where the parameters are."""
        optimizer = self._seeds[slot_id]
        if self._make is None:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
        for parameter, moments in optimizer.state.items():
            kept = (moment for moment in moments.values() if isinstance(moment, Tensor))
            if any(one.dim() and one.device != parameter.device for one in kept):
                optimizer.load_state_dict(optimizer.state_dict())
                break
        return optimizer

    def _step(self, optimizer: Optimizer, scale: float) -> None:
        for parameter in _parameters(optimizer):
            if scale != 1.0 and parameter.grad is not None:
                parameter.grad.div_(scale)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(_parameters(optimizer), self._clip_norm)
        optimizer.step()

    def _like_host(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        kind, group = type(self._host), self._host.param_groups[0]
        known = inspect.signature(kind).parameters.keys() & self._host.defaults.keys()
        settings = {name: group[name] for name in known} | {"lr": self.learning_rate}
        try:
            return kind(parameters, **settings)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"optimizer is a {kind.__name__}, which cannot be built for a seed ({error});"
                " give options.seed_optimizer"
            ) from error


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
