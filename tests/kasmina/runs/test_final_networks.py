"""Networks as callers get them: converted once, and with errors that say what is missing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from tests.kasmina.neighbours import step_id
from tests.kasmina.running import small_spec

from chassis.errors import ErrorCode, LeylineError
from kasmina.checkpoint import read_checkpoint, write_checkpoint
from kasmina.data.dataset import load_dataset
from kasmina.runs.episode_log import Beginning, FinalNetwork
from kasmina.runs.final_networks import FinalNetworks
from kasmina.runs.journal import Journal
from kasmina.runs.run_defaults import fill_in
from kasmina.runs.run_log import RunRecord
from kasmina.runs.run_spec import dataset_settings, trainer_config
from kasmina.runs.state_directory import StateDirectory
from kasmina.settings import KasminaSettings
from kasmina.training.onnx_file import convert
from kasmina.training.trainer import GrowthTrainer
from leyline.network import KIND
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.trainer_pb2 import (
    NETWORK_FORMAT_ONNX,
    NETWORK_FORMAT_SAFETENSORS,
    SPLIT_TEST,
    SPLIT_VALIDATION,
    Compute,
    EpisodeBegan,
    StepCompleted,
)
from leyline.v1.transition_pb2 import (
    TERMINATION_CANCELLED,
    TERMINATION_HORIZON,
    EpisodeEnd,
    Termination,
    Transition,
)


@dataclass
class Shelf:
    """A run in a journal, and the network that its first episode left."""

    networks: FinalNetworks
    run: RunRecord
    journal: Journal
    state: StateDirectory
    trainer: GrowthTrainer

    @property
    def path(self) -> Path:
        return self.state.network("r", 0)

    def end(self, episode: int, termination: Termination.ValueType, leaves: bool) -> None:
        beginning = Beginning("none", False, None, SELECTION_MODE_SAMPLED, None)
        self.journal.episodes.begin(beginning, EpisodeBegan(episode_index=episode), "r")
        network = None
        if leaves:
            self.trainer.export(self.path)
            content = self.path.read_bytes()
            network = FinalNetwork(sha256(content).hexdigest(), len(content))
        self.journal.episodes.complete_last(
            Transition(step_id=step_id("r", episode, 0)),
            StepCompleted(),
            EpisodeEnd(run_id="r", episode_index=episode, termination=termination, steps=1),
            network,
        )


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    settings = KasminaSettings(state_dir=tmp_path)
    state = StateDirectory.open(tmp_path)
    journal = Journal(state.journal)
    requested = small_spec()
    spec = fill_in(requested, settings)
    journal.runs.create("r", requested, spec, 10)
    run = journal.runs.get("r")
    assert run is not None
    config = trainer_config(spec, EpisodeOrigin(), Compute(device="cpu", threads=1))
    trainer = GrowthTrainer(config, load_dataset(dataset_settings(spec, None, None)))
    shelf = Shelf(FinalNetworks(settings, state, journal), run, journal, state, trainer)
    shelf.end(0, TERMINATION_HORIZON, leaves=True)
    return shelf


async def unusable(work: Any) -> LeylineError:
    with pytest.raises(LeylineError) as caught:
        await work
    return caught.value


async def test_an_onnx_file_is_made_once_and_has_a_size_and_a_sha256_of_its_own(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def counted(source: Path, target: Path) -> None:
        made.append(target)
        convert(source, target)

    monkeypatch.setattr("kasmina.runs.final_networks.convert", counted)
    files = await asyncio.gather(
        *(shelf.networks.file(shelf.run, 0, NETWORK_FORMAT_ONNX, 0) for _ in range(3))
    )
    assert files[0] == files[1] == files[2]
    assert len(made) == 1
    content = files[0].path.read_bytes()
    assert (files[0].size, files[0].sha256) == (len(content), sha256(content).hexdigest())
    images = shelf.trainer._dataset.validation.images[:5]
    (logits,) = onnxruntime.InferenceSession(content).run(None, {"images": images.numpy()})
    assert logits.shape == (5, 10)


@pytest.mark.parametrize("form", [NETWORK_FORMAT_SAFETENSORS, NETWORK_FORMAT_ONNX])
async def test_a_file_is_sent_from_any_offset_and_its_end_still_tells_of_the_whole(
    shelf: Shelf, form: Any
) -> None:
    file = await shelf.networks.file(shelf.run, 0, form, 0)
    content = file.path.read_bytes()
    for offset in (0, 1000, file.size - 1):
        pieces = [piece async for piece in file.pieces(offset)]
        assert b"".join(piece.data for piece in pieces) == content[offset:]
    (last,) = [piece async for piece in file.pieces(file.size)]
    assert (last.offset, last.data, last.total_size) == (file.size, b"", file.size)
    assert last.sha256 == sha256(content).hexdigest()
    error = await unusable(shelf.networks.file(shelf.run, 0, form, file.size + 1))
    assert error.code is ErrorCode.INVALID_ARGUMENT
    assert error.violations[0].field == "offset"


async def test_an_evaluation_gives_what_the_trainer_found(shelf: Shelf) -> None:
    found = await shelf.networks.evaluate(shelf.run, 0, SPLIT_VALIDATION)
    assert found.accuracy == shelf.trainer.snapshot().val_accuracy
    assert found.loss == pytest.approx(shelf.trainer.snapshot().val_loss, rel=1e-5)
    assert (await shelf.networks.evaluate(shelf.run, 0, SPLIT_TEST)).images == 360


async def test_why_there_is_no_network_is_said(shelf: Shelf) -> None:
    beginning = Beginning("none", False, None, SELECTION_MODE_SAMPLED, None)
    shelf.journal.episodes.begin(beginning, EpisodeBegan(episode_index=1), "r")
    shelf.end(2, TERMINATION_CANCELLED, leaves=False)
    shelf.end(3, TERMINATION_HORIZON, leaves=False)
    for episode, why in {
        1: "none before the horizon, and 0 steps are done",
        2: "ended CANCELLED",
        3: "a simulated episode leaves none",
    }.items():
        error = await unusable(shelf.networks.evaluate(shelf.run, episode, SPLIT_TEST))
        assert error.code is ErrorCode.NETWORK_UNUSABLE
        assert why in str(error)
    error = await unusable(shelf.networks.file(shelf.run, 9, NETWORK_FORMAT_ONNX, 0))
    assert error.code is ErrorCode.EPISODE_NOT_FOUND


async def test_a_part_that_is_missing_and_data_that_do_not_suffice_are_said(shelf: Shelf) -> None:
    spec = shelf.run.spec
    spec.dataset.training_images = 5000
    error = await unusable(
        shelf.networks.evaluate(replace(shelf.run, spec=spec), 0, SPLIT_VALIDATION)
    )
    assert error.code is ErrorCode.NETWORK_UNUSABLE
    assert "digits has 1437 training images" in str(error)
    checkpoint = read_checkpoint(shelf.path, KIND)
    checkpoint.facts["host"] = "theirs"
    write_checkpoint(shelf.path, checkpoint)
    error = await unusable(shelf.networks.file(shelf.run, 0, NETWORK_FORMAT_ONNX, 0))
    assert error.code is ErrorCode.NETWORK_UNUSABLE
    assert "unknown host 'theirs'" in str(error)
