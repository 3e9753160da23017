from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kasmina.data.dataset import Dataset, DatasetSettings, load_dataset, load_test_split, locate
from kasmina.data.errors import (
    DatasetCorrupt,
    DatasetNotFound,
    DatasetTooSmall,
    UnknownDataset,
)
from kasmina.data.parquet import read_parquet
from kasmina.data.split import stratified_split

Pixels = npt.NDArray[np.uint8]


def pixels(count: int, seed: int = 0) -> Pixels:
    """(count, 32, 32, 3)"""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    path: Path, images: Sequence[bytes | None], labels: list[int], **names: str
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": data, "path": None} for data in images]
    columns = {names.get("image", "img"): cells, names.get("label", "fine_label"): labels}
    pq.write_table(pa.table(columns), path)
    return path


def write_batch(path: Path, images: Pixels, labels: list[int], label_key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    path.write_bytes(pickle.dumps({"data": rows, label_key: labels, "filenames": []}, protocol=2))


@pytest.fixture
def settings(tmp_path: Path) -> DatasetSettings:
    """An empty place for data, and one for copies."""
    (tmp_path / "data").mkdir()
    return DatasetSettings(
        "cifar100", tmp_path / "data", cache=tmp_path / "cache", validation_images=4
    )


def all_images(dataset: Dataset) -> list[bytes]:
    both = torch.cat([dataset.train.images, dataset.validation.images])
    return sorted(image.numpy().tobytes() for image in both)


def test_the_hub_layout_is_read_whole_and_lossless(settings: DatasetSettings) -> None:
    images = pixels(12)
    assert settings.location is not None
    folder = settings.location / "cifar100"
    write_parquet(folder / "train-00000-of-00002.parquet", [png(i) for i in images[:7]], [3] * 7)
    write_parquet(folder / "train-00001-of-00002.parquet", [png(i) for i in images[7:]], [9] * 5)
    dataset = load_dataset(settings)
    assert (len(dataset.train), len(dataset.validation), dataset.classes) == (8, 4, 100)
    assert dataset.shape == (3, 32, 32)
    assert all_images(dataset) == sorted(i.transpose(2, 0, 1).tobytes() for i in images)
    for split in (dataset.train, dataset.validation):
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            place = [np.array_equal(image.numpy(), i.transpose(2, 0, 1)) for i in images].index(
                True
            )
            assert label == (3 if place < 7 else 9)


@pytest.mark.parametrize("place", ["cifar100", "cifar100/data", ".", "data"])
def test_the_folder_itself_or_one_above_it_may_be_given(
    settings: DatasetSettings, place: str
) -> None:
    assert settings.location is not None
    folder = settings.location / place
    write_parquet(folder / "train-0.parquet", [png(i) for i in pixels(6)], [1] * 6, image="image")
    assert len(load_dataset(settings).train) == 2
    assert locate(settings) == folder


@pytest.mark.parametrize(
    ("name", "folder", "files", "key"),
    [
        ("cifar100", "cifar-100-python", ["train"], "fine_labels"),
        (
            "cifar10",
            "cifar-10-batches-py",
            [f"data_batch_{index}" for index in range(1, 6)],
            "labels",
        ),
    ],
)
def test_the_torchvision_layout_is_read(
    settings: DatasetSettings, name: str, folder: str, files: list[str], key: str
) -> None:
    settings = replace(settings, name=name)
    assert settings.location is not None
    images = pixels(5 * len(files))
    for index, file in enumerate(files):
        part = images[5 * index : 5 * index + 5]
        write_batch(settings.location / folder / file, part, [0, 1, 2, 3, 4], key)
    dataset = load_dataset(replace(settings, validation_images=1))
    assert all_images(dataset) == sorted(i.transpose(2, 0, 1).tobytes() for i in images)


def test_a_batch_that_would_run_code_is_refused_unrun(settings: DatasetSettings) -> None:
    assert settings.location is not None
    ran = settings.location / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (ran,)

    file = settings.location / "cifar-100-python" / "train"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps({"data": Trap(), "fine_labels": []}))
    with pytest.raises(DatasetCorrupt, match="has no place in a batch of images"):
        load_dataset(settings)
    assert not ran.exists()


def test_digits_need_no_files_and_have_three_splits_apart() -> None:
    settings = DatasetSettings("digits", validation_images=200)
    dataset, test = load_dataset(settings), load_test_split(settings)
    assert (len(dataset.train), len(dataset.validation), len(test)) == (1237, 200, 360)
    assert dataset.shape == (1, 8, 8)
    assert not dataset.augmented
    assert dataset.train.images.max() == 255
    assert locate(settings) is None


def test_missing_data_is_an_error_that_says_where_it_looked_and_what_to_do(
    settings: DatasetSettings,
) -> None:
    with pytest.raises(DatasetNotFound) as caught:
        load_dataset(settings)
    assert settings.location is not None
    assert caught.value.looked_in == (settings.location / "cifar100", settings.location)
    for part in (str(settings.location), "LEYLINE_DATA", "train-*.parquet", "cifar-100-python"):
        assert part in str(caught.value)


def test_the_environment_says_where_to_look_unless_the_caller_does(
    settings: DatasetSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [png(i) for i in pixels(6)]
    write_parquet(tmp_path / "elsewhere" / "cifar100" / "train-0.parquet", images, [1] * 6)
    monkeypatch.setenv("LEYLINE_DATA", str(tmp_path / "elsewhere"))
    assert len(load_dataset(replace(settings, location=None)).train) == 2
    with pytest.raises(DatasetNotFound):
        load_dataset(settings)


def test_the_test_split_is_read_from_files_of_its_own(settings: DatasetSettings) -> None:
    assert settings.location is not None
    folder = settings.location / "cifar100"
    write_parquet(folder / "train-0.parquet", [png(i) for i in pixels(6)], [1] * 6)
    with pytest.raises(DatasetNotFound, match=r"test-\*\.parquet"):
        load_test_split(settings)
    tested = pixels(3, seed=1)
    write_parquet(folder / "test-0.parquet", [png(i) for i in tested], [5, 6, 7])
    split = load_test_split(settings)
    assert split.labels.tolist() == [5, 6, 7]
    assert np.array_equal(split.images.numpy(), tested.transpose(0, 3, 1, 2))
    seen = set(all_images(load_dataset(settings)))
    assert seen.isdisjoint(image.numpy().tobytes() for image in split.images)


def test_an_unknown_dataset_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(UnknownDataset, match=r"'imagenet'.*cifar10, cifar100, digits"):
        load_dataset(DatasetSettings("imagenet"))


def test_more_images_than_there_are_are_refused() -> None:
    with pytest.raises(DatasetTooSmall, match="1437 training images; 1500 were asked for"):
        load_dataset(DatasetSettings("digits", train_images=1300, validation_images=200))


@pytest.mark.parametrize("name", ["train_images", "validation_images"])
def test_no_images_at_all_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        DatasetSettings("digits", **{name: 0})  # type: ignore[arg-type]


class TestADamagedParquetFile:
    """Each kind of damage is found, and named with the file."""

    @pytest.fixture
    def file(self, settings: DatasetSettings) -> Path:
        assert settings.location is not None
        path = settings.location / "cifar100" / "train-0.parquet"
        return write_parquet(path, [png(i) for i in pixels(6)], [1] * 6)

    def refuse(self, settings: DatasetSettings, file: Path, why: str) -> None:
        with pytest.raises(DatasetCorrupt, match=why) as caught:
            load_dataset(settings)
        assert caught.value.path == file
        assert str(file) in str(caught.value)

    def test_cut_short(self, settings: DatasetSettings, file: Path) -> None:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        self.refuse(settings, file, "not a readable parquet file")

    def test_empty(self, settings: DatasetSettings, file: Path) -> None:
        file.write_bytes(b"")
        self.refuse(settings, file, "not a readable parquet file")

    def test_overwritten_in_the_middle(self, settings: DatasetSettings, file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[len(data) // 3 : len(data) // 3 + 4000] = bytes(4000)
        file.write_bytes(bytes(data))
        self.refuse(settings, file, "is damaged")

    def test_without_labels(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [png(i) for i in pixels(6)], [1] * 6, label="colour")
        self.refuse(settings, file, "no column fine_label or label; its columns are img, colour")

    def test_with_a_row_that_is_no_image(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [png(pixels(1)[0]), b"no image"], [1, 2])
        self.refuse(settings, file, "row 1 is not an image")

    def test_with_a_row_that_is_empty(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [png(pixels(1)[0]), None], [1, 2])
        self.refuse(settings, file, "row 1 has no image")

    def test_with_an_image_of_another_size(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [png(pixels(1)[0]), png(pixels(1)[0][:16])], [1, 2])
        self.refuse(settings, file, "row 1 is 16x32, not 32x32")

    def test_with_a_label_out_of_range(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [png(i) for i in pixels(2)], [1, 100])
        self.refuse(settings, file, r"labels must be in \[0, 100\)")


class TestDecodedCopies:
    """Decoding is done once for each content of the source."""

    @pytest.fixture
    def decodings(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        calls: list[int] = []

        def counted(*arguments: Any) -> Any:
            calls.append(1)
            return read_parquet(*arguments)

        monkeypatch.setattr("kasmina.data.dataset.read_parquet", counted)
        return calls

    @pytest.fixture
    def source(self, settings: DatasetSettings) -> Path:
        assert settings.location is not None
        path = settings.location / "cifar100" / "train-0.parquet"
        return write_parquet(path, [png(i) for i in pixels(6)], [1] * 6)

    def test_are_used_the_second_time(
        self, settings: DatasetSettings, source: Path, decodings: list[int]
    ) -> None:
        first, second = load_dataset(settings), load_dataset(settings)
        assert len(decodings) == 1
        assert first.digest == second.digest

    def test_are_not_used_for_another_source(
        self, settings: DatasetSettings, source: Path, decodings: list[int]
    ) -> None:
        first = load_dataset(settings)
        write_parquet(source, [png(i) for i in pixels(6, seed=1)], [1] * 6)
        assert load_dataset(settings).digest != first.digest
        assert len(decodings) == 2

    @pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
    def test_are_replaced_when_damaged(
        self, settings: DatasetSettings, source: Path, decodings: list[int], damage: str
    ) -> None:
        first = load_dataset(settings)
        assert settings.cache is not None
        (copy,) = settings.cache.glob("*.safetensors")
        data = bytearray(copy.read_bytes())
        data[-1] ^= 1
        damaged = {"cut": data[:-9], "flipped": data, "emptied": bytearray()}
        copy.write_bytes(damaged[damage])
        assert load_dataset(settings).digest == first.digest
        assert len(decodings) == 2
        assert load_dataset(settings).digest == first.digest
        assert len(decodings) == 2

    def test_are_done_without_where_they_cannot_be_kept(
        self, settings: DatasetSettings, source: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "a file").write_text("in the way")
        dataset = load_dataset(replace(settings, cache=tmp_path / "a file" / "cache"))
        assert dataset.digest == load_dataset(settings).digest


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_split_parts_the_images_and_gives_every_class_its_share(
    labels: list[int], share: float, seed: int
) -> None:
    array = np.array(labels, dtype=np.int64)
    taken = round(share * len(labels))
    chosen, rest = stratified_split(array, taken, seed)
    assert len(chosen) == taken
    assert sorted([*chosen, *rest]) == list(range(len(labels)))
    for label in set(labels):
        exact = taken * labels.count(label) / len(labels)
        assert abs((array[chosen] == label).sum() - exact) < 1
    again, _ = stratified_split(array, taken, seed)
    assert np.array_equal(chosen, again)


def test_the_splits_belong_to_the_dataset_and_a_limit_keeps_the_validation_split() -> None:
    settings = DatasetSettings("digits", validation_images=100)
    whole, few = load_dataset(settings), load_dataset(replace(settings, train_images=300))
    assert torch.equal(whole.validation.images, few.validation.images)
    assert len(few.train) == 300
    kept = {image.numpy().tobytes() for image in few.train.images}
    assert kept <= {image.numpy().tobytes() for image in whole.train.images}
    counts = torch.bincount(few.train.labels)
    assert counts.max() - counts.min() <= 3
    other = load_dataset(replace(settings, split_seed=1))
    assert not torch.equal(whole.validation.images, other.validation.images)


def test_a_digest_tells_images_apart() -> None:
    settings = DatasetSettings("digits", train_images=50, validation_images=50)
    first = load_dataset(settings)
    assert first.digest == load_dataset(settings).digest
    labels = first.train.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    changed = replace(first, train=replace(first.train, labels=labels))
    assert changed.digest != first.digest


def test_cifar_100_has_its_published_moments() -> None:
    try:
        dataset = load_dataset(DatasetSettings("cifar100", validation_images=5000))
    except DatasetNotFound as error:
        assert error.looked_in  # noqa: PT017 - a machine without the data says where it looked
        return
    assert (len(dataset.train), len(dataset.validation)) == (45_000, 5_000)
    assert torch.bincount(dataset.validation.labels).tolist() == [50] * 100
    assert dataset.mean.tolist() == pytest.approx([0.5071, 0.4865, 0.4409], abs=0.002)
    assert dataset.deviation.tolist() == pytest.approx([0.2673, 0.2564, 0.2762], abs=0.002)
