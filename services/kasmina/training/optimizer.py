"""The optimiser of a network whose parameters come and go.

SGD with Nesterov momentum. The host has one optimiser for its whole life, each seed one of its own
from TRAINING on: a new seed starts with fresh moments and everyone else's are left alone, a culled
seed takes its moments with it, and a seed that blends or is fossilised keeps what it had.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Schedule = Literal["cosine", "constant", "constant-then-cosine"]


@dataclass(frozen=True)
class OptimizerSettings:
    """How parameters learn."""

    learning_rate: float
    """Of the first step, and the highest."""
    momentum: float
    """Nesterov's, in [0, 1); 0 is plain SGD."""
    weight_decay: float
    """L2 penalty on every parameter."""
    clip_norm: float | None
    """Largest gradient norm of a step: of host and live seeds together, of a training seed by
    itself. None: any."""
    schedule: Schedule
    """Cosine to zero over all of the run's steps, constant, or the one and then the other."""
    total_steps: int
    """Steps of the whole run."""
    constant_share: float = 0.0
    """Of the steps, in [0, 1], after which "constant-then-cosine" begins to fall."""

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the optimiser step number `step`, from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        start = 0.0
        if self.schedule == "constant-then-cosine":
            start = self.constant_share * self.total_steps
        if step <= start or start >= self.total_steps:
            return self.learning_rate
        progress = min((step - start) / (self.total_steps - start), 1.0)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


class GrowthOptimizer:
    """Optimisers of the host and of every seed that learns."""

    def __init__(self, host: nn.Module, settings: OptimizerSettings) -> None:
        self.settings = settings
        self.step_count = 0
        """Steps taken."""
        self._host = self._optimizer(host)
        self._seeds: dict[str, torch.optim.SGD] = {}

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self.settings.learning_rate_at(self.step_count)

    def adopt(self, slot_id: str, seed: nn.Module) -> None:
        """Gives the seed in a slot fresh optimiser state."""
        self._seeds[slot_id] = self._optimizer(seed)

    def release(self, slot_id: str) -> None:
        """Drops the state of the seed in a slot; nothing where it never learnt."""
        self._seeds.pop(slot_id, None)

    def clear_gradients(self) -> None:
        """Forgets every gradient."""
        for optimizer in (self._host, *self._seeds.values()):
            optimizer.zero_grad(set_to_none=True)

    def step(self, live: Sequence[str], apart: dict[str, tuple[Tensor, ...]]) -> None:
        """One step of the host, of the `live` seeds, and of those that learn `apart`.

        `apart` has the gradients of the latter, by slot id. The host's and the live seeds'
        gradients are where backward() left them. They are clipped together, in the same order
        whatever learns apart; a seed that learns apart is clipped by itself, so it has no say in
        the host's step.
        """
        network = [self._host, *(self._seeds[slot_id] for slot_id in live)]
        self._clip([parameter for optimizer in network for parameter in _parameters(optimizer)])
        for slot_id, gradients in apart.items():
            parameters = _parameters(self._seeds[slot_id])
            assign_finite(parameters, gradients)
            self._clip(parameters)
        rate = self.learning_rate
        for optimizer in (*network, *(self._seeds[slot_id] for slot_id in apart)):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.step_count += 1

    def state(self) -> dict[str, Tensor]:
        """Every moment, named `host/<index>` or `<slot id>/<index>` by the parameter's place."""
        tensors: dict[str, Tensor] = {}
        for owner, optimizer in {"host": self._host, **self._seeds}.items():
            for index, parameter in enumerate(_parameters(optimizer)):
                moment = optimizer.state[parameter].get("momentum_buffer")
                if moment is not None:
                    tensors[f"{owner}/{index}"] = moment.detach()
        return tensors

    def restore(self, tensors: dict[str, Tensor], step_count: int) -> None:
        """Goes on from what `state` gave. Seeds that had state must have been adopted."""
        self.step_count = step_count
        for owner, optimizer in {"host": self._host, **self._seeds}.items():
            for index, parameter in enumerate(_parameters(optimizer)):
                moment = tensors.get(f"{owner}/{index}")
                if moment is not None:
                    optimizer.state[parameter] = {
                        "momentum_buffer": moment.to(parameter.device, copy=True)
                    }

    def _optimizer(self, module: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(
            module.parameters(),
            lr=self.settings.learning_rate,
            momentum=self.settings.momentum,
            nesterov=self.settings.momentum > 0.0,
            weight_decay=self.settings.weight_decay,
        )

    def _clip(self, parameters: Iterable[Tensor]) -> None:
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)


def _parameters(optimizer: torch.optim.SGD) -> list[Tensor]:
    """In the order of the module's own `parameters()`."""
    parameters: list[Tensor] = optimizer.param_groups[0]["params"]
    return parameters


def assign_finite(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Writes the gradients, or zeros for all of them where one is not finite.

    A bad batch must not spoil a good seed. No value is read back, so an accelerator need not be
    waited for.
    """
    finite = torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.where(finite, gradient, torch.zeros_like(gradient))
