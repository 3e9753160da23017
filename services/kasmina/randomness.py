"""Random numbers by name: every stream is derived from one seed, so that a run can be repeated.

PyTorch's modules draw from a generator of the process (dropout in a forward pass, the
initialisation of a layer). The streams here lend them that generator for a moment and put back what
they found, so that two trainers in one process, or a seed and its host, never draw from each
other's numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

_PROCESSOR = torch.device("cpu")


def derive_seed(root: int, *path: str | int) -> int:
    """Seed of the stream that `path` names under `root`, in [0, 2^63).

    Distinct paths give independent seeds; the same path gives the same one on every machine and
    Python.
    """
    text = "\x1f".join([str(root), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def set_aside(seed: int, device: torch.device = _PROCESSOR) -> Iterator[None]:
    """Draws inside come from `seed`; outside, it is as if nothing had been drawn."""
    with torch.random.fork_rng(devices=_accelerators(device)):
        _seed_generators(seed, device)
        yield


class NetworkStream:
    """The random numbers that a network's own layers draw while it trains (dropout, say)."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with set_aside(seed, device):
            self._states = self._current()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Draws inside come from this stream, which goes on where it stopped the last time."""
        with torch.random.fork_rng(devices=_accelerators(self._device)):
            self._make_current()
            try:
                yield
            finally:
                self._states = self._current()

    def state(self) -> list[Tensor]:
        """The generators' states, as bytes: the processor's, and the accelerator's if there is
        one."""
        return [state.clone() for state in self._states]

    def restore(self, states: list[Tensor]) -> None:
        """Goes on from a state that `state` gave."""
        self._states = [state.clone() for state in states]

    def _current(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        states += [torch.cuda.get_rng_state(index) for index in _accelerators(self._device)]
        return states

    def _make_current(self) -> None:
        torch.set_rng_state(self._states[0])
        for index, state in zip(_accelerators(self._device), self._states[1:], strict=True):
            torch.cuda.set_rng_state(state, index)


def _seed_generators(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    for index in _accelerators(device):
        torch.cuda.default_generators[index].manual_seed(seed)


def _accelerators(device: torch.device) -> list[int]:
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]
