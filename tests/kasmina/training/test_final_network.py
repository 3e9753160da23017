"""What the user takes home computes what the run had in the end: as safetensors, and as ONNX."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.kasmina.network.tiny_hosts import HOSTS
from torch import Tensor, nn

import kasmina
from kasmina.checkpoint import CheckpointNotFound, read_checkpoint, write_checkpoint
from kasmina.data.images import Dataset
from kasmina.network.blueprint import blueprint_names
from kasmina.network.host import Host, HostShape, StagedHost
from kasmina.network.hosts import register_host
from kasmina.training.augmentation import normalise
from kasmina.training.configuration import EpisodeSeeds, TrainerConfig
from kasmina.training.network_file import GrownNetwork, PartMissing, read_network
from kasmina.training.onnx_file import NotConvertible, convert, onnx_bytes
from kasmina.training.trainer import GrowthTrainer
from leyline.network import KIND, NoNetwork, read_manifest

ALL_HOSTS = {"weak-cnn": {"channels": (4, 6, 8)}, **HOSTS}
CONFIG = TrainerConfig(
    seeds=EpisodeSeeds.of(3), horizon=2, batch_size=20, interval_batches=4, threads=1
)


def trained(dataset: Dataset, host: str, **changes: Any) -> GrowthTrainer:
    """Two intervals with seeds of three blueprints, one of them a dud."""
    planted = {"slot-0": "squeeze-excite", "slot-1": "norm", "slot-2": "bottleneck"}
    settings = {"planted": planted, "duds": ("norm",), **ALL_HOSTS.get(host, {}), **changes}
    trainer = GrowthTrainer(replace(CONFIG, host=host, **settings), dataset)
    while not trainer.finished:
        trainer.train_interval()
    return trainer


@pytest.fixture
def exported(stripes: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    named = replace(stripes, class_names=("one", "two", "three", "four"))
    trained(named, "weak-cnn").export(path, {"run_id": "a-run", "episode_index": 3})
    return path


def as_trained(trainer: GrowthTrainer, dataset: Dataset, images: Tensor) -> Tensor:
    """Logits of the trainer's own network."""
    with torch.no_grad():
        logits: Tensor = trainer.network.eval()(normalise(images, dataset.mean, dataset.deviation))
    return logits


def run_onnx(model: bytes, images: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    logits: np.ndarray[Any, np.dtype[np.float32]]
    (logits,) = onnxruntime.InferenceSession(model).run(["logits"], {"images": images.numpy()})
    return logits


@pytest.mark.parametrize("host", ALL_HOSTS)
def test_a_reloaded_network_gives_the_same_logits_bit_for_bit_and_its_onnx_form_the_same_answers(
    stripes: Dataset, tmp_path: Path, host: str
) -> None:
    path, images = tmp_path / "network.safetensors", stripes.validation.images
    trainer = trained(stripes, host)
    trainer.export(path)
    grown = kasmina.load_network(path)
    logits = grown.classify(images)
    assert torch.equal(logits, as_trained(trainer, stripes, images))
    right = (logits.argmax(1) == stripes.validation.labels).float().mean()
    assert float(right) == pytest.approx(trainer.snapshot().val_accuracy)
    model = onnx_bytes(grown)
    for count in (1, 7, len(images)):
        found = run_onnx(model, images[:count])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, logits[:count], rtol=1e-4, atol=1e-5)
        assert (found.argmax(1) == logits[:count].argmax(1).numpy()).all()


@pytest.mark.parametrize("blueprint", blueprint_names())
def test_every_blueprint_has_an_onnx_form(stripes: Dataset, tmp_path: Path, blueprint: str) -> None:
    path = tmp_path / "network.safetensors"
    trained(stripes, "weak-cnn", planted={"slot-1": blueprint}, duds=()).export(path)
    grown, images = kasmina.load_network(path), stripes.validation.images
    found = run_onnx(onnx_bytes(grown), images)
    np.testing.assert_allclose(found, grown.classify(images), rtol=1e-4, atol=1e-5)


def test_the_same_network_makes_the_same_onnx_bytes_and_is_left_as_it_was(exported: Path) -> None:
    grown = kasmina.load_network(exported)
    before = {name: tensor.clone() for name, tensor in grown.network.state_dict().items()}
    assert onnx_bytes(grown) == onnx_bytes(kasmina.load_network(exported))
    after = grown.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_onnx_file_names_its_input_and_output_and_carries_the_manifest(
    exported: Path, tmp_path: Path
) -> None:
    convert(exported, tmp_path / "network.onnx")
    model = onnx.load(tmp_path / "network.onnx")
    (images,), (logits,) = model.graph.input, model.graph.output
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == [
        "N",
        3,
        16,
        16,
    ]
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    manifest = {entry.key: entry.value for entry in model.metadata_props}["leyline.manifest"]
    assert json.loads(manifest) == read_manifest(exported)


def test_the_manifest_says_what_grew_where_and_is_read_without_torch(exported: Path) -> None:
    manifest = read_manifest(exported)
    assert manifest["origin"] == {"run_id": "a-run", "episode_index": 3}
    assert (manifest["host"], manifest["channels"]) == ("weak-cnn", [4, 6, 8])
    assert (manifest["image"], manifest["classes"]) == ([3, 16, 16], 4)
    assert manifest["class_names"] == ["one", "two", "three", "four"]
    assert manifest["dataset"] == "stripes"
    assert len(manifest["mean"]) == len(manifest["deviation"]) == 3
    grown = kasmina.load_network(exported)
    assert manifest == grown.manifest
    assert manifest["parameters"] == grown.network.parameter_count()
    assert [
        (slot["slot_id"], slot["stage"], slot["blueprint"], slot["dud"])
        for slot in manifest["slots"]
    ] == [
        ("slot-0", "FOSSILIZED", "squeeze-excite", False),
        ("slot-1", "FOSSILIZED", "norm", True),
        ("slot-2", "FOSSILIZED", "bottleneck", False),
    ]


def test_a_file_that_is_no_network_has_no_manifest(exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_checkpoint(other, replace(read_checkpoint(exported, KIND), kind="growing episode"))
    with pytest.raises(NoNetwork, match="it is a growing episode"):
        read_manifest(other)
    for content in (
        b"",
        b"PK\3\4 is a zip",
        b"\x02" + bytes(7) + b"[]",
        b"\x05" + bytes(7) + b"nope!",
    ):
        other.write_bytes(content)
        with pytest.raises(NoNetwork, match="leyline run export"):
            read_manifest(other)
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda facts: facts.update(host="theirs"), "host 'theirs'"),
        (lambda facts: facts["slots"][1].update(blueprint="vine"), "blueprint 'vine'"),
    ],
)
def test_a_network_of_a_package_that_is_missing_names_what_it_needs(
    exported: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    checkpoint = read_checkpoint(exported, KIND)
    change(checkpoint.facts)
    write_checkpoint(exported, checkpoint)
    with pytest.raises(PartMissing, match=f"{named}.*install the package"):
        kasmina.load_network(exported)


def test_a_network_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"nowhere\.safetensors"):
        kasmina.load_network(str(tmp_path / "nowhere.safetensors"))


class Counting(nn.Module):
    """Adds the number of images as a Python number."""

    def forward(self, h: Tensor) -> Tensor:
        return h + float(len(h))


class Inverting(nn.Module):
    """Computes what ONNX has no operator for."""

    def forward(self, h: Tensor) -> Tensor:
        odd: Tensor = torch.linalg.matrix_exp(h @ h.transpose(2, 3))
        return h + odd


def odd_host(part: nn.Module) -> Callable[[HostShape], Host]:
    def build(shape: HostShape) -> Host:
        stage = nn.Sequential(nn.Conv2d(shape.image[0], 4, 1), part)
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, shape.classes))
        return StagedHost([stage], [4], head)

    return build


register_host("counting", odd_host(Counting()))
register_host("inverting", odd_host(Inverting()))


@pytest.mark.parametrize(
    ("host", "why"),
    [("counting", "depends on the number of images"), ("inverting", "torch.onnx cannot export it")],
)
def test_a_network_that_has_no_onnx_form_is_refused_and_leaves_no_file(
    stripes: Dataset, tmp_path: Path, host: str, why: str
) -> None:
    path = tmp_path / "network.safetensors"
    GrowthTrainer(replace(CONFIG, host=host), stripes).export(path)
    assert isinstance(read_network(path), GrownNetwork)
    with pytest.raises(NotConvertible, match=why):
        convert(path, tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == [path]
