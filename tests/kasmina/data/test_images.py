"""Datasets in memory: fewer images, wrong labels, another device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kasmina.data.dataset import Dataset, DatasetSettings, ImageSplit, load_dataset


def few(count: int, classes: int, seed: int = 0) -> Dataset:
    """Images of 2x2 pixels that are all different."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.arange(count * 4).remainder(251).to(torch.uint8).view(count, 1, 2, 2)
    labels = torch.randint(classes, (count,), generator=generator)
    split = ImageSplit(images, labels)
    return Dataset("few", split, split, classes, augmented=False)


def rows(split: ImageSplit) -> list[bytes]:
    return [image.contiguous().numpy().tobytes() for image in split.images]


@given(
    count=st.integers(1, 60),
    classes=st.integers(1, 6),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_subset_has_its_images_of_every_class_and_the_whole_validation_split(
    count: int, classes: int, share: float, seed: int
) -> None:
    dataset = few(count, classes)
    images = max(round(share * count), 1)
    subset = dataset.subset(images, seed)
    assert len(subset.train) == images
    assert subset.validation is dataset.validation
    labels = dict(zip(rows(dataset.train), dataset.train.labels.tolist(), strict=True))
    assert len(set(rows(subset.train))) == images
    for row, label in zip(rows(subset.train), subset.train.labels.tolist(), strict=True):
        assert labels[row] == label
    for label in range(classes):
        exact = images * int((dataset.train.labels == label).sum()) / count
        assert abs(int((subset.train.labels == label).sum()) - exact) < 1
    again = dataset.subset(images, seed)
    assert torch.equal(again.train.images, subset.train.images)


@pytest.mark.parametrize("images", [0, 31])
def test_a_subset_of_none_or_of_more_than_all_is_refused(images: int) -> None:
    with pytest.raises(ValueError, match=f"a subset of {images} images .* few has 30"):
        few(30, 3).subset(images, seed=0)


@given(share=st.floats(0, 1), classes=st.integers(2, 10), seed=st.integers(0, 2**63 - 1))
def test_label_noise_makes_its_share_of_the_training_labels_wrong_and_no_other(
    share: float, classes: int, seed: int
) -> None:
    dataset = few(60, classes)
    noisy = dataset.with_label_noise(share, seed)
    wrong = noisy.train.labels != dataset.train.labels
    assert int(wrong.sum()) == round(share * 60)
    assert noisy.train.labels.dtype == torch.int64
    assert bool(((noisy.train.labels >= 0) & (noisy.train.labels < classes)).all())
    assert noisy.train.images is dataset.train.images
    assert noisy.validation is dataset.validation
    again = dataset.with_label_noise(share, seed)
    assert torch.equal(again.train.labels, noisy.train.labels)


def test_wrong_labels_are_spread_over_all_other_classes() -> None:
    labels = torch.zeros(4000, dtype=torch.int64)
    split = ImageSplit(torch.zeros(4000, 1, 2, 2, dtype=torch.uint8), labels)
    dataset = Dataset("one", split, split, classes=5, augmented=False)
    counts = torch.bincount(dataset.with_label_noise(1.0, seed=3).train.labels, minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 850
    assert counts[1:].max() < 1150


def test_label_noise_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share of wrong labels is 1\.5"):
        few(10, 3).with_label_noise(1.5, seed=0)
    with pytest.raises(ValueError, match="one class"):
        few(10, 1).with_label_noise(0.5, seed=0)


def test_a_digest_tells_datasets_apart() -> None:
    dataset = load_dataset(DatasetSettings("digits", train_images=50, validation_images=50))
    labels = dataset.train.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    others = [
        replace(dataset, train=replace(dataset.train, labels=labels)),
        replace(dataset, name="other"),
        replace(dataset, augmented=True),
        dataset.subset(40, seed=0),
        dataset.subset(40, seed=1),
        dataset.with_label_noise(0.2, seed=0),
        dataset.with_label_noise(0.2, seed=1),
    ]
    assert len({dataset.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert dataset.with_label_noise(0.0, seed=0).digest == dataset.digest


def test_a_digest_does_not_depend_on_how_images_lie_in_memory(stripes: Dataset) -> None:
    innermost = stripes.train.images.contiguous(memory_format=torch.channels_last)
    same = replace(stripes, train=replace(stripes.train, images=innermost))
    assert same.digest == stripes.digest
    assert torch.equal(same.mean, stripes.mean)


def test_moments_are_those_of_the_training_images(stripes: Dataset) -> None:
    values = stripes.train.images.double() / 255.0
    mean = values.mean((0, 2, 3))
    deviation = values.std((0, 2, 3), correction=0)
    assert stripes.mean.tolist() == pytest.approx(mean.tolist(), abs=1e-6)
    assert stripes.deviation.tolist() == pytest.approx(deviation.tolist(), abs=1e-6)


def test_images_of_one_colour_do_not_divide_by_zero() -> None:
    split = ImageSplit(torch.full((3, 1, 2, 2), 7, dtype=torch.uint8), torch.zeros(3).long())
    dataset = Dataset("plain", split, split, classes=1, augmented=False)
    assert dataset.mean.item() == pytest.approx(7 / 255)
    assert dataset.deviation.item() > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_is_what_its_indices_name(stripes: Dataset, layout: torch.memory_format) -> None:
    split = replace(stripes.train, images=stripes.train.images.contiguous(memory_format=layout))
    indices = torch.tensor([5, 0, 5, 95])
    images, labels = split.take(indices)
    assert torch.equal(images, stripes.train.images[indices])
    assert torch.equal(labels, stripes.train.labels[indices])
    assert images.is_contiguous(memory_format=torch.channels_last)


def devices() -> list[str]:
    return ["meta", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", devices())
def test_a_dataset_on_a_device_is_still_bytes_and_keeps_its_identity(
    stripes: Dataset, device: str
) -> None:
    moved = stripes.to(device)
    tensors: list[Tensor] = []
    for split in (moved.train, moved.validation):
        tensors += [split.images, split.labels]
    assert {tensor.device.type for tensor in tensors} == {device}
    assert moved.train.images.dtype == torch.uint8
    assert moved.digest == stripes.digest
    assert torch.equal(moved.mean, stripes.mean)
    images, labels = moved.train.take(torch.tensor([1, 2]))
    assert (images.device.type, labels.device.type) == (device, device)


def test_where_a_dataset_is_already_nothing_is_copied(stripes: Dataset) -> None:
    assert stripes.to("cpu").train.images.data_ptr() == stripes.train.images.data_ptr()
