"""Hosts, blueprints and datasets from a package that is not Kasmina's, installed beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ENTRY_POINTS = """
[leyline.hosts]
pergola = garden.growing:pergola

[leyline.blueprints]
ivy = garden.growing:ivy

[leyline.datasets]
petals = garden.pictures:petals
wilted = garden.pictures:wilted
bare = garden.pictures:bare
missing = garden.nowhere:nothing
digits = garden.pictures:wilted
"""

GROWING = """
from torch import nn
from kasmina.network.host import HostShape, StagedHost


def pergola(shape: HostShape) -> StagedHost:
    channels = shape.channels or (6, 6)
    stages, before = [], shape.image[0]
    for after in channels:
        stages.append(nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU()))
        before = after
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, shape.classes))
    return StagedHost(stages, channels, head)


def ivy(channels: int) -> nn.Module:
    last = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), last)
"""

PICTURES = """
import numpy as np
from kasmina.data.settings import DatasetSettings
from kasmina.data.source import ImageSource, Split


def petals(settings: DatasetSettings, split: Split) -> ImageSource:
    count = 90 if split == "train" else 30
    draw = np.random.default_rng(len(split))
    labels = np.arange(count, dtype=np.int64) % 3
    images = draw.integers(0, 200, (count, 3, 10, 10), dtype=np.uint8)
    images[np.arange(count), labels] += 55
    return ImageSource(images, labels, 3, augmented=True, class_names=("red", "green", "blue"))


def wilted(settings: DatasetSettings, split: Split) -> ImageSource:
    return ImageSource(np.zeros((4, 3, 10, 10)), np.zeros(4, np.int64), 1, augmented=True)


def bare(settings: DatasetSettings, split: Split) -> object:
    return np.zeros((4, 3, 10, 10), np.uint8), np.zeros(4, np.int64)
"""

TRAIN = """
import json
import sys
from dataclasses import replace
from pathlib import Path
from kasmina.data.dataset import DatasetSettings, dataset_names, load_dataset
from kasmina.network.blueprint import blueprint_names
from kasmina.network.hosts import host_names
from kasmina.network.slot import Action
from kasmina.training.configuration import TrainerConfig
from kasmina.training.evaluation import evaluate
from kasmina.training.trainer import GrowthTrainer

settings = DatasetSettings("petals", validation_images=30)
dataset = load_dataset(settings)
config = TrainerConfig(
    horizon=3,
    host="pergola",
    blueprints={"slot-0": "ivy", "slot-1": "ivy"},
    batch_size=15,
    blend_intervals=1,
)
trainer = GrowthTrainer(config, dataset)
trainer.apply(Action.GERMINATE, "slot-1")
for action in (Action.ADVANCE, Action.ADVANCE, Action.WAIT):
    trainer.apply(action, "slot-1")
    facts = trainer.train_interval()
network = Path(sys.argv[1]) / "network.safetensors"
trainer.export(network)
result = {
    "names": [dataset_names(), blueprint_names(), host_names()],
    "classes": dataset.class_names,
    "images": [len(dataset.train), len(dataset.validation)],
    "accuracy": facts.val_accuracy,
    "test images": evaluate(network, settings, on_test_split=True).images,
    "resized": load_dataset(replace(settings, image_size=20)).shape,
}
print(json.dumps(result))
"""

LOAD = """
import json
import sys
from kasmina.data.dataset import DatasetSettings, load_dataset
from kasmina.data.errors import DatasetError

said = {}
for name in ("wilted", "bare", "missing"):
    try:
        load_dataset(DatasetSettings(name))
    except DatasetError as error:
        said[name] = str(error)
said["digits"] = load_dataset(DatasetSettings("digits")).shape
print(json.dumps(said))
"""


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    """A folder with the package `garden`, as an installer leaves it."""
    files = {
        "garden/__init__.py": "",
        "garden/growing.py": GROWING,
        "garden/pictures.py": PICTURES,
        "garden-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: garden\nVersion: 1.2\n",
        "garden-1.2.dist-info/entry_points.txt": ENTRY_POINTS,
    }
    for name, text in files.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "site"


def run(script: str, garden: Path) -> Any:
    """What the script prints as JSON, in a process of its own that finds the package."""
    path = os.pathsep.join([str(garden), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", script, str(garden.parent)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def test_a_host_a_blueprint_and_a_dataset_of_another_package_play_an_episode(garden: Path) -> None:
    result = run(TRAIN, garden)
    datasets, blueprints, hosts = result["names"]
    assert "petals" in datasets
    assert "ivy" in blueprints
    assert "pergola" in hosts
    assert result["classes"] == ["red", "green", "blue"]
    assert result["images"] == [60, 30]
    assert 0 <= result["accuracy"] <= 1
    assert result["test images"] == 30
    assert result["resized"] == [3, 20, 20]


def test_a_package_that_does_not_deliver_its_dataset_is_named_with_the_reason(garden: Path) -> None:
    said = run(LOAD, garden)
    assert "'wilted' does not deliver it: ValueError: images must be uint8" in said["wilted"]
    assert "'bare' does not deliver it: it returns tuple, not ImageSource" in said["bare"]
    assert "the distribution garden 1.2" in said["missing"]
    assert "No module named 'garden.nowhere'" in said["missing"]


def test_a_package_does_not_take_the_place_of_what_is_built_in(garden: Path) -> None:
    assert run(LOAD, garden)["digits"] == [1, 8, 8]
