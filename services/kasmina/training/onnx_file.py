"""Grown networks as ONNX graphs, which run wherever ONNX does, without torch and without us.

Input `images`: bytes (N, channels, height, width), any N. Output `logits`: float32 (N, classes).
The normalisation is part of the graph; the manifest stands in its metadata.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kasmina.checkpoint import write_atomically
from kasmina.network.blueprint import Dud
from kasmina.randomness import set_aside
from kasmina.training.network_file import GrownNetwork, read_network

_OPSET = 17  # the newest that torch 2.6 writes in this way
_BATCHES = (2, 3)


class NotConvertible(Exception):
    """A network has no ONNX form. The text says why."""


class _TracedDud(nn.Module):
    """A dud whose zeros have no size of their own: a trace would keep that of its example."""

    def __init__(self, seed: nn.Module) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, h: Tensor) -> Tensor:
        """As `Dud` does, wherever h is finite."""
        residual: Tensor = self.seed(0.0 * h)
        return residual


class _Classifier(nn.Module):
    """A network from bytes on."""

    scale: Tensor
    shift: Tensor

    def __init__(self, grown: GrownNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(grown.network)
        for slot_id, seed in self.network.seeds.items():
            if isinstance(seed, Dud):
                self.network.seeds[slot_id] = _TracedDud(seed.seed)
        _settle_weights(self.network)
        mean = torch.tensor(grown.normalisation.mean)
        deviation = torch.tensor(grown.normalisation.deviation)
        self.register_buffer("scale", (1.0 / (255.0 * deviation))[:, None, None])
        self.register_buffer("shift", (mean / deviation)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images of bytes (batch, channels, height, width)."""
        logits: Tensor = self.network(images.to(torch.float32) * self.scale - self.shift)
        return logits


def _settle_weights(network: nn.Module) -> None:
    """Puts weights that are computed in every pass (weight or spectral norm) in as they are."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)


def convert(source: Path, target: Path) -> None:
    """Puts the network of a file at `target` as ONNX, whole or not at all.

    Raises `NotConvertible`, OSError, and what `read_network` does.
    """
    write_atomically(target, onnx_bytes(read_network(source)))


def onnx_bytes(grown: GrownNetwork) -> bytes:
    """The network as an ONNX model. Raises `NotConvertible`."""
    classifier = _Classifier(grown).eval()
    image = tuple(grown.manifest["image"])
    first, second = (_traced(classifier, (count, *image)) for count in _BATCHES)
    if first != second:
        raise NotConvertible(
            "what its host computes depends on the number of images: sizes that are read from a"
            " tensor and turned into Python numbers stay what they are in a graph"
        )
    model = onnx.load_from_string(first)
    model.graph.name = "grown"
    manifest = json.dumps(grown.manifest, sort_keys=True)
    model.metadata_props.add(key="leyline.manifest", value=manifest)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NotConvertible(f"its graph is not sound: {error}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _traced(classifier: nn.Module, shape: tuple[int, ...]) -> bytes:
    """The graph as an example with this many images leaves it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        set_aside(0),
        warnings.catch_warnings(),
    ):
        graph = Path(folder) / "graph.onnx"
        # Torch calls this way of exporting old; the new one asks for two more packages, and wants
        # its own version of them. What a trace may miss is found by the comparison above.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                classifier,
                (torch.zeros(shape, dtype=torch.uint8),),
                graph,
                dynamo=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
                opset_version=_OPSET,
            )
        except Exception as error:  # the exporter's errors have no common base
            # Some of them go on with the whole graph.
            why = str(error).strip().partition("\n")[0]
            raise NotConvertible(f"torch.onnx cannot export it: {why}") from error
        return graph.read_bytes()
