"""Loading a dataset by name: where it is found, and its three splits."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.kasmina.data.files import all_images, encoded, pixels, write_parquet

import kasmina
from kasmina.data.dataset import (
    DatasetSettings,
    dataset_names,
    load_dataset,
    load_test_split,
    locate,
)
from kasmina.data.errors import (
    DatasetNotFound,
    DatasetTooLarge,
    DatasetTooSmall,
    UnknownDataset,
)
from kasmina.data.split import stratified_split


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
    images = [encoded(i) for i in pixels(6)]
    write_parquet(tmp_path / "elsewhere" / "cifar100" / "train-0.parquet", images, [1] * 6)
    monkeypatch.setenv("LEYLINE_DATA", str(tmp_path / "elsewhere"))
    assert len(load_dataset(replace(settings, location=None)).train) == 2
    with pytest.raises(DatasetNotFound):
        load_dataset(settings)


def test_the_test_split_is_read_from_files_of_its_own(
    settings: DatasetSettings, data: Path
) -> None:
    folder = data / "cifar100"
    write_parquet(folder / "train-0.parquet", [encoded(i) for i in pixels(6)], [1] * 6)
    with pytest.raises(DatasetNotFound, match=r"test-\*\.parquet"):
        load_test_split(settings)
    tested = pixels(3, seed=1)
    write_parquet(folder / "test-0.parquet", [encoded(i) for i in tested], [5, 6, 7])
    split = load_test_split(settings)
    assert split.labels.tolist() == [5, 6, 7]
    assert np.array_equal(split.images.numpy(), tested.transpose(0, 3, 1, 2))
    seen = set(all_images(load_dataset(settings)))
    assert seen.isdisjoint(image.contiguous().numpy().tobytes() for image in split.images)


def test_nothing_but_the_evaluation_reads_the_test_split() -> None:
    (package,) = map(Path, kasmina.__path__)
    readers = [
        path.relative_to(package).as_posix()
        for path in package.parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and "load_test_split" in {a.name for a in node.names})
        or (isinstance(node, ast.Attribute) and node.attr == "load_test_split")
    ]
    assert readers == ["training/evaluation.py"]


def test_an_unknown_dataset_is_refused_with_the_names_of_those_there_are(
    settings: DatasetSettings, data: Path
) -> None:
    (data / "birds" / "wren").mkdir(parents=True)
    known = "birds, cifar10, cifar100, digits, fashion-mnist"
    assert dataset_names(data) == tuple(known.split(", "))
    with pytest.raises(UnknownDataset, match=f"'imagenet'.*{known}; no folder of that name in "):
        load_dataset(replace(settings, name="imagenet"))


@pytest.mark.parametrize("name", ["..", "../data/birds", "/tmp", "", ".hidden", "a/b"])
def test_a_name_does_not_lead_out_of_the_place_for_data(
    settings: DatasetSettings, data: Path, name: str
) -> None:
    write_parquet(data / "birds" / "train-0.parquet", [encoded(pixels(1)[0])], [0], label="label")
    for load in (load_dataset, load_test_split, locate):
        with pytest.raises(UnknownDataset):
            load(replace(settings, name=name))


def test_more_images_than_there_are_are_refused() -> None:
    with pytest.raises(DatasetTooSmall, match="1437 training images; 1500 were asked for"):
        load_dataset(DatasetSettings("digits", train_images=1300, validation_images=200))


@pytest.mark.parametrize("name", ["train_images", "validation_images", "image_size", "max_bytes"])
def test_no_images_at_all_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        DatasetSettings("digits", **{name: 0})  # type: ignore[arg-type]


def test_image_size_resizes_images_of_any_source() -> None:
    settings = DatasetSettings("digits", validation_images=100, image_size=32)
    dataset, test = load_dataset(settings), load_test_split(settings)
    assert dataset.shape == (1, 32, 32)
    assert test.images.shape == (360, 1, 32, 32)
    small = load_dataset(replace(settings, image_size=None))
    assert dataset.mean.item() == pytest.approx(small.mean.item(), abs=0.01)


def test_more_bytes_than_may_be_are_refused_before_they_are_made() -> None:
    settings = DatasetSettings("digits", image_size=4000, max_bytes=1_000_000)
    with pytest.raises(DatasetTooLarge, match=r"22,992,000,000 bytes.* allows 1,000,000\."):
        load_dataset(settings)


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


def test_loaded_images_have_their_channels_innermost(settings: DatasetSettings, data: Path) -> None:
    images = [encoded(i) for i in pixels(6)]
    write_parquet(data / "cifar100" / "train-0.parquet", images, [1] * 6)
    for _ in range(2):
        dataset = load_dataset(settings)
        for split in (dataset.train, dataset.validation):
            assert split.images.is_contiguous(memory_format=torch.channels_last)


def test_cifar_100_has_its_published_moments() -> None:
    settings = DatasetSettings("cifar100", validation_images=5000)
    try:
        dataset, test = load_dataset(settings), load_test_split(settings)
    except DatasetNotFound as error:
        pytest.skip(str(error))
    assert (len(dataset.train), len(dataset.validation), len(test)) == (45_000, 5_000, 10_000)
    assert torch.bincount(dataset.validation.labels).tolist() == [50] * 100
    assert torch.bincount(test.labels).tolist() == [100] * 100
    assert dataset.mean.tolist() == pytest.approx([0.5071, 0.4865, 0.4409], abs=0.002)
    assert dataset.deviation.tolist() == pytest.approx([0.2673, 0.2564, 0.2762], abs=0.002)
    assert dataset.class_names[:2] == ("apple", "aquarium_fish")
    few = dataset.subset(2_000, seed=0)
    assert torch.bincount(few.train.labels).tolist() == [20] * 100
