"""Grown networks as files: what is left of an episode, ready to classify images.

The file is a checkpoint's sibling (safetensors and JSON, a SHA-256 of the content) and holds no
training state. Its JSON is a manifest for programs and people: `leyline network show FILE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kasmina.checkpoint import (
    Checkpoint,
    CheckpointCorrupt,
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from kasmina.network.blueprint import UnknownBlueprint, plant
from kasmina.network.growth import GrowingNetwork
from kasmina.network.host import HostShape
from kasmina.network.hosts import UnknownHost, build_host
from kasmina.network.slot import Slot
from kasmina.registry import PlugInBroken
from kasmina.training.augmentation import normalise
from leyline.network import KIND


class PartMissing(CheckpointError):
    """A network cannot be rebuilt here, because a package that brings a part of it is missing or
    broken."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"network {path} cannot be rebuilt: {why}; install the package that brought it"
            f" when the network was trained"
        )
        self.path = path
        self.why = why


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel of the training images, in units of [0, 1]."""

    mean: list[float]
    deviation: list[float]


@dataclass(frozen=True)
class NetworkFacts:
    """What a network's file says beside its slots and weights."""

    host: str
    """Name of the host."""
    shape: HostShape
    """What the host was built for."""
    normalisation: Normalisation
    dataset: str = ""
    """What it was trained on."""
    class_names: tuple[str, ...] = ()
    """By label; empty where they are not known."""
    validation_accuracy: float | None = None
    """Share of validation images classified right in the end."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: run and episode."""


@dataclass(frozen=True)
class GrownNetwork:
    """A network out of a file, in eval mode."""

    network: GrowingNetwork
    normalisation: Normalisation
    manifest: Mapping[str, Any]
    """All that the file says of it."""

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images of bytes (batch, channels, height, width).

        They are computed where the images are, which must be where the network is.
        """
        mean = torch.tensor(self.normalisation.mean, device=images.device)
        deviation = torch.tensor(self.normalisation.deviation, device=images.device)
        logits: Tensor = self.network(normalise(images, mean, deviation))
        return logits


def write_network(path: Path, network: GrowingNetwork, facts: NetworkFacts) -> None:
    """Puts the network at `path`, with the seeds that take part in it. Raises OSError.

    A blending seed is written with the weight that it has.
    """
    live = {slot.slot_id for slot in network.slots if slot.is_live}
    tensors = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith("seeds.") or name.split(".")[1] in live
    }
    manifest = {
        "origin": dict(facts.origin),
        "dataset": facts.dataset,
        "validation_accuracy": facts.validation_accuracy,
        "host": facts.host,
        "channels": list(facts.shape.channels),
        "host_options": dict(facts.shape.options),
        "image": list(facts.shape.image),
        "classes": facts.shape.classes,
        "class_names": list(facts.class_names),
        "mean": facts.normalisation.mean,
        "deviation": facts.normalisation.deviation,
        "parameters": network.parameter_count(),
        "slots": [
            (slot if slot.is_live else Slot(slot.slot_id, slot.depth, slot.blend_steps)).state()
            for slot in network.slots
        ],
    }
    write_checkpoint(path, Checkpoint(KIND, tensors, manifest))


def read_network(path: Path) -> GrownNetwork:
    """The network that `write_network` put at `path`, on the processor.

    Raises `CheckpointNotFound`, `CheckpointCorrupt`, `CheckpointMismatch`, or `PartMissing` where
    its host or a blueprint of it is not known here.
    """
    checkpoint = read_checkpoint(path, KIND)
    manifest = checkpoint.facts
    try:
        network = _rebuilt(manifest)
        network.load_state_dict(checkpoint.tensors)
        normalisation = Normalisation(manifest["mean"], manifest["deviation"])
    except (UnknownHost, UnknownBlueprint, PlugInBroken) as error:
        raise PartMissing(path, str(error)) from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointCorrupt(path, f"written by another version ({error!r})") from error
    network.eval().to(memory_format=torch.channels_last)
    return GrownNetwork(network, normalisation, manifest)


def _rebuilt(manifest: Mapping[str, Any]) -> GrowingNetwork:
    """The network of a manifest, with weights of its own."""
    channels, height, width = manifest["image"]
    shape = HostShape(
        (channels, height, width),
        manifest["classes"],
        tuple(manifest["channels"]),
        manifest["host_options"],
    )
    slots = [Slot.from_state(state) for state in manifest["slots"]]
    network = GrowingNetwork(build_host(manifest["host"], shape, seed=0), slots)
    for slot in slots:
        if slot.blueprint is not None:
            site = network.site(slot)
            network.plant(slot, plant(slot.blueprint, site.width, seed=0, dud=slot.dud))
    return network
