"""Decoded copies: decoding is done once for each content of the source."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.kasmina.data.files import encoded, pixels, write_parquet

from kasmina.data.dataset import DatasetSettings, load_dataset
from kasmina.data.errors import DatasetCorrupt

IMAGES = 6


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """An entry for each image that has been decoded."""
    calls: list[object] = []
    open_image = Image.open

    def counted(file: object) -> Image.Image:
        calls.append(file)
        return open_image(file)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", counted)
    return calls


@pytest.fixture
def source(data: Path) -> Path:
    path = data / "cifar100" / "train-0.parquet"
    return write_parquet(path, [encoded(i) for i in pixels(IMAGES)], [1] * IMAGES)


def copy_of(settings: DatasetSettings) -> Path:
    assert settings.cache is not None
    (copy,) = settings.cache.glob("*.safetensors")
    return copy


def settle(path: Path) -> None:
    """As if the file had been written an hour ago: what is new is verified each time."""
    hour_ago = time.time_ns() - 3_600_000_000_000
    os.utime(path, ns=(hour_ago, hour_ago))


def test_a_copy_is_used_the_second_time(
    settings: DatasetSettings, source: Path, decodings: list[object]
) -> None:
    first, second = load_dataset(settings), load_dataset(settings)
    assert len(decodings) == IMAGES
    assert first.digest == second.digest


def test_a_copy_is_not_used_for_another_source(
    settings: DatasetSettings, source: Path, decodings: list[object]
) -> None:
    first = load_dataset(settings)
    write_parquet(source, [encoded(i) for i in pixels(IMAGES, seed=1)], [1] * IMAGES)
    assert load_dataset(settings).digest != first.digest
    assert len(decodings) == 2 * IMAGES


def test_a_copy_is_not_used_for_another_size(
    settings: DatasetSettings, source: Path, decodings: list[object]
) -> None:
    assert load_dataset(settings).shape == (3, 32, 32)
    assert load_dataset(replace(settings, image_size=8)).shape == (3, 8, 8)
    assert len(decodings) == 2 * IMAGES


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_copy_is_replaced(
    settings: DatasetSettings, source: Path, decodings: list[object], damage: str, settled: bool
) -> None:
    first = load_dataset(settings)
    copy = copy_of(settings)
    if settled:
        settle(copy)
        assert load_dataset(settings).digest == first.digest
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    damaged = {"cut": data[:-9], "flipped": data, "emptied": bytearray()}
    copy.write_bytes(damaged[damage])
    assert load_dataset(settings).digest == first.digest
    assert len(decodings) == 2 * IMAGES
    assert load_dataset(settings).digest == first.digest
    assert len(decodings) == 2 * IMAGES


def test_sources_and_copies_that_lie_still_are_verified_once(
    settings: DatasetSettings, source: Path
) -> None:
    first = load_dataset(settings)
    copy = copy_of(settings)
    settle(source)
    settle(copy)
    load_dataset(settings)
    # Other bytes behind the same size and time go unnoticed: that is what "once" means.
    for path in (source, copy):
        stat = path.stat()
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(load_dataset(settings).train) == len(first.train)
    os.utime(source)
    with pytest.raises(DatasetCorrupt):
        load_dataset(settings)


def test_sources_that_were_written_just_now_are_not_taken_on_trust(
    settings: DatasetSettings, source: Path
) -> None:
    first = load_dataset(settings)
    stat = source.stat()
    write_parquet(source, [encoded(i) for i in pixels(IMAGES, seed=1)], [1] * IMAGES)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load_dataset(settings).digest != first.digest


def test_a_cache_that_cannot_be_written_is_done_without(
    settings: DatasetSettings, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("in the way")
    dataset = load_dataset(replace(settings, cache=tmp_path / "a file" / "cache"))
    assert dataset.digest == load_dataset(settings).digest


LOAD_WHEN_TOLD = """
import sys
from pathlib import Path
from kasmina.data.dataset import DatasetSettings, load_dataset
settings = DatasetSettings(
    "cifar100", Path(sys.argv[1]), cache=Path(sys.argv[2]), validation_images=4
)
print("ready", flush=True)
sys.stdin.readline()
print(load_dataset(settings).digest)
"""


def test_processes_that_decode_at_once_all_get_the_images_and_leave_one_copy(
    settings: DatasetSettings, data: Path
) -> None:
    images = [encoded(i) for i in pixels(600)]
    write_parquet(data / "cifar100" / "train-0.parquet", images, [1] * 600)
    command = [sys.executable, "-c", LOAD_WHEN_TOLD, str(data), str(settings.cache)]
    pipe = subprocess.PIPE
    loaders = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for loader in loaders:
        assert loader.stdout is not None
        assert loader.stdout.readline() == "ready\n"
    for loader in loaders:
        assert loader.stdin is not None
        loader.stdin.write("\n")
        loader.stdin.flush()
    digests = {loader.communicate()[0].strip() for loader in loaders}
    assert digests == {load_dataset(settings).digest}
    assert copy_of(settings).is_file()
    assert settings.cache is not None
    assert {path.name for path in settings.cache.iterdir()} <= {copy_of(settings).name, "stamps"}
