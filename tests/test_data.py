"""Images arrive as they are on disk, are augmented as torchvision would, and unusable input is refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from unlearn_utils import data, image_files, sources
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


@pytest.mark.parametrize(
    "kind, mean, std",
    [
        ("cifar10", (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_named_constants_normalise_whatever_the_images_are(kind, mean, std, load, rng):
    images = load(normalisation=kind)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=rng, dtype=torch.uint8)
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(pixels)
    torch.testing.assert_close(images.normalise(pixels), expected)


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


# --- a folder of images

COLOURS = {"apple": (200, 20, 20), "leaf": (20, 200, 20), "sky": (20, 20, 200)}


def write(path, size=(10, 10), colour=(0, 0, 0), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three classes, four training images (PNG and JPEG) and two test images of each."""
    root = tmp_path / "images"
    for name, colour in COLOURS.items():
        for i in range(4):
            write(root / "train" / name / f"{i}.{'png' if i % 2 else 'jpg'}", colour=colour)
        for i in range(2):
            write(root / "test" / name / f"{i}.PNG", colour=colour)
        (root / "train" / name / "notes.txt").write_text("not an image")
    return root


@pytest.fixture
def load(folder, tmp_path):
    """load(**wishes) -> the folder's data set, read as a new process would."""

    def read(**wishes):
        sources.load.cache_clear()
        wishes = {"image_size": 8, "channels": 3, **wishes}
        return sources.load(Data(source="folder", folder=str(folder), **wishes), tmp_path / "cache")

    return read


def test_a_folder_gives_every_image_the_class_of_its_folder(load):
    images = load()
    assert images.classes == ("apple", "leaf", "sky")
    assert images.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.train.pixels.shape == (12, 3, 8, 8) and images.test.pixels.shape == (6, 3, 8, 8)
    for part in (images.train, images.test):
        expected = torch.tensor(list(COLOURS.values()))[part.labels][:, :, None, None]
        assert (part.pixels.int() - expected).abs().max() <= 6  # JPEG is not exact


def test_one_channel_gives_grey_images_and_three_channels_take_grey_files(load, folder):
    write(folder / "train" / "sky" / "4.png", colour=(90, 90, 90), mode="L")
    grey, colour = load(channels=1), load(channels=3)
    assert grey.train.pixels.shape == (13, 1, 8, 8)
    expected = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in COLOURS.values()]
    assert grey.test.pixels[::2, 0, 0, 0].tolist() == pytest.approx(expected, abs=1)
    assert (colour.train.pixels[-1] == 90).all()


@pytest.mark.parametrize("size", [(30, 12), (5, 9)])
def test_an_image_that_is_not_square_is_resized_and_cut_as_by_torchvision(size, load, folder, rng):
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=rng, dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(folder / "test" / "sky" / "9.png")
    expected = v2.Compose([v2.Resize(8), v2.CenterCrop(8), v2.PILToTensor()])(Image.fromarray(pixels))
    assert torch.equal(load().test.pixels[-1], expected)


def test_the_cache_gives_equal_images_without_decoding_them_again(load, monkeypatch):
    first = load()
    monkeypatch.setattr(image_files, "_decode", lambda *_: pytest.fail("decoded again"))
    second = load()
    assert torch.equal(first.train.pixels, second.train.pixels) and torch.equal(first.test.pixels, second.test.pixels)
    assert torch.equal(first.train.labels, second.train.labels) and first.fingerprint == second.fingerprint


@pytest.mark.parametrize("kept", [0.3])
def test_a_truncated_cache_file_is_built_again(kept, load, tmp_path):
    first = load()
    (cached,) = (tmp_path / "cache").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(whole[: int(kept * len(whole))])
    assert torch.equal(load().train.pixels, first.train.pixels)
    assert cached.read_bytes() == whole


def test_only_the_images_asked_for_are_decoded(load, folder):
    (folder / "train" / "sky" / "3.png").write_bytes(b"broken")
    assert len(load(train_per_class=3).train) == 9


def test_a_class_without_images_is_refused_by_name(load, folder):
    (folder / "train" / "moon").mkdir()
    (folder / "train" / "moon" / "notes.txt").write_text("not an image")
    with pytest.raises(BadInput, match="moon holds no images"):
        load()


def test_a_truncated_image_is_refused_by_name_and_leaves_nothing_in_the_cache(load, folder, tmp_path):
    file = folder / "train" / "leaf" / "1.png"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(BadInput, match="leaf/1.png"):
        load()
    assert not list((tmp_path / "cache").glob("*"))


# --- forget sets


@pytest.mark.parametrize("forget", [(10,), (-1,), (0, 0), ("0",), (), tuple(range(9))])
def test_a_forget_set_names_different_classes_and_leaves_two(forget):
    check_forget_set(tuple(range(8)), 10)
    with pytest.raises(BadInput, match="different classes from 0 to 9|at least two of the 10 classes"):
        check_forget_set(forget, 10)
