from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kasmina.data.dataset import Dataset
from kasmina.training.augmentation import PADDING, Augmentation, normalise


def numbered_images(count: int) -> Tensor:
    """Images of which every pixel is different and none is black: (count, 1, 12, 12)."""
    pixels = torch.arange(1, 145, dtype=torch.uint8).view(1, 1, 12, 12)
    return pixels.repeat(count, 1, 1, 1)


def test_every_result_is_a_shifted_and_perhaps_mirrored_image_with_black_borders() -> None:
    original = numbered_images(1)[0]
    padded = functional.pad(original, [PADDING] * 4)
    possible = {}
    for row in range(2 * PADDING + 1):
        for column in range(2 * PADDING + 1):
            crop = padded[:, row : row + 12, column : column + 12]
            possible[crop.numpy().tobytes()] = (row, column, False)
            possible[crop.flip(2).numpy().tobytes()] = (row, column, True)
    augmented = Augmentation(seed=1)(numbered_images(2000))
    assert augmented.dtype == torch.uint8
    met = {possible[image.contiguous().numpy().tobytes()] for image in augmented}
    assert len(met) == len(possible)


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 9, 14), (3, 14, 9), (4, 1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_of_any_shape_are_cut_out_of_their_own_borders(
    shape: tuple[int, int, int], layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(1, 256, (40, *shape), generator=generator, dtype=torch.uint8)
    augmented = Augmentation(seed=1)(images.contiguous(memory_format=layout))
    assert torch.equal(augmented, Augmentation(seed=1)(images))
    assert augmented.is_contiguous(memory_format=torch.channels_last)
    height, width = shape[1:]
    for image, result in zip(functional.pad(images, [PADDING] * 4), augmented, strict=True):
        crops = image.unfold(1, height, 1).unfold(2, width, 1).permute(1, 2, 0, 3, 4)
        both = torch.cat([crops.flatten(0, 1), crops.flip(4).flatten(0, 1)])
        assert bool((both == result).flatten(1).all(1).any())


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_in_which_none_or_all_are_mirrored_is_whole(count: int) -> None:
    for seed in range(20):
        assert Augmentation(seed)(numbered_images(count)).shape == (count, 1, 12, 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_on_a_gpu_are_augmented_as_on_the_processor(stripes: Dataset) -> None:
    images = stripes.train.images
    there = Augmentation(seed=1)(images.cuda())
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), Augmentation(seed=1)(images))


def test_channels_stay_together() -> None:
    images = numbered_images(50).repeat(1, 3, 1, 1)
    red, green, blue = Augmentation(seed=1)(images).unbind(1)
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


def test_augmentation_draws_from_its_own_generator_and_leaves_the_images_alone() -> None:
    images = numbered_images(20)
    numbers = torch.get_rng_state()
    first = Augmentation(seed=1)(images)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.equal(images, numbered_images(20))
    assert torch.equal(first, Augmentation(seed=1)(images))
    assert not torch.equal(first, Augmentation(seed=2)(images))


def test_augmentation_goes_on_from_a_state() -> None:
    augmentation, later = Augmentation(seed=1), Augmentation(seed=2)
    augmentation(numbered_images(20))
    later.restore(augmentation.state())
    assert torch.equal(augmentation(numbered_images(20)), later(numbered_images(20)))


def test_training_images_are_normal_after_normalisation(stripes: Dataset) -> None:
    images = normalise(stripes.train.images, stripes.mean, stripes.deviation)
    assert images.dtype == torch.float32
    means, deviations = images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0)
    assert means.tolist() == pytest.approx([0.0] * 3, abs=1e-4)
    assert deviations.tolist() == pytest.approx([1.0] * 3, abs=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalisation_leaves_the_bytes_alone_and_puts_channels_innermost(
    stripes: Dataset, layout: torch.memory_format
) -> None:
    images = stripes.train.images.contiguous(memory_format=layout)
    before = images.clone()
    normal = normalise(images, stripes.mean, stripes.deviation)
    assert torch.equal(images, before)
    assert normal.is_contiguous(memory_format=torch.channels_last)
    mean, deviation = (part.double()[:, None, None] for part in (stripes.mean, stripes.deviation))
    expected = (images.double() / 255.0 - mean) / deviation
    torch.testing.assert_close(normal.double(), expected, atol=1e-5, rtol=0)
