"""The published datasets, in the Hub's layout and in torchvision's."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.kasmina.data.files import (
    all_images,
    encoded,
    label_of,
    pixels,
    write_batch,
    write_idx,
    write_parquet,
)

from kasmina.data.dataset import DatasetSettings, load_dataset, load_test_split, locate
from kasmina.data.errors import DatasetCorrupt, DatasetNotFound, ImageSizesDiffer
from kasmina.data.published import PUBLISHED


def test_the_hub_layout_is_read_whole_and_lossless(settings: DatasetSettings, data: Path) -> None:
    images = pixels(12)
    folder = data / "cifar100"
    first, rest = [encoded(i) for i in images[:7]], [encoded(i) for i in images[7:]]
    write_parquet(folder / "train-00000-of-00002.parquet", first, [3] * 7)
    write_parquet(folder / "train-00001-of-00002.parquet", rest, [9] * 5)
    dataset = load_dataset(settings)
    assert (len(dataset.train), len(dataset.validation), dataset.classes) == (8, 4, 100)
    assert dataset.shape == (3, 32, 32)
    assert dataset.augmented
    assert all_images(dataset) == sorted(i.transpose(2, 0, 1).tobytes() for i in images)
    for split in (dataset.train, dataset.validation):
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            place = [np.array_equal(image.numpy(), i.transpose(2, 0, 1)) for i in images].index(
                True
            )
            assert label == (3 if place < 7 else 9)


@pytest.mark.parametrize("place", ["cifar100", "cifar100/data", ".", "data"])
def test_the_folder_itself_or_one_above_it_may_be_given(
    settings: DatasetSettings, data: Path, place: str
) -> None:
    folder = data / place
    images = [encoded(i) for i in pixels(6)]
    write_parquet(folder / "train-0.parquet", images, [1] * 6, image="image")
    assert len(load_dataset(settings).train) == 2
    assert locate(settings) == folder


@pytest.mark.parametrize(("name", "key"), [("cifar100", "fine_labels"), ("cifar10", "labels")])
def test_torchvision_s_batches_are_read(settings: DatasetSettings, name: str, key: str) -> None:
    published = PUBLISHED[name]
    settings = replace(settings, name=name)
    assert settings.location is not None
    files = published.files["train"]
    images = pixels(5 * len(files))
    md5 = {}
    for index, file in enumerate(files):
        path = settings.location / published.folder / file
        write_batch(path, images[5 * index : 5 * index + 5], [0, 1, 2, 3, 4], key)
        md5[file] = hashlib.md5(path.read_bytes()).hexdigest()
    source = replace(published, md5=md5).read(settings, "train")
    assert np.array_equal(source.images, images.transpose(0, 3, 1, 2))
    assert source.labels.tolist() == [0, 1, 2, 3, 4] * len(files)


def test_batches_that_are_not_the_published_ones_are_refused(
    settings: DatasetSettings, data: Path
) -> None:
    write_batch(data / "cifar-100-python" / "train", pixels(5), [0, 1, 2, 3, 4], "fine_labels")
    with pytest.raises(DatasetCorrupt, match=r"its MD5 is .*published file is 16019d7e3df5f2"):
        load_dataset(settings)


def test_a_batch_that_would_run_code_is_refused_unrun(
    settings: DatasetSettings, data: Path
) -> None:
    ran = data / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (ran,)

    file = data / "cifar-100-python" / "train"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps({"data": Trap(), "fine_labels": []}))
    with pytest.raises(DatasetCorrupt, match="has no place in a batch of images"):
        load_dataset(settings)
    assert not ran.exists()


class TestFashionMnist:
    """Grey images of 28x28, as idx files or as shards."""

    @pytest.fixture
    def settings(self, settings: DatasetSettings) -> DatasetSettings:
        return replace(settings, name="fashion-mnist")

    @pytest.fixture
    def raw(self, data: Path) -> Path:
        folder = data / "FashionMNIST" / "raw"
        grey = pixels(10, side=28)[..., 0]
        for split in ("train", "t10k"):
            write_idx(folder / f"{split}-images-idx3-ubyte", grey)
            labels = np.arange(10, dtype=np.uint8)
            write_idx(folder / f"{split}-labels-idx1-ubyte", labels)
        return folder

    def test_is_read_from_idx_files(self, settings: DatasetSettings, raw: Path) -> None:
        dataset, test = load_dataset(settings), load_test_split(settings)
        assert dataset.shape == (1, 28, 28)
        assert dataset.classes == 10
        assert dataset.augmented
        assert dataset.class_names[9] == "Ankle boot"
        grey = pixels(10, side=28)[..., :1]
        assert [label_of(test, image) for image in grey] == list(range(10))
        assert all_images(dataset) == sorted(image.tobytes() for image in grey)
        assert load_dataset(settings).digest == dataset.digest

    def test_is_read_from_shards(self, settings: DatasetSettings, data: Path) -> None:
        images = pixels(10, side=28)[..., 0]
        shard = data / "fashion-mnist" / "train-0.parquet"
        write_parquet(shard, [encoded(i) for i in images], range(10), image="image", label="label")
        dataset = load_dataset(settings)
        assert dataset.shape == (1, 28, 28)
        assert all_images(dataset) == sorted(image.tobytes() for image in images)

    def test_is_resized_where_it_is_asked_for(self, settings: DatasetSettings, raw: Path) -> None:
        assert load_dataset(replace(settings, image_size=32)).shape == (1, 32, 32)
        assert load_dataset(settings).shape == (1, 28, 28)

    def test_cut_short_is_refused(self, settings: DatasetSettings, raw: Path) -> None:
        file = raw / "train-images-idx3-ubyte"
        file.write_bytes(file.read_bytes()[:-5])
        self.refuse(settings, file, "not a readable idx file")

    def test_emptied_is_refused(self, settings: DatasetSettings, raw: Path) -> None:
        file = raw / "train-labels-idx1-ubyte"
        file.write_bytes(b"")
        self.refuse(settings, file, "not a readable idx file")

    def test_of_another_size_is_refused(self, settings: DatasetSettings, raw: Path) -> None:
        file = write_idx(raw / "train-images-idx3-ubyte", pixels(10)[..., 0])
        self.refuse(settings, file, "its images are 32x32, not 28x28")

    def test_with_too_few_labels_is_refused(self, settings: DatasetSettings, raw: Path) -> None:
        file = write_idx(raw / "train-labels-idx1-ubyte", np.zeros(9, dtype=np.uint8))
        self.refuse(settings, file, "it has 9 labels for 10 images")

    def test_with_a_label_out_of_range_is_refused(
        self, settings: DatasetSettings, raw: Path
    ) -> None:
        write_idx(raw / "train-labels-idx1-ubyte", np.full(10, 10, dtype=np.uint8))
        self.refuse(settings, raw / "train-images-idx3-ubyte", r"labels must be in \[0, 10\)")

    def test_without_its_labels_is_not_found(self, settings: DatasetSettings, raw: Path) -> None:
        (raw / "train-labels-idx1-ubyte").unlink()
        with pytest.raises(DatasetNotFound, match="FashionMNIST/raw"):
            load_dataset(settings)

    def refuse(self, settings: DatasetSettings, file: Path, why: str) -> None:
        with pytest.raises(DatasetCorrupt, match=why) as caught:
            load_dataset(settings)
        assert caught.value.path == file


class TestADamagedParquetFile:
    """Each kind of damage is found, and named with the file."""

    @pytest.fixture
    def file(self, data: Path) -> Path:
        path = data / "cifar100" / "train-0.parquet"
        return write_parquet(path, [encoded(i) for i in pixels(6)], [1] * 6)

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
        write_parquet(file, [encoded(i) for i in pixels(6)], [1] * 6, label="colour")
        self.refuse(settings, file, "no column fine_label or label; its columns are img, colour")

    def test_with_a_row_that_is_no_image(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [encoded(pixels(1)[0]), b"no image"], [1, 2])
        self.refuse(settings, file, "row 1 is not an image")

    def test_with_an_image_cut_short(self, settings: DatasetSettings, file: Path) -> None:
        whole = encoded(pixels(1)[0])
        write_parquet(file, [whole, whole[: len(whole) // 2]], [1, 2])
        self.refuse(settings, file, "row 1 is not an image")

    def test_with_a_row_that_is_empty(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [encoded(pixels(1)[0]), None], [1, 2])
        self.refuse(settings, file, "row 1 has no image")

    def test_with_a_row_without_a_label(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [encoded(i) for i in pixels(2)], [1, None])
        self.refuse(settings, file, "fine_label has rows without a label")

    def test_without_rows(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [encoded(i) for i in pixels(2)], [1, 2])
        pq.write_table(pq.read_table(file).slice(0, 0), file)
        self.refuse(settings, file, "there are no images in it")

    def test_with_an_image_of_another_size(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [encoded(pixels(1)[0]), encoded(pixels(1)[0][:16])], [1, 2])
        self.refuse(settings, file, "row 1 is 16x32, not 32x32")
        with pytest.raises(ImageSizesDiffer, match="Set image_size"):
            load_dataset(settings)
        resized = load_dataset(replace(settings, image_size=32, validation_images=1))
        assert resized.shape == (3, 32, 32)

    def test_with_a_label_out_of_range(self, settings: DatasetSettings, file: Path) -> None:
        write_parquet(file, [encoded(i) for i in pixels(2)], [1, 100])
        self.refuse(settings, file, r"labels must be in \[0, 100\)")
