"""Images are augmented as by torchvision, and split without overlap."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from unlearn_utils import data, sources
from unlearn_utils.data import augment, check_forget_set
from unlearn_utils.settings import BadInput, Data, Views

DIGITS = Data(source="digits", image_size=8, channels=1)


@pytest.fixture(autouse=True)
def fresh():
    sources.load.cache_clear()


# --- augmentation and normalisation


def torchvision_outputs(image, padding, flip):
    """Every image that pad, crop and flip can make."""
    size = list(image.shape[1:])
    padded = v2.functional.pad(image, [padding] * 4)
    crops = [
        v2.functional.crop(padded, dy, dx, *size) for dy in range(2 * padding + 1) for dx in range(2 * padding + 1)
    ]
    flips = [v2.functional.horizontal_flip(crop) for crop in crops] if flip else []
    return {crop.numpy().tobytes() for crop in crops + flips}


@pytest.mark.parametrize("padding, flip", [(0, False), (2, True)])
def test_augment_makes_the_images_that_torchvision_makes_equally_often(padding, flip, rng):
    image = torch.arange(1, 61, dtype=torch.uint8).view(3, 4, 5)  # no symmetry, and not square
    expected = torchvision_outputs(image, padding, flip)
    per_output = 60
    made = augment(image.repeat(per_output * len(expected), 1, 1, 1), padding, flip, rng)
    counts = {}
    for one in made:
        key = one.numpy().tobytes()
        counts[key] = counts.get(key, 0) + 1
    assert set(counts) == expected
    assert made.shape[1:] == image.shape and made.dtype == torch.uint8
    chi_square = sum((n - per_output) ** 2 / per_output for n in counts.values())
    freedom = max(1, len(expected) - 1)
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_augment_gives_each_image_of_a_batch_a_draw_of_its_own_and_keeps_their_order(rng):
    images = torch.stack([torch.full((1, 6, 6), 10 * i, dtype=torch.uint8) for i in range(1, 21)])
    images += torch.arange(6, dtype=torch.uint8)  # a gradient that tells shifts and flips apart
    made = augment(images, 2, True, rng)
    for before, after in zip(images, made):
        assert after.numpy().tobytes() in torchvision_outputs(before, 2, True)
    shifts = {tuple((m.int() - 10 * i).flatten().clamp(-1).tolist()) for i, m in enumerate(made, 1)}
    assert len(shifts) > 5


def test_batches_are_one_shuffled_epoch_with_the_labels_that_belong_to_the_images(dataset, rng):
    plain = data.replace(dataset, views=Views())
    drawn = list(plain.batches(plain.train, 10, rng))
    x, y = torch.cat([x for x, _ in drawn]), torch.cat([y for _, y in drawn])
    assert [len(b) for b, _ in drawn] == [10] * 4 + [8]
    assert y.tolist() != plain.train.labels.tolist()
    pairs = lambda x, y: sorted(zip(y.tolist(), x.flatten(1).tolist()))  # noqa: E731
    assert pairs(x, y) == pairs(plain.normalise(plain.train.pixels), plain.train.labels)


def test_normalise_equals_torchvision(rng):
    pixels = torch.randint(0, 256, (9, 3, 5, 5), generator=rng, dtype=torch.uint8)
    mean, std = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.3])
    ours = data.Dataset(None, None, (), mean, std, Views(), "").normalise(pixels)
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(pixels)
    torch.testing.assert_close(ours, expected)


# --- digits and splits


def test_digits_are_all_there_once_in_balanced_classes(tmp_path):
    from sklearn.datasets import load_digits

    digits = sources.load(DIGITS, tmp_path)
    parts = (digits.train, digits.test)
    assert [tuple(part.pixels.shape[1:]) for part in parts] == [(1, 8, 8)] * 2
    assert [part.pixels.dtype for part in parts] == [torch.uint8] * 2
    assert [len(part) for part in parts] == [1078, 719] and digits.classes == tuple("0123456789")
    for part in parts:
        share = torch.bincount(part.labels).double() / len(part)
        assert share.min() > 0.09 and share.max() < 0.11
    # Every image of the bundle once, with its label: so train and test are disjoint.
    grey = np.round(load_digits().images / 16 * 255).astype(np.uint8)
    expected = sorted(zip(load_digits().target.tolist(), (g.tobytes() for g in grey)))
    found = [(y, x.numpy().tobytes()) for part in parts for x, y in zip(part.pixels, part.labels.tolist())]
    assert sorted(found) == expected


def test_the_fingerprint_is_stable_and_changes_with_the_images(tmp_path):
    first = sources.load(DIGITS, tmp_path).fingerprint
    sources.load.cache_clear()
    assert sources.load(DIGITS, tmp_path).fingerprint == first
    assert sources.load(data.replace(DIGITS, train_per_class=50), tmp_path).fingerprint != first


def test_validation_images_are_a_fifth_of_each_class_of_the_training_images(tmp_path):
    whole = sources.load(DIGITS, tmp_path).train
    split = sources.load(data.replace(DIGITS, evaluate_on="validation"), tmp_path)
    as_list = lambda images: sorted(zip(images.labels.tolist(), images.pixels.flatten(1).tolist()))  # noqa: E731
    assert sorted(as_list(split.train) + as_list(split.test)) == as_list(whole)
    counts = torch.bincount(whole.labels)
    assert torch.equal(torch.bincount(split.test.labels), -(-counts // 5))


def test_limits_keep_the_first_images_of_each_class(tmp_path):
    whole = sources.load(DIGITS, tmp_path)
    few = sources.load(data.replace(DIGITS, train_per_class=7, test_per_class=3), tmp_path)
    for part, all_of_it, n in ((few.train, whole.train, 7), (few.test, whole.test, 3)):
        expected = [x for c in range(10) for x in all_of_it.pixels[all_of_it.labels == c][:n]]
        assert torch.equal(part.pixels, torch.stack(expected))
        assert part.labels.tolist() == [c for c in range(10) for _ in range(n)]


# --- images that are enlarged on the device


def ramp(side):
    """Colour images (5, 3, side, side) without symmetry."""
    return torch.randint(0, 256, (5, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("side, enlarged, size", [(32, 256, 224), (8, 12, 9)])
def test_a_window_is_torchvisions_resize_and_crop(side, enlarged, size, rng):
    pixels = ramp(side)
    offset = torch.randint(enlarged - size + 1, (5, 2), generator=rng)
    made = data.window(pixels, offset, enlarged, size)
    for image, (top, left), ours in zip(pixels, offset.tolist(), made):
        expected = v2.functional.crop(v2.functional.resize(image.float(), [enlarged]), top, left, size, size)
        torch.testing.assert_close(ours, expected, atol=0.05, rtol=0)


def test_a_resized_box_is_torchvisions_resized_crop():
    pixels = ramp(64)
    boxes = torch.tensor([[0, 0, 64, 64], [5, 9, 20, 31], [40, 40, 24, 24], [63, 0, 1, 5], [10, 20, 30, 8]])
    for image, box, ours in zip(pixels, boxes.tolist(), data.resized_boxes(pixels, boxes, 224)):
        expected = v2.functional.resized_crop(image.float(), *box, [224, 224])
        torch.testing.assert_close(ours, expected, atol=0.05, rtol=0)


def test_random_boxes_are_distributed_as_torchvisions(rng):
    images = torch.zeros(4000, 1, 64, 64, dtype=torch.uint8)
    ours = data.random_boxes(images, rng)
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(224)
    drawn = [transform.make_params([images[0]]) for _ in range(4000)]
    theirs = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    assert (ours >= 0).all() and (ours[:, :2] + ours[:, 2:] <= 64).all() and (ours[:, 2:] >= 1).all()
    for a, b in zip(ours.T.double(), theirs.T.double()):
        assert (a.mean() - b.mean()).abs() < 4 * (2 * b.var() / 4000).sqrt()
        assert abs(a.std() / b.std() - 1) < 0.08


def test_a_network_sees_the_centre_in_testing_and_a_window_of_its_own_in_training(rng):
    views = Views(enlarge_to=256, crop_to=224, flip=True)
    seen = data.Dataset(None, None, (), torch.zeros(3), torch.ones(3), views, "")
    pixels = ramp(32)
    expected = v2.functional.center_crop(v2.functional.resize(pixels.float(), [256]), [224]) / 255
    torch.testing.assert_close(seen.test_view(pixels), expected, atol=2e-4, rtol=0)
    first, second = (seen.training_view(pixels, rng) for _ in range(2))
    assert first.shape == (5, 3, 224, 224) and not torch.equal(first, second)


# --- forget sets


@pytest.mark.parametrize("forget", [(10,), (-1,), (0, 0), ("0",), (), tuple(range(9))])
def test_a_forget_set_names_different_classes_and_leaves_two(forget):
    check_forget_set(tuple(range(8)), 10)
    with pytest.raises(BadInput, match="different classes from 0 to 9|at least two of the 10 classes"):
        check_forget_set(forget, 10)
