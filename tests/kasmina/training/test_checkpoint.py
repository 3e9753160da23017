from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.kasmina.network.tiny_hosts import HOSTS

from kasmina.checkpoint import (
    Checkpoint,
    CheckpointCorrupt,
    CheckpointMismatch,
    CheckpointNotFound,
    read_checkpoint,
    write_checkpoint,
)
from kasmina.data.images import Dataset
from kasmina.network.slot import Action, Stage
from kasmina.training.configuration import EpisodeSeeds, Precision, TrainerConfig
from kasmina.training.network_file import read_network
from kasmina.training.trainer import GrowthTrainer

CONFIG = TrainerConfig(
    seeds=EpisodeSeeds.of(7),
    horizon=9,
    channels=(4, 6, 8),
    batch_size=20,
    interval_batches=4,
    clip_norm=1.0,
    blend_intervals=2,
    candidates=("conv3x3", "depthwise", "squeeze-excite"),
    blueprint_choice="round-robin",
    threads=1,
)

# Every slot goes through every stage, one is culled in TRAINING and one in BLENDING.
PLAN: dict[int, list[tuple[Action, str]]] = {
    0: [(Action.GERMINATE, "slot-2"), (Action.ADVANCE, "slot-2")],
    1: [(Action.ADVANCE, "slot-2"), (Action.GERMINATE, "slot-0"), (Action.ADVANCE, "slot-0")],
    2: [(Action.CULL, "slot-0"), (Action.GERMINATE, "slot-1")],
    3: [(Action.ADVANCE, "slot-2"), (Action.GERMINATE, "slot-0"), (Action.ADVANCE, "slot-1")],
    4: [(Action.ADVANCE, "slot-0"), (Action.ADVANCE, "slot-1")],
    5: [(Action.CULL, "slot-1"), (Action.ADVANCE, "slot-0")],
}


def play(trainer: GrowthTrainer, until: int) -> list[object]:
    seen: list[object] = []
    while trainer.interval < until:
        for action, slot_id in PLAN.get(trainer.interval, []):
            assert trainer.apply(action, slot_id).executed
        facts = trainer.train_interval()
        seen.append((trainer.snapshot(), replace(facts, seconds=0.0)))
    return seen


def everything(trainer: GrowthTrainer) -> dict[str, torch.Tensor]:
    state = {f"network/{name}": t for name, t in trainer.network.state_dict().items()}
    state |= {f"moments/{name}": t for name, t in trainer.optimizer.state().items()}
    return state | {f"random/{i}": t for i, t in enumerate(trainer.random_states())}


@pytest.fixture
def saved(stripes: Dataset, tmp_path: Path) -> Path:
    trainer = GrowthTrainer(CONFIG, stripes)
    play(trainer, until=4)
    trainer.save(tmp_path / "episode.safetensors")
    return tmp_path / "episode.safetensors"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("host", ["weak-cnn", *HOSTS])
def test_an_episode_goes_on_bit_for_bit_from_any_of_its_checkpoints(
    stripes: Dataset, tmp_path: Path, host: str, precision: Precision
) -> None:
    config = replace(CONFIG, host=host, precision=precision, **HOSTS.get(host, {}))
    unbroken = GrowthTrainer(config, stripes)
    seen = play(unbroken, until=config.horizon)
    broken = GrowthTrainer(config, stripes)
    for interval in range(config.horizon):
        path = tmp_path / f"{interval}.safetensors"
        broken.save(path)
        before = broken.snapshot()
        broken = GrowthTrainer.load(path, stripes)
        assert broken.snapshot() == before
        assert play(broken, until=interval + 1) == seen[interval : interval + 1]
    ends = everything(unbroken), everything(broken)
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def test_actions_between_two_intervals_are_in_the_checkpoint(
    stripes: Dataset, tmp_path: Path
) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    trainer.apply(Action.GERMINATE, "slot-1")
    trainer.apply(Action.ADVANCE, "slot-1")
    trainer.save(tmp_path / "episode.safetensors")
    loaded = GrowthTrainer.load(tmp_path / "episode.safetensors", stripes)
    assert loaded.network.slots[1].stage is Stage.TRAINING
    trainer.train_interval()
    loaded.train_interval()
    assert trainer.snapshot() == loaded.snapshot()


def test_saving_changes_nothing(stripes: Dataset, tmp_path: Path) -> None:
    saving, silent = GrowthTrainer(CONFIG, stripes), GrowthTrainer(CONFIG, stripes)
    for _ in range(2):
        saving.save(tmp_path / "episode.safetensors")
        saving.train_interval()
        silent.train_interval()
    assert saving.snapshot() == silent.snapshot()


def test_a_checkpoint_that_is_not_there_is_said_to_be_missing(
    stripes: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointNotFound, match=r"nowhere\.safetensors"):
        GrowthTrainer.load(tmp_path / "nowhere.safetensors", stripes)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_refused(stripes: Dataset, saved: Path, keep: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointCorrupt, match=r"episode\.safetensors is damaged"):
        GrowthTrainer.load(saved, stripes)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.9, 0.9999])
def test_a_checkpoint_with_one_wrong_bit_is_refused(
    stripes: Dataset, saved: Path, place: float
) -> None:
    data = bytearray(saved.read_bytes())
    data[int(place * len(data))] ^= 1
    saved.write_bytes(data)
    with pytest.raises(CheckpointCorrupt):
        GrowthTrainer.load(saved, stripes)


def test_a_checkpoint_of_other_images_is_refused(stripes: Dataset, saved: Path) -> None:
    other = replace(stripes, train=stripes.validation)
    with pytest.raises(CheckpointMismatch, match="trained on other images"):
        GrowthTrainer.load(saved, other)


def test_a_checkpoint_of_something_else_is_refused(stripes: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    GrowthTrainer(CONFIG, stripes).export(path)
    with pytest.raises(CheckpointMismatch, match="grown network, not of a growing episode"):
        GrowthTrainer.load(path, stripes)


def test_a_checkpoint_of_another_version_is_refused(stripes: Dataset, saved: Path) -> None:
    checkpoint = read_checkpoint(saved, "growing episode")
    facts = {key: value for key, value in checkpoint.facts.items() if key != "cursor"}
    write_checkpoint(saved, replace(checkpoint, facts=facts))
    with pytest.raises(CheckpointCorrupt, match=r"written by another version.*cursor"):
        GrowthTrainer.load(saved, stripes)


def test_a_full_disk_leaves_the_checkpoint_that_was_there(
    stripes: Dataset, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    trainer = GrowthTrainer.load(saved, stripes)
    trainer.train_interval()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.save(saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
    trainer.save(saved)
    assert GrowthTrainer.load(saved, stripes).interval == 5


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4, 5).to(memory_format=torch.contiguous_format),
        "b": torch.tensor(7),
        "c": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "d": torch.empty(0, dtype=torch.uint8),
    }
    facts = {"nothing": None, "list": [1, 2.5, "three"], "third": 1 / 3}
    path = tmp_path / "deep" / "file.safetensors"
    write_checkpoint(path, Checkpoint("test", tensors, facts))
    found = read_checkpoint(path, "test")
    assert found.facts == facts
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("host", ["weak-cnn", *HOSTS])
def test_an_exported_network_computes_what_the_trainers_does(
    stripes: Dataset, tmp_path: Path, host: str
) -> None:
    path = tmp_path / "network.safetensors"
    config = replace(CONFIG, host=host, duds=("conv3x3",), **HOSTS.get(host, {}))
    trainer = GrowthTrainer(config, stripes)
    play(trainer, until=CONFIG.horizon)
    trainer.export(path, {"run_id": "a"})
    grown = read_network(path)
    logits = grown.classify(stripes.validation.images)
    assert [slot.stage for slot in grown.network.slots[:3]] == [
        Stage.DORMANT,
        Stage.DORMANT,
        Stage.FOSSILIZED,
    ]
    assert grown.network.slots[2].dud
    right = (logits.argmax(1) == stripes.validation.labels).float().mean()
    assert float(right) == pytest.approx(trainer.snapshot().val_accuracy)
    assert grown.network.parameter_count() == trainer.parameter_count()
    assert grown.manifest["validation_accuracy"] == trainer.snapshot().val_accuracy


def test_an_exported_network_holds_no_seed_that_takes_no_part(
    stripes: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "network.safetensors"
    trainer = GrowthTrainer(CONFIG, stripes)
    trainer.apply(Action.GERMINATE, "slot-1")
    trainer.export(path)
    assert list(read_network(path).network.seeds) == []


def test_a_damaged_network_file_is_refused(stripes: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    GrowthTrainer(CONFIG, stripes).export(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="SHA-256"):
        read_network(path)
