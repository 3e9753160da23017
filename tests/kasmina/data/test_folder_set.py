"""Datasets that nobody registered: shards or folders of images under a name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.kasmina.data.files import (
    all_images,
    encoded,
    label_of,
    pixels,
    write_images,
    write_parquet,
)

from kasmina.data.dataset import DatasetSettings, load_dataset, load_test_split, locate
from kasmina.data.errors import (
    DatasetCorrupt,
    DatasetNotFound,
    DatasetTooLarge,
    DatasetUnsuitable,
    ImageSizesDiffer,
)

SIDE = 12


@pytest.fixture
def settings(settings: DatasetSettings) -> DatasetSettings:
    return replace(settings, name="birds", validation_images=1)


@pytest.fixture
def birds(data: Path) -> Path:
    return data / "birds"


class TestShards:
    """In the Hub's layout."""

    def write(self, birds: Path, labels: list[int] | list[str], **how: object) -> list[bytes]:
        images = [encoded(i) for i in pixels(len(labels), side=SIDE)]
        how = {"image": "image", "label": "label", **how}
        write_parquet(birds / "train-0.parquet", images, labels, **how)  # type: ignore[arg-type]
        return images

    def test_name_their_classes_in_the_hub_s_metadata(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        self.write(birds, [0, 1, 1], names=["wren", "robin", "owl"])
        dataset = load_dataset(settings)
        assert dataset.classes == 3
        assert dataset.class_names == ("wren", "robin", "owl")
        assert load_dataset(settings).class_names == dataset.class_names
        assert locate(settings) == birds

    def test_without_metadata_have_as_many_classes_as_their_labels_say(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        self.write(birds, [0, 4, 1])
        dataset = load_dataset(settings)
        assert (dataset.classes, dataset.class_names) == (5, ())

    def test_may_have_names_for_labels(self, settings: DatasetSettings, birds: Path) -> None:
        self.write(birds, ["wren", "owl", "wren", "robin"])
        write_parquet(
            birds / "test-0.parquet",
            [encoded(i) for i in pixels(2, side=SIDE)],
            ["robin", "owl"],
            label="label",
        )
        dataset = load_dataset(settings)
        assert dataset.class_names == ("owl", "robin", "wren")
        assert load_test_split(settings).labels.tolist() == [1, 0]

    def test_of_the_test_may_not_have_classes_of_their_own(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        self.write(birds, ["wren", "owl", "wren"])
        image = encoded(pixels(1, side=SIDE)[0])
        write_parquet(birds / "test-0.parquet", [image], ["emu"], label="label")
        with pytest.raises(DatasetUnsuitable, match=r"'emu' is none of the training images'"):
            load_test_split(settings)
        write_parquet(birds / "test-0.parquet", [image], [7], label="label")
        with pytest.raises(DatasetCorrupt, match=r"labels must be in \[0, 2\)"):
            load_test_split(settings)

    def test_may_hold_plain_bytes_and_lie_in_data(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        images = pixels(4, side=SIDE)
        shard = birds / "data" / "train-00000-of-00001.parquet"
        write_parquet(shard, [encoded(i) for i in images], [0, 1, 0, 1], plain=True)
        dataset = load_dataset(settings)
        assert all_images(dataset) == sorted(i.transpose(2, 0, 1).tobytes() for i in images)

    def test_of_something_else_are_refused(self, settings: DatasetSettings, birds: Path) -> None:
        birds.mkdir()
        write_parquet(birds / "train-0.parquet", [b"a"], [0], image="text")
        with pytest.raises(DatasetCorrupt, match="no column img or image or images"):
            load_dataset(settings)
        write_parquet(birds / "train-0.parquet", ["a"], [0], plain=True)
        with pytest.raises(DatasetUnsuitable, match="holds string; images are bytes"):
            load_dataset(settings)
        write_parquet(birds / "train-0.parquet", [b"a"], [0.5])
        with pytest.raises(DatasetUnsuitable, match="holds double; labels are whole numbers"):
            load_dataset(settings)

    def test_whose_images_differ_in_size_are_refused_or_resized(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        images = [encoded(pixels(1, side=side)[0]) for side in (12, 12, 20)]
        write_parquet(birds / "train-0.parquet", images, [0, 1, 1])
        with pytest.raises(ImageSizesDiffer, match=r"row 2 is 20x20, not 12x12\. Set image_size"):
            load_dataset(settings)
        dataset = load_dataset(replace(settings, image_size=16))
        assert dataset.shape == (3, 16, 16)

    def test_are_too_large_before_more_than_a_header_is_decoded(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        whole = encoded(pixels(1, side=40)[0])
        write_parquet(birds / "train-0.parquet", [whole[:100], b"", b""], [0, 1, 1])
        with pytest.raises(DatasetTooLarge, match=r"take 14,400 bytes.* allows 14,399"):
            load_dataset(replace(settings, max_bytes=3 * 40 * 40 * 3 - 1))


class TestColours:
    """Grey images stay grey, colours have three channels, mixtures have colours."""

    def load(self, settings: DatasetSettings, birds: Path, *modes: str) -> tuple[int, bool]:
        images = [encoded(pixels(1, side=SIDE)[0], mode) for mode in modes]
        write_parquet(birds / "train-0.parquet", images, [0] * len(images))
        dataset = load_dataset(settings)
        return dataset.shape[0], dataset.augmented

    @pytest.mark.parametrize("modes", [("L", "L"), ("L", "1"), ("LA", "L")])
    def test_grey_images_have_one_channel_and_are_not_mirrored(
        self, settings: DatasetSettings, birds: Path, modes: tuple[str, ...]
    ) -> None:
        assert self.load(settings, birds, *modes) == (1, False)

    @pytest.mark.parametrize(
        "modes", [("RGB", "RGB"), ("RGBA", "RGB"), ("L", "RGB"), ("RGB", "L"), ("P", "P")]
    )
    def test_colour_among_them_makes_three_channels(
        self, settings: DatasetSettings, birds: Path, modes: tuple[str, ...]
    ) -> None:
        assert self.load(settings, birds, *modes) == (3, True)

    def test_the_training_images_decide_for_those_of_the_test(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        self.load(settings, birds, "L", "RGB")
        grey = encoded(pixels(1, side=SIDE)[0], "L")
        write_parquet(birds / "test-0.parquet", [grey], [0])
        assert load_test_split(settings).images.shape == (1, 3, SIDE, SIDE)
        self.load(settings, birds, "L", "L")
        assert load_test_split(settings).images.shape == (1, 1, SIDE, SIDE)

    def test_more_than_eight_bits_are_refused(
        self, settings: DatasetSettings, birds: Path, tmp_path: Path
    ) -> None:
        Image.fromarray(np.full((SIDE, SIDE), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
        deep = (tmp_path / "deep.png").read_bytes()
        write_parquet(birds / "train-0.parquet", [deep, deep], [0, 0])
        with pytest.raises(DatasetUnsuitable, match="row 0 has more than 8 bits"):
            load_dataset(settings)


class TestFoldersOfImages:
    """A folder for each class."""

    def test_train_and_test_lie_apart(self, settings: DatasetSettings, birds: Path) -> None:
        owls, wrens = pixels(4, seed=1, side=SIDE), pixels(3, seed=2, side=SIDE)
        write_images(birds / "train" / "wren", wrens)
        write_images(birds / "train" / "owl", owls[:3])
        write_images(birds / "test" / "wren", wrens[:1])
        write_images(birds / "test" / "owl", owls[3:])
        (birds / "train" / "owl" / "notes.txt").write_text("not an image")
        (birds / "train" / ".thumbnails").mkdir()
        dataset, test = load_dataset(settings), load_test_split(settings)
        assert dataset.class_names == ("owl", "wren")
        assert (len(dataset.train), len(dataset.validation), len(test)) == (5, 1, 2)
        assert label_of(test, owls[3]) == 0
        assert label_of(test, wrens[0]) == 1
        assert load_test_split(settings).labels.tolist() == test.labels.tolist()

    def test_other_formats_are_read(self, settings: DatasetSettings, birds: Path) -> None:
        (birds / "train" / "owl").mkdir(parents=True)
        for ending, kind in {"jpg": "JPEG", "JPEG": "JPEG", "webp": "WEBP", "bmp": "BMP"}.items():
            data = encoded(pixels(1, side=SIDE)[0], kind=kind)
            (birds / "train" / "owl" / f"bird.{ending}").write_bytes(data)
        assert len(load_dataset(settings).train) == 3

    def test_without_a_test_folder_there_is_no_test(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        write_images(birds / "train" / "owl", pixels(3, side=SIDE))
        with pytest.raises(DatasetNotFound, match="test/<class>/ with images"):
            load_test_split(settings)

    def test_a_test_split_is_carved_out_where_there_is_no_other(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        owls, wrens = pixels(60, seed=1, side=SIDE), pixels(60, seed=2, side=SIDE)
        write_images(birds / "owl", owls)
        write_images(birds / "wren", wrens)
        dataset, test = load_dataset(settings), load_test_split(settings)
        assert len(dataset.train) + len(dataset.validation) + len(test) == 120
        assert 4 <= len(test) <= 24
        seen = {image.contiguous().numpy().tobytes() for image in test.images}
        assert seen.isdisjoint(all_images(dataset))
        for owl in owls:
            if owl.transpose(2, 0, 1).tobytes() in seen:
                assert label_of(test, owl) == 0

    def test_more_images_leave_the_carved_out_ones_where_they_are(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        write_images(birds / "owl", pixels(60, seed=1, side=SIDE))
        before = {image.numpy().tobytes() for image in load_test_split(settings).images}
        write_images(birds / "owl", pixels(60, seed=2, side=SIDE), first=60)
        assert before < {image.numpy().tobytes() for image in load_test_split(settings).images}

    def test_images_that_change_places_are_read_again(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        first, second = pixels(2, side=SIDE)
        settings = replace(settings, validation_images=1)
        for owl, wren in ((first, second), (second, first)):
            write_images(birds / "train" / "owl", owl[None])
            write_images(birds / "train" / "wren", wren[None])
            dataset = load_dataset(settings)
            both = torch.cat([dataset.train.images, dataset.validation.images])
            labels = torch.cat([dataset.train.labels, dataset.validation.labels])
            place = labels.tolist().index(0)
            assert np.array_equal(both[place].permute(1, 2, 0).numpy(), owl)

    def test_a_damaged_image_is_named(self, settings: DatasetSettings, birds: Path) -> None:
        paths = write_images(birds / "train" / "owl", pixels(3, side=SIDE))
        paths[1].write_bytes(b"no image")
        with pytest.raises(DatasetCorrupt, match="it is not an image") as caught:
            load_dataset(settings)
        assert caught.value.path == paths[1]

    def test_a_folder_without_images_says_what_it_wants(
        self, settings: DatasetSettings, birds: Path
    ) -> None:
        birds.mkdir()
        with pytest.raises(DatasetNotFound, match=r"train-\*\.parquet or train/<class>/") as caught:
            load_dataset(settings)
        assert caught.value.looked_in == (birds,)
