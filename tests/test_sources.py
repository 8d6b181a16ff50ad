"""Data sets in their archives' true format, made here in miniature; what is damaged is refused with one sentence."""

import hashlib
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from unlearn_utils import image_files, sources
from unlearn_utils.settings import BadInput, Data


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    sources.load.cache_clear()
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return md5(path)


@pytest.fixture
def cifar10(tmp_path, pixels, monkeypatch):
    """Six training and six test images of three classes, as the unpacked archive holds them."""
    folder = tmp_path / "cifar-10-batches-py"
    flat = pixels.reshape(12, -1)
    sums = {
        "data_batch_1": write(folder / "data_batch_1", {"data": flat[:6], "labels": [0, 1, 2, 2, 1, 0]}),
        "test_batch": write(folder / "test_batch", {"data": flat[6:], "labels": [2, 1, 0, 0, 1, 2]}),
        "batches.meta": write(folder / "batches.meta", {"label_names": ["airplane", "cat", "ship"]}),
    }
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    )
    return Data(source="cifar10", image_size=32, channels=3, folder=str(tmp_path)), folder


def test_cifar10_is_read_from_its_batches(cifar10, pixels, tmp_path):
    dataset = sources.load(cifar10[0], tmp_path / "cache")
    assert torch.equal(dataset.train.pixels, torch.from_numpy(pixels[:6]))
    assert torch.equal(dataset.test.pixels, torch.from_numpy(pixels[6:]))
    assert dataset.train.labels.tolist() == [0, 1, 2, 2, 1, 0] and dataset.test.labels.tolist() == [2, 1, 0, 0, 1, 2]
    assert dataset.classes == ("airplane", "cat", "ship") and dataset.groups == {}


def test_a_batch_file_with_a_wrong_checksum_is_not_believed(cifar10, tmp_path):
    data, folder = cifar10
    damaged = bytearray((folder / "data_batch_1").read_bytes())
    damaged[-200] ^= 1
    (folder / "data_batch_1").write_bytes(damaged)
    with pytest.raises(BadInput, match="cifar10 is not complete and intact in .*no network.*--data-dir"):
        sources.load(data, tmp_path / "cache")


def test_a_truncated_archive_is_not_unpacked(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b truncated")
    data = Data(source="cifar10", image_size=32, channels=3, folder=str(tmp_path))
    with pytest.raises(BadInput, match="cifar10 is not complete and intact"):
        sources.load(data, tmp_path / "cache")
    assert not (tmp_path / "cifar-10-batches-py").exists()


def test_cifar100_brings_its_coarse_classes(tmp_path, pixels, monkeypatch):
    folder, flat = tmp_path / "cifar-100-python", pixels.reshape(12, -1)
    fine, coarse = [0, 1, 2, 3, 0, 1], [1, 0, 1, 0, 1, 0]
    sums = {
        name: write(folder / name, {"data": part, "fine_labels": fine, "coarse_labels": coarse})
        for name, part in (("train", flat[:6]), ("test", flat[6:]))
    }
    meta = {"fine_label_names": ["apple", "beaver", "pear", "otter"], "coarse_label_names": ["mammals", "fruit"]}
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    key = {"filename": "meta", "key": "fine_label_names", "md5": write(folder / "meta", meta)}
    monkeypatch.setattr(datasets.CIFAR100, "meta", key)
    dataset = sources.load(Data(source="cifar100", image_size=32, channels=3, folder=str(tmp_path)), tmp_path / "cache")
    assert dataset.classes == ("apple", "beaver", "pear", "otter")
    assert dataset.groups == {"mammals": (1, 3), "fruit": (0, 2)}


@pytest.fixture
def fashion(tmp_path):
    """Fashion-MNIST's four files: a header of sizes, then bytes."""
    raw, images = (
        tmp_path / "FashionMNIST" / "raw",
        np.random.default_rng(1).integers(0, 256, (9, 28, 28), dtype=np.uint8),
    )
    labels = np.arange(9, dtype=np.uint8)
    for name in ("train", "t10k"):
        write(raw / f"{name}-images-idx3-ubyte", struct.pack(">4i", 2051, 9, 28, 28) + images.tobytes())
        write(raw / f"{name}-labels-idx1-ubyte", struct.pack(">2i", 2049, 9) + labels.tobytes())
    return Data(source="fashion_mnist", image_size=28, channels=1, folder=str(tmp_path)), raw, images


def test_fashion_mnist_is_read_from_its_files(fashion, tmp_path):
    dataset = sources.load(fashion[0], tmp_path / "cache")
    assert torch.equal(dataset.train.pixels, torch.from_numpy(fashion[2])[:, None])
    assert dataset.test.labels.tolist() == list(range(9)) and dataset.classes[9] == "Ankle boot"


@pytest.mark.parametrize("name, cut", [("train-images-idx3-ubyte", 1000), ("t10k-labels-idx1-ubyte", 12)])
def test_a_truncated_fashion_mnist_file_is_refused(fashion, tmp_path, name, cut):
    data, raw, _ = fashion
    (raw / name).write_bytes((raw / name).read_bytes()[:cut])
    with pytest.raises(BadInput, match="fashion_mnist"):
        sources.load(data, tmp_path / "cache")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A Tiny-ImageNet archive of three classes, two of which share their first word."""

    def image(value):
        file = tmp_path / "one.JPEG"
        Image.new("RGB", (64, 64), (value,) * 3).save(file)
        return file.read_bytes()

    home, archive = "tiny-imagenet-200", tmp_path / "made" / "tiny-imagenet-200.zip"
    archive.parent.mkdir()
    names = ["n03", "n01", "n02"]
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(f"{home}/wnids.txt", "\n".join(names))
        packed.writestr(f"{home}/words.txt", "n01\tgoldfish, Carassius\nn02\tcrane\nn03\tcrane, bird\nn09\tother")
        for i, name in enumerate(sorted(names)):
            for j in range(2):
                packed.writestr(f"{home}/train/{name}/images/{name}_{j}.JPEG", image(40 * i + 10 * j))
            packed.writestr(f"{home}/val/images/val_{2 - i}.JPEG", image(200 + 10 * i))
        listed = [f"val_{2 - i}.JPEG\t{name}\t0\t0\t62\t62" for i, name in enumerate(sorted(names))]
        packed.writestr(f"{home}/val/val_annotations.txt", "\n".join(listed))
        packed.writestr("../outside.txt", "must not leave the folder")
    monkeypatch.setattr(sources, "TINY_IMAGENET", ("http://nowhere/tiny-imagenet-200.zip", md5(archive)))
    root = tmp_path / "data"
    root.mkdir()
    return Data(source="tiny_imagenet", image_size=64, channels=3, folder=str(root)), archive, root


def test_tiny_imagenet_takes_the_classes_of_its_test_images_from_the_list(tiny, tmp_path):
    data, archive, root = tiny
    (root / archive.name).write_bytes(archive.read_bytes())
    dataset = sources.load(data, tmp_path / "cache")
    assert dataset.classes == ("goldfish", "crane (n02)", "crane (n03)")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2, 2] and dataset.test.labels.tolist() == [0, 1, 2]
    assert [int(x) for x in dataset.test.pixels[:, 0, 0, 0]] == [200, 210, 220]
    assert sorted(p.name for p in root.iterdir()) == ["tiny-imagenet-200", "tiny-imagenet-200.zip"]


def test_an_archive_writes_nothing_outside_its_folder(tiny, tmp_path):
    data, archive, root = tiny
    (root / archive.name).write_bytes(archive.read_bytes())
    sources.load(data, tmp_path / "cache")
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_wrong_tiny_imagenet_archive_is_refused_and_nothing_is_unpacked(tiny, tmp_path):
    data, archive, root = tiny
    (root / archive.name).write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(BadInput, match="tiny_imagenet is not complete and intact"):
        sources.load(data, tmp_path / "cache")
    assert not (root / "tiny-imagenet-200").exists()


def test_an_incomplete_tiny_imagenet_is_refused_by_name(tiny, tmp_path):
    data, archive, root = tiny
    (root / archive.name).write_bytes(archive.read_bytes())
    sources.load(data, tmp_path / "cache")
    sources.load.cache_clear()
    (root / "tiny-imagenet-200" / "val" / "val_annotations.txt").unlink()
    with pytest.raises(BadInput, match="not a complete Tiny-ImageNet"):
        sources.load(data, tmp_path / "cache")


def test_class_folders_may_stand_in_for_an_archive(tmp_path):
    for part in ("train", "test"):
        for value, name in enumerate(("a", "b", "c")):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), (value,) * 3).save(tmp_path / part / name / "0.png")
    dataset = sources.load(Data(source="cifar10", image_size=32, channels=3, folder=str(tmp_path)), tmp_path / "cache")
    assert dataset.classes == ("a", "b", "c")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BadInput, match="cifar10 is not complete .*Not a directory|File exists"):
        sources.load(
            Data(source="cifar10", image_size=32, channels=3, folder=str(tmp_path / "file" / "x")), tmp_path / "cache"
        )


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    for part in ("train", "test"):
        for name in "abc":
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / part / name / "0.png")

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_files, "save_file", full)
    with pytest.raises(BadInput, match="cannot be kept in .*No space left"):
        sources.load(Data(source="folder", image_size=8, channels=1, folder=str(tmp_path)), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.fixture
def folder(tmp_path):
    """Three classes of one image each, and the data of a profile that reads them."""
    root = tmp_path / "images"
    for part in ("train", "test"):
        for value, name in enumerate("abc"):
            (root / part / name).mkdir(parents=True)
            Image.new("L", (8, 8), 50 * value).save(root / part / name / "0.png")
    return root, Data(source="folder", image_size=8, channels=1, folder=str(root))


@pytest.mark.parametrize("name", ["1.gif", "1.HEIC", "1.avif", "1.svg"])
def test_a_picture_of_a_kind_that_cannot_be_read_is_named_and_not_left_out(folder, tmp_path, name):
    (folder[0] / "train" / "b" / name).write_bytes(b"GIF89a")
    with pytest.raises(BadInput, match=f"train/b/{name} is an image of another kind than .jpg.*; convert it"):
        sources.load(folder[1], tmp_path / "cache")


def test_a_pipe_among_the_images_is_named_and_not_waited_for(folder, tmp_path):
    os.mkfifo(folder[0] / "train" / "b" / "1.png")
    with pytest.raises(BadInput, match="b/1.png cannot be read as an image .it is no file.; replace it or take it out"):
        sources.load(folder[1], tmp_path / "cache")


def test_a_link_that_leads_nowhere_is_named_when_the_folder_is_looked_at(folder):
    (folder[0] / "train" / "b" / "gone.png").symlink_to("nowhere")
    with pytest.raises(BadInput, match="b/gone.png cannot be read .No such file or directory.; mend it or take it out"):
        sources.stamp(folder[1])


@pytest.mark.parametrize("pixels", [60, 30])  # more than the limit, and more than twice the limit
def test_an_image_that_unpacks_to_a_giant_is_named(folder, tmp_path, monkeypatch, recwarn, pixels):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with pytest.raises(BadInput, match="a/0.png cannot be read as an image .*pixels.*; replace it or take it out"):
        sources.load(folder[1], tmp_path / "cache")
    assert not recwarn


def test_another_decoder_does_not_find_the_old_ones_images(folder, tmp_path, monkeypatch):
    sources.load(folder[1], tmp_path / "cache")
    sources.load.cache_clear()
    monkeypatch.setattr(image_files, "DECODER", image_files.DECODER.replace("center_crop", "random_crop"))
    monkeypatch.setattr(image_files, "_decode", lambda file, data: torch.full((1, 8, 8), 7, dtype=torch.uint8))
    assert (sources.load(folder[1], tmp_path / "cache").train.pixels == 7).all()


# --- class folders: one reader, for profiles and for evaluate


def laid_out(root, places, side=8):
    for i, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (side, side), 20 * i).save(root / place, "png")
    return root


def both(root, tmp_path):
    """What the profile's reader and that of the shell give: classes, training pixels, labels."""
    dataset = sources.load(Data(source="folder", image_size=8, channels=1, folder=str(root)), tmp_path / "cache")
    files, names = image_files.class_folders(root)
    images = image_files.FolderImages(files["train"], names, 8, 1)
    pixels = torch.stack([images[i][0] for i in range(len(images))])
    assert names == dataset.classes and torch.equal(pixels, dataset.train.pixels / 255)
    assert [images[i][1] for i in range(len(images))] == dataset.train.labels.tolist()
    return list(names), dataset.train.labels.tolist(), (dataset.train.pixels[:, 0, 0, 0] // 20).tolist()


def test_both_readers_leave_out_what_systems_leave_behind_and_go_to_any_depth(tmp_path, capsys):
    root = laid_out(
        tmp_path / "images",
        [
            "train/a/0.png",
            "train/a/images/1.png",
            "train/a/deep/er/2.png",
            "train/b/images/3.png",
            "train/c/without",
            "train/c/5.png",
            "test/a/0.png",
            "test/b/0.png",
            "test/c/0.png",
            "train/.ipynb_checkpoints/0.png",
            "train/a/.ipynb_checkpoints/0.png",
            "train/b/._3.png",
            "train/__MACOSX/b/0.png",
            "train/preview.png",
        ],
    )
    (root / "train" / "a" / "a_boxes.txt").write_text("0 0 8 8")
    assert both(root, tmp_path) == (["a", "b", "c"], [0, 0, 0, 1, 2, 2], [0, 2, 1, 3, 5, 4])
    assert "1 images beside the class folders, like preview.png, are left out" in capsys.readouterr().out


def test_numbers_are_in_numeric_order_and_val_serves_for_test(tmp_path):
    names = ["0", "1", "2", "10", "11"]
    root = laid_out(tmp_path / "images", [f"{part}/{name}/0.png" for part in ("train", "val") for name in names])
    assert both(root, tmp_path) == (names, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])


def test_sixteen_bits_are_refused_and_not_white(folder, tmp_path):
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(folder[0] / "train" / "b" / "0.png")
    with pytest.raises(BadInput, match="8 bits per channel"):
        sources.load(folder[1], tmp_path / "cache")
    files, names = image_files.class_folders(folder[0])
    with pytest.raises(BadInput, match="b/0.png cannot be read as an image.*8 bits per channel"):
        image_files.FolderImages(files["train"], names, 8, 3)[1]


def test_a_tiny_imagenet_as_it_is_unpacked_is_read_by_its_list(tiny, tmp_path):
    data, archive, root = tiny
    (root / archive.name).write_bytes(archive.read_bytes())
    sources.load(data, tmp_path / "cache")
    files, names = image_files.class_folders(root / "tiny-imagenet-200")
    assert names == ("goldfish", "crane (n02)", "crane (n03)") and [
        len(listed) for listed in files["test"].values()
    ] == [1, 1, 1]
