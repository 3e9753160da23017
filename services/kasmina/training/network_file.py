"""Grown networks as files: what is left of an episode, ready to classify images.

The file is a checkpoint's sibling (safetensors and JSON, a SHA-256 of the content) and holds no
training state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kasmina.checkpoint import Checkpoint, CheckpointCorrupt, read_checkpoint, write_checkpoint
from kasmina.network.blueprint import plant
from kasmina.network.growth import GrowingNetwork
from kasmina.network.host import HostShape, build_host
from kasmina.network.slot import Slot
from kasmina.training.augmentation import normalise

_KIND = "grown network"


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel of the training images, in units of [0, 1]."""

    mean: list[float]
    deviation: list[float]


@dataclass(frozen=True)
class GrownNetwork:
    """A network out of a file."""

    network: GrowingNetwork
    normalisation: Normalisation

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images of bytes (batch, channels, height, width)."""
        mean = torch.tensor(self.normalisation.mean)
        deviation = torch.tensor(self.normalisation.deviation)
        logits: Tensor = self.network.eval()(normalise(images, mean, deviation))
        return logits


def write_network(
    path: Path, network: GrowingNetwork, host: str, shape: HostShape, normalisation: Normalisation
) -> None:
    """Puts the network at `path`, with the seeds that take part in it. Raises OSError.

    A blending seed is written with the weight that it has.
    """
    live = {slot.slot_id for slot in network.slots if slot.is_live}
    tensors = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith("seeds.") or name.split(".")[1] in live
    }
    facts = {
        "host": host,
        "image": list(shape.image),
        "classes": shape.classes,
        "channels": list(shape.channels),
        "mean": normalisation.mean,
        "deviation": normalisation.deviation,
        "slots": [
            (slot if slot.is_live else Slot(slot.slot_id, slot.depth, slot.blend_steps)).state()
            for slot in network.slots
        ],
    }
    write_checkpoint(path, Checkpoint(_KIND, tensors, facts))


def read_network(path: Path) -> GrownNetwork:
    """The network that `write_network` put at `path`, on the processor.

    Raises `CheckpointNotFound`, `CheckpointCorrupt` or `CheckpointMismatch`.
    """
    checkpoint = read_checkpoint(path, _KIND)
    facts = checkpoint.facts
    try:
        channels, height, width = facts["image"]
        shape = HostShape((channels, height, width), facts["classes"], tuple(facts["channels"]))
        slots = [Slot.from_state(state) for state in facts["slots"]]
        network = GrowingNetwork(build_host(facts["host"], shape, seed=0), slots)
        for slot in slots:
            if slot.blueprint is not None:
                width = network.host.widths[slot.depth]
                network.plant(slot, plant(slot.blueprint, width, seed=0))
        network.load_state_dict(checkpoint.tensors)
        normalisation = Normalisation(facts["mean"], facts["deviation"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointCorrupt(path, f"written by another version ({error!r})") from error
    return GrownNetwork(network.to(memory_format=torch.channels_last), normalisation)
