"""Data sets in their true format, made here in miniature; what is damaged is refused with one sentence."""

import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from unlearn_utils import image_files, sources
from unlearn_utils.settings import BadInput, Data

CIFAR = {"image_size": 32, "channels": 3}
COLOURS = {"a": (200, 20, 20), "b": (20, 200, 20), "c": (20, 20, 200)}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


@pytest.fixture
def load(root, tmp_path):
    """load(source, **wishes) -> the data set in ``root``, read as a new process would."""

    def read(source="folder", **wishes):
        sources.load.cache_clear()
        wishes = {"image_size": 8, "channels": 1, "folder": str(root)} | wishes
        return sources.load(Data(source=source, **wishes), tmp_path / "cache")

    return read


# --- what torchvision downloads


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)


def write(path, content):
    """Write a file and give its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar10_is_read_from_its_batches_and_one_with_a_wrong_checksum_is_not_believed(
    root, pixels, monkeypatch, load
):
    folder, flat = root / "cifar-10-batches-py", pixels.reshape(12, -1)
    train = write(folder / "data_batch_1", {"data": flat[:6], "labels": [0, 1, 2, 2, 1, 0]})
    test = write(folder / "test_batch", {"data": flat[6:], "labels": [2, 1, 0, 0, 1, 2]})
    meta = write(folder / "batches.meta", {"label_names": ["airplane", "cat", "ship"]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", test]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    dataset = load("cifar10", **CIFAR)
    assert torch.equal(dataset.train.pixels, torch.from_numpy(pixels[:6]))
    assert torch.equal(dataset.test.pixels, torch.from_numpy(pixels[6:]))
    assert dataset.train.labels.tolist() == [0, 1, 2, 2, 1, 0] and dataset.test.labels.tolist() == [2, 1, 0, 0, 1, 2]
    assert dataset.classes == ("airplane", "cat", "ship") and dataset.groups == {}
    damaged = bytearray((folder / "data_batch_1").read_bytes())
    damaged[-200] ^= 1
    (folder / "data_batch_1").write_bytes(damaged)
    with pytest.raises(BadInput, match="cifar10 is not complete and intact in .*no network.*--data-dir"):
        load("cifar10", **CIFAR)


def test_cifar100_brings_its_coarse_classes(root, pixels, monkeypatch, load):
    folder, flat = root / "cifar-100-python", pixels.reshape(12, -1)
    fine, coarse = [0, 1, 2, 3, 0, 1], [1, 0, 1, 0, 1, 0]
    for name, part in (("train", flat[:6]), ("test", flat[6:])):
        checksum = write(folder / name, {"data": part, "fine_labels": fine, "coarse_labels": coarse})
        monkeypatch.setattr(datasets.CIFAR100, f"{name}_list", [[name, checksum]])
    meta = {"fine_label_names": ["apple", "beaver", "pear", "otter"], "coarse_label_names": ["mammals", "fruit"]}
    key = {"filename": "meta", "key": "fine_label_names", "md5": write(folder / "meta", meta)}
    monkeypatch.setattr(datasets.CIFAR100, "meta", key)
    dataset = load("cifar100", **CIFAR)
    assert dataset.classes == ("apple", "beaver", "pear", "otter")
    assert dataset.groups == {"mammals": (1, 3), "fruit": (0, 2)}


def test_fashion_mnist_is_read_from_its_files_and_a_truncated_one_is_refused(root, load):
    """Four files: a header of sizes, then bytes."""
    raw = root / "FashionMNIST" / "raw"
    images = np.random.default_rng(1).integers(0, 256, (9, 28, 28), dtype=np.uint8)
    for name in ("train", "t10k"):
        write(raw / f"{name}-images-idx3-ubyte", struct.pack(">4i", 2051, 9, 28, 28) + images.tobytes())
        write(raw / f"{name}-labels-idx1-ubyte", struct.pack(">2i", 2049, 9) + bytes(range(9)))
    dataset = load("fashion_mnist", image_size=28)
    assert torch.equal(dataset.train.pixels, torch.from_numpy(images)[:, None])
    assert dataset.test.labels.tolist() == list(range(9)) and dataset.classes[9] == "Ankle boot"
    labels = raw / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:12])
    with pytest.raises(BadInput, match="fashion_mnist"):
        load("fashion_mnist", image_size=28)


def test_a_truncated_archive_is_not_unpacked_and_a_place_that_cannot_be_written_is_named(root, load):
    write(root / "cifar-10-python.tar.gz", b"\x1f\x8b truncated")
    with pytest.raises(BadInput, match="cifar10 is not complete and intact"):
        load("cifar10", **CIFAR)
    assert not (root / "cifar-10-batches-py").exists()
    with pytest.raises(BadInput, match="cifar10 is not complete .*Not a directory"):
        load("cifar10", folder=str(root / "cifar-10-python.tar.gz" / "x"), **CIFAR)


# --- class folders


def picture(path, colour, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path, None if path.suffix else "png")


@pytest.fixture
def folder(root):
    """Three classes, two training images (PNG and JPEG) and one test image of each."""
    for name, colour in COLOURS.items():
        for file in ("train/{}/0.png", "train/{}/1.jpg", "test/{}/0.PNG"):
            picture(root / file.format(name), colour)
        (root / "train" / name / "notes.txt").write_text("not an image")
    return root


@pytest.mark.parametrize("source", ["folder", "cifar10"])
def test_a_folder_gives_every_image_the_class_of_its_folder_and_may_stand_in_for_an_archive(source, folder, load):
    images = load(source, channels=3)
    assert images.classes == ("a", "b", "c")
    assert images.train.labels.tolist() == [0, 0, 1, 1, 2, 2] and images.test.labels.tolist() == [0, 1, 2]
    for part in (images.train, images.test):
        expected = torch.tensor(list(COLOURS.values()))[part.labels][:, :, None, None].expand(-1, -1, 8, 8)
        assert (part.pixels.int() - expected).abs().max() <= 6  # JPEG is not exact


def test_one_channel_gives_grey_images_and_three_channels_take_grey_files(load, folder):
    picture(folder / "train" / "c" / "4.png", 90)
    grey, colour = load(channels=1), load(channels=3)
    assert grey.train.pixels.shape == (7, 1, 8, 8)
    expected = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in COLOURS.values()]
    assert grey.test.pixels[:, 0, 0, 0].tolist() == pytest.approx(expected, abs=1)
    assert (colour.train.pixels[-1] == 90).all()


def test_named_constants_normalise_whatever_the_images_are(folder, load):
    images, imagenet = load(channels=3, normalisation="imagenet"), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*imagenet)])(images.train.pixels)
    torch.testing.assert_close(images.normalise(images.train.pixels), expected)


@pytest.mark.parametrize("size", [(30, 12), (5, 9)])
def test_an_image_that_is_not_square_is_resized_and_cut_as_by_torchvision(size, load, folder, rng):
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=rng, dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(folder / "test" / "c" / "9.png")
    expected = v2.Compose([v2.Resize(8), v2.CenterCrop(8), v2.PILToTensor()])(Image.fromarray(pixels))
    assert torch.equal(load(channels=3).test.pixels[-1], expected)


def test_the_cache_gives_equal_images_and_is_built_again_where_it_is_damaged_or_of_another_decoder(
    folder, load, tmp_path, monkeypatch
):
    first = load()
    (cached,) = (tmp_path / "cache").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(whole[: len(whole) // 3])
    assert torch.equal(load().train.pixels, first.train.pixels) and cached.read_bytes() == whole
    monkeypatch.setattr(image_files, "_decode", lambda file, data: torch.full((1, 8, 8), 7, dtype=torch.uint8))
    assert torch.equal(load().train.pixels, first.train.pixels) and load().fingerprint == first.fingerprint
    monkeypatch.setattr(image_files, "DECODER", image_files.DECODER.replace("center_crop", "random_crop"))
    assert (load().train.pixels == 7).all()


def test_only_the_images_asked_for_are_decoded(load, folder):
    (folder / "train" / "c" / "1.jpg").write_bytes(b"broken")
    assert len(load(train_per_class=1).train) == 3


def test_a_full_disk_is_named_and_leaves_nothing_half_written(folder, load, tmp_path, monkeypatch):
    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_files, "save_file", full)
    with pytest.raises(BadInput, match="cannot be kept in .*No space left"):
        load()
    assert not list((tmp_path / "cache").iterdir())


def sixteen_bits(file):
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(file)


REASON = "train/b/{name} cannot be read as an image .*{}.*; replace it or take it out"


@pytest.mark.parametrize("name, spoil, said", [
    ("1.gif", lambda file: file.write_bytes(b"GIF89a"), "{name} is an image of another kind than .jpg.*; convert it"),
    ("1.svg", lambda file: file.write_bytes(b"<svg/>"), "{name} is an image of another kind than .jpg.*; convert it"),
    ("2.png", os.mkfifo, REASON.replace("{}", "it is no file")),  # which is not waited for
    ("0.png", lambda file: file.write_bytes(file.read_bytes()[:50]), REASON.replace("{}", "")),
    ("0.png", sixteen_bits, REASON.replace("{}", "8 bits per channel")),  # which would be white
    ("0.png", lambda file: picture(file, 9, (20, 5)), REASON.replace("{}", "pixels")),  # more than the limit of 80
    ("0.png", lambda file: picture(file, 9, (20, 9)), REASON.replace("{}", "pixels")),  # more than twice the limit
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_named_and_not_left_out(
    name, spoil, said, folder, load, tmp_path, monkeypatch, recwarn
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    spoil(folder / "train" / "b" / name)
    with pytest.raises(BadInput, match=said.replace("{name}", name)):
        load()
    assert not recwarn and not list((tmp_path / "cache").glob("*"))


def test_a_class_without_images_and_a_link_that_leads_nowhere_are_named(folder, load):
    (folder / "train" / "moon").mkdir()
    with pytest.raises(BadInput, match="moon holds no images"):
        load()
    (folder / "train" / "moon").rmdir()
    (folder / "train" / "b" / ".#notes").symlink_to("nowhere")  # which editors leave
    load()
    (folder / "train" / "b" / "gone.png").symlink_to("nowhere")
    with pytest.raises(BadInput, match="b/gone.png cannot be read .No such file or directory.; mend it or take it out"):
        load()


# --- one reader, for profiles and for evaluate


def both(root, load):
    """What the profile's reader and that of the shell give: classes, labels and grey values of training images."""
    dataset, (files, names) = load(), image_files.class_folders(root)
    images = image_files.FolderImages(files["train"], names, 8, 1)
    pixels = torch.stack([images[i][0] for i in range(len(images))])
    assert names == dataset.classes and torch.equal(pixels, dataset.train.pixels / 255)
    assert [images[i][1] for i in range(len(images))] == dataset.train.labels.tolist()
    return list(names), dataset.train.labels.tolist(), dataset.train.pixels[:, 0, 0, 0].tolist()


def test_both_readers_leave_out_what_systems_leave_behind_and_go_to_any_depth(root, load, capsys):
    kept = ["a/0.png", "a/deep/er/2.png", "a/images/1.png", "b/images/3.png", "c/5.png", "c/without"]
    left = [".ipynb_checkpoints/0.png", "a/.ipynb_checkpoints/0.png", "b/._3.png", "__MACOSX/b/0.png", "preview.png"]
    for grey, place in enumerate([*kept, *left]):
        picture(root / "train" / place, grey)
    for name in "abc":
        picture(root / "test" / name / "0.png", 0)
    (root / "train" / "a" / "a_boxes.txt").write_text("0 0 8 8")
    assert both(root, load) == (["a", "b", "c"], [0, 0, 0, 1, 2, 2], list(range(6)))
    assert "1 images beside the class folders, like preview.png, are left out" in capsys.readouterr().out


def test_numbers_are_in_numeric_order_and_val_serves_for_test(root, load):
    names = ["0", "1", "2", "10", "11"]
    for grey, name in enumerate(names):
        for part in ("train", "val"):
            picture(root / part / name / "0.png", grey)
    assert both(root, load) == (names, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])


def test_tiny_imagenet_takes_the_classes_of_its_test_images_from_its_list_and_is_refused_where_that_is_missing(
    root, load
):
    for i, name in enumerate(("n01", "n02", "n03")):
        picture(root / "train" / name / "images" / f"{name}_0.JPEG", 40 * i)
        picture(root / "val" / "images" / f"val_{2 - i}.JPEG", 200 + 10 * i)
    (root / "wnids.txt").write_text("n03\nn01\nn02")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tcrane\nn03\tcrane, bird\nn09\tother")
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text("\n".join(f"val_{2 - i}.JPEG\tn0{i + 1}\t0\t0\t62\t62" for i in range(3)))
    assert both(root, load) == (["goldfish", "crane (n02)", "crane (n03)"], [0, 1, 2], [0, 40, 80])
    assert load().test.pixels[:, 0, 0, 0].tolist() == [200, 210, 220]
    annotations.unlink()
    with pytest.raises(BadInput, match="not a complete Tiny-ImageNet"):
        load()
