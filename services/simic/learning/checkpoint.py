"""The state of a training between two updates, as safetensors: weights, and Adam's moments."""

from __future__ import annotations

from safetensors.torch import load, save
from torch import Tensor, nn, optim

NETWORK = "network/"
OPTIMIZER = "optimizer/"


def to_bytes(network: nn.Module, optimizer: optim.Optimizer | None = None) -> bytes:
    """Everything that the next update starts from.

    The generators of random numbers are not part of it: each update seeds its own.

    Args:
        network: its weights and statistics.
        optimizer: its moments; None before it has any.
    """
    tensors: dict[str, Tensor] = {
        f"{NETWORK}{name}": tensor for name, tensor in network.state_dict().items()
    }
    moments = {} if optimizer is None else optimizer.state
    for name, parameter in network.named_parameters():
        for moment, tensor in moments.get(parameter, {}).items():
            tensors[f"{OPTIMIZER}{name}/{moment}"] = tensor
    return save(tensors)


def restore(data: bytes, network: nn.Module, optimizer: optim.Optimizer) -> None:
    """Put ``network`` and ``optimizer`` back to where ``to_bytes`` was called."""
    tensors = load(data)
    network.load_state_dict(
        {
            name.removeprefix(NETWORK): tensor
            for name, tensor in tensors.items()
            if name.startswith(NETWORK)
        }
    )
    for name, parameter in network.named_parameters():
        prefix = f"{OPTIMIZER}{name}/"
        moments = {
            key.removeprefix(prefix): tensor.clone()
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        if moments:
            optimizer.state[parameter] = moments
