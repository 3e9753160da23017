"""The state of a training between two updates, as safetensors: weights, and optimisers' moments."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor, nn, optim

NETWORK = "network/"
OPTIMIZER = "optimizer/"


def to_bytes(network: nn.Module, optimizers: Mapping[str, optim.Optimizer] | None = None) -> bytes:
    """Everything that the next update starts from.

    The generators of random numbers are not part of it: each update seeds its own.

    Args:
        network: its weights and statistics.
        optimizers: their moments, by name; None before there are any.
    """
    tensors: dict[str, Tensor] = {
        f"{NETWORK}{name}": tensor for name, tensor in network.state_dict().items()
    }
    for which, optimizer in (optimizers or {}).items():
        for name, parameter in network.named_parameters():
            for moment, tensor in optimizer.state.get(parameter, {}).items():
                tensors[f"{OPTIMIZER}{which}/{name}/{moment}"] = tensor
    return save(tensors)


def restore(data: bytes, network: nn.Module, optimizers: Mapping[str, optim.Optimizer]) -> None:
    """Put ``network`` and ``optimizers`` back to where ``to_bytes`` was called."""
    tensors = load(data)
    network.load_state_dict(
        {
            name.removeprefix(NETWORK): tensor
            for name, tensor in tensors.items()
            if name.startswith(NETWORK)
        }
    )
    for which, optimizer in optimizers.items():
        for name, parameter in network.named_parameters():
            prefix = f"{OPTIMIZER}{which}/{name}/"
            moments = {
                key.removeprefix(prefix): tensor.clone()
                for key, tensor in tensors.items()
                if key.startswith(prefix)
            }
            if moments:
                optimizer.state[parameter] = moments
