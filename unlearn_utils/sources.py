"""Where images come from: bundled, downloaded by torchvision, or any folder of class folders.

What is loaded counts by the fingerprint of its pixels and labels, wherever it came from.
"""

from __future__ import annotations

import hashlib
import inspect
import mimetypes
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import settings
from .data import Dataset, Images
from .paths import ROOT, expanded
from .settings import BadInput

TORCHVISION = {"fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
TINY_IMAGENET = ("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")
CONSTANTS = {  # mean and standard deviation per channel; the official code takes CIFAR-10's for CIFAR-100 too
    "cifar10": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

Files = dict[str, dict[str, list[Path]]]  # files[part][class]
Groups = dict[str, tuple[int, ...]]
Loaded = tuple[Images, Images, tuple[str, ...], Groups]  # training and test images, classes, coarse classes


@lru_cache(maxsize=4)
def load(data: settings.Data, cache: Path) -> Dataset:
    """Load the data set of a profile; decoded image files are kept in the folder ``cache``.

    Raises BadInput when the data cannot be downloaded, read or kept.
    """
    sources = {"digits": _digits, **dict.fromkeys(TORCHVISION, _torchvision), "tiny_imagenet": _tiny_imagenet}
    if data.source == "folder" and not data.folder:
        raise BadInput("this profile has no images of its own: name your folder with --data-dir.")
    in_class_folders = data.source == "folder" or data.folder and (folder_of(data) / "test").is_dir()
    train, test, classes, groups = (_folder if in_class_folders else sources[data.source])(data, cache)
    if data.evaluate_on == "validation":
        train, test = _hold_out(train)
    if data.train_per_class:
        train = train.first_per_class(data.train_per_class)
    if data.test_per_class:
        test = test.first_per_class(data.test_per_class)
    digest = hashlib.sha256()
    for part in (train.pixels, train.labels, test.pixels, test.labels):
        digest.update(str(tuple(part.shape)).encode())
        digest.update(part.contiguous().numpy().tobytes())
    mean, std = _normalisation(train.pixels, data.views.normalisation)
    return Dataset(train, test, classes, mean, std, data.views, digest.hexdigest()[:16], groups)


def stamp(data: settings.Data) -> str:
    """Changes when a file in the data folder does: a hash of the names, sizes and times of its files."""
    if not data.folder:
        return ""
    found = hashlib.sha256()
    for root, folders, files in os.walk(folder_of(data)):
        folders.sort()
        for name in sorted(files):
            try:
                state = os.stat(file := os.path.join(root, name))
            except OSError as reason:
                raise BadInput(f"{file} cannot be read ({reason.strerror}); mend it or take it out.") from None
            found.update(f"{root}/{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return found.hexdigest()


def folder_of(data: settings.Data) -> Path:
    """The data folder; a relative one counts from the repository."""
    return ROOT / expanded(data.folder)


def _normalisation(pixels: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of pixels scaled to [0, 1]: named constants, or those of the images."""
    if kind != "own":
        if pixels.shape[1] != 3:
            raise BadInput(f"the normalisation '{kind}' is for 3 channels, but these images have {pixels.shape[1]}.")
        return tuple(torch.tensor(values) for values in CONSTANTS[kind])
    parts = [(part.double() / 255) for part in pixels.unbind(1)]  # by channel: a copy in float64 is large
    mean, std = (torch.stack([getattr(part, name)() for part in parts]) for name in ("mean", "std"))
    return mean.float(), std.float().clamp_min(1 / 255)


def _hold_out(train: Images, every: int = 5) -> tuple[Images, Images]:
    """Every fifth image of each class becomes validation data."""
    rank = torch.zeros_like(train.labels)
    for c in train.labels.unique():
        of_class = train.labels == c
        rank[of_class] = torch.arange(int(of_class.sum()))
    held_out = rank % every == 0
    return train.select(~held_out), train.select(held_out)


def _digits(data: settings.Data, cache: Path) -> Loaded:
    """scikit-learn's 1,797 handwritten digits, 8x8, grey values 0 to 16; two fifths are the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = torch.tensor(bunch.images / 16 * 255).round().to(torch.uint8)[:, None]
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    fit, held_out = train_test_split(range(len(labels)), test_size=0.4, random_state=0, stratify=labels)
    parts = [Images(pixels[index], labels[index]) for index in (sorted(fit), sorted(held_out))]
    return parts[0], parts[1], tuple(str(name) for name in bunch.target_names), {}


def _torchvision(data: settings.Data, cache: Path) -> Loaded:
    """A data set of torchvision, downloaded on first use and checked by torchvision's checksums."""
    from torchvision import datasets
    from torchvision.transforms import v2

    kind, root = getattr(datasets, TORCHVISION[data.source]), folder_of(data)
    parts, pictures = _fetched(data, lambda: [kind(root, train=train, download=True) for train in (True, False)]), []
    for part in parts:
        pixels = torch.as_tensor(part.data)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        labels = torch.as_tensor(part.targets, dtype=torch.int64)
        if len(labels) != len(pixels) or not 0 <= int(labels.min()) <= int(labels.max()) < len(part.classes):
            raise BadInput(f"the files of {data.source} in {root} do not belong together; delete them and run again.")
        pictures.append(Images(v2.functional.resize(pixels, data.image_size, antialias=True).contiguous(), labels))
    groups = _coarse_classes(root / datasets.CIFAR100.base_folder) if data.source == "cifar100" else {}
    return pictures[0], pictures[1], tuple(parts[0].classes), groups


def _fetched(data: settings.Data, get: Callable):
    """What ``get`` returns, or one sentence on why the data set cannot be had."""
    try:
        folder_of(data).mkdir(parents=True, exist_ok=True)
        return get()
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError, pickle.UnpicklingError) as reason:
        raise BadInput(
            f"{data.source} is not complete and intact in {folder_of(data)}, and could not be downloaded there "
            f"({' '.join(str(reason).split())[:300] or type(reason).__name__}); run again with a network, "
            "or name a folder that holds it with --data-dir."
        ) from None


def _coarse_classes(folder: Path) -> Groups:
    """CIFAR-100's twenty coarse classes: the fine classes of each. torchvision has checked the files."""
    meta, train = (pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in ("meta", "train"))
    pairs = sorted(set(zip(train["coarse_labels"], train["fine_labels"])))
    return {
        name: tuple(fine for c, fine in pairs if c == coarse) for coarse, name in enumerate(meta["coarse_label_names"])
    }


def _tiny_imagenet(data: settings.Data, cache: Path) -> Loaded:
    """Tiny-ImageNet: its validation images serve as the test set, and their classes stand in a list."""
    root = folder_of(data)
    home = root if (root / "wnids.txt").exists() else root / "tiny-imagenet-200"
    if not home.is_dir():
        _fetched(data, lambda: _unpack(*TINY_IMAGENET, root, home.name))
    files, shown = _of_tiny_imagenet(home)
    return *_decoded(home, files, data, cache), shown, {}


def _of_tiny_imagenet(home: Path) -> tuple[Files, tuple[str, ...]]:
    """Its files by part and class, where the archive puts them, and the classes' names."""
    try:
        names = sorted((home / "wnids.txt").read_text(encoding="utf-8").split())
        words = dict(line.split("\t") for line in (home / "words.txt").read_text(encoding="utf-8").splitlines())
        files = {
            "train": {name: sorted((home / "train" / name / "images").glob("*.JPEG")) for name in names},
            "test": {name: [] for name in names},
        }
        for line in sorted((home / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()):
            file, name, *_ = line.split("\t")
            files["test"][name].append(home / "val" / "images" / file)
    except (OSError, ValueError, KeyError) as reason:
        raise BadInput(f"{home} is not a complete Tiny-ImageNet ({reason}); delete it and run again.") from None
    for part, classes in files.items():
        for name, listed in classes.items():
            if not listed:
                raise BadInput(f"{home} holds no {part} images of class {name}; delete it and run again.")
    first = [words.get(name, name).split(",")[0] for name in names]
    return files, tuple(word if first.count(word) == 1 else f"{word} ({name})" for name, word in zip(names, first))


def _unpack(url: str, md5: str, root: Path, name: str) -> None:
    """Download an archive with its checksum, and put its folder ``name`` into ``root`` in one step."""
    from torchvision.datasets.utils import download_url, extract_archive

    download_url(url, root, md5=md5)
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as scratch:
        extract_archive(root / Path(url).name, scratch)
        (Path(scratch) / name).rename(root / name)


def _folder(data: settings.Data, cache: Path) -> Loaded:
    """Any folder of the form train/<class>/<image>, test/<class>/<image>."""
    root = folder_of(data)
    files, names = class_folders(root)
    return *_decoded(root, files, data, cache), names, {}


def class_folders(root: Path) -> tuple[Files, tuple[str, ...]]:
    """Image files by part and class of train/<class>/ and test/<class>/ (or val/), at any depth, and the class names.

    The one reader of such folders, for profiles and for ``evaluate``. Classes whose names are numbers are in numeric
    order, others in that of their names; a Tiny-ImageNet as it is unpacked is read, too. Raises BadInput.
    """
    if (root / "wnids.txt").is_file():
        return _of_tiny_imagenet(root)
    second = next((name for name in ("test", "val", "valid", "validation") if (root / name).is_dir()), "test")
    files = {part: _listing(root, name) for part, name in (("train", "train"), ("test", second))}
    if list(files["train"]) != list(files["test"]):
        odd = sorted(set(files["train"]) ^ set(files["test"]))
        raise BadInput(
            f"{root}: train/ and {second}/ must hold the same classes, but {', '.join(odd)} is in only one of them."
        )
    if len(files["train"]) < 3:
        raise BadInput(f"{root}/train holds {len(files['train'])} class folders, but at least 3 are needed.")
    return files, tuple(files["train"])


def _hidden(path: Path) -> bool:
    """What systems and notebooks leave behind: .DS_Store, .ipynb_checkpoints, __MACOSX."""
    return any(name.startswith(".") or name == "__MACOSX" for name in path.parts)


def _listing(root: Path, part: str) -> dict[str, list[Path]]:
    folder = root / part
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}; the data folder must have train/<class>/ and test/<class>/.")
    inside = [path for path in folder.iterdir() if not _hidden(path.relative_to(folder))]
    if beside := [path for path in inside if not path.is_dir() and _is_image(path)]:
        print(f"{folder}: {len(beside)} images beside the class folders, like {min(beside).name}, are left out.")
    entries = [path for path in inside if path.is_dir()]
    numbered = all(path.name.isdecimal() for path in entries)
    listing = {}
    for entry in sorted(entries, key=lambda path: int(path.name) if numbered else path):
        found = sorted(path for path in entry.rglob("*") if not _hidden(path.relative_to(entry)) and not path.is_dir())
        listing[entry.name] = [path for path in found if _is_image(path)]
        if not listing[entry.name]:
            raise BadInput(f"{entry} holds no images; allowed endings are {', '.join(_endings())}.")
    return listing


def _endings() -> tuple[str, ...]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return IMG_EXTENSIONS


def _is_image(file: Path) -> bool:
    """By its ending or, where it has none, by its first bytes. Raises BadInput for an image that is not read here."""
    if file.suffix.lower() in _endings():
        return True
    if not file.suffix and file.is_file():
        with open(file, "rb") as opened:
            return opened.read(8).startswith((b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF"))
    if (mimetypes.guess_type(file.name, strict=False)[0] or "").startswith("image/"):
        raise BadInput(f"{file} is an image of another kind than {', '.join(_endings())}; convert it or take it out.")
    return False


class FolderImages(torch.utils.data.Dataset):
    """One part of class folders: pixels from 0 to 1, float32 (C, H, W), and the class number."""

    def __init__(self, files: dict[str, list[Path]], classes: tuple[str, ...], size: int, channels: int):
        self.files = [(file, label) for label, listed in enumerate(files.values()) for file in listed]
        self.classes, self.how = list(classes), settings.Data(source="folder", image_size=size, channels=channels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        file, label = self.files[i]
        return _decode(file, self.how).float() / 255, label


def _decoded(root: Path, files: Files, data: settings.Data, cache: Path) -> tuple[Images, Images]:
    """Training and test images. Only those that the profile asks for are decoded: the first of each class."""
    # A validation split takes its images from train/, so the test limit must not cut there.
    limit = {"train": data.train_per_class, "test": data.test_per_class}
    if data.evaluate_on == "validation":
        limit["train"] = 0 if not data.train_per_class else -(-data.train_per_class * 5 // 4)
    chosen = {part: {c: fs[: limit[part] or None] for c, fs in files[part].items()} for part in files}
    try:
        stamp = [
            (part, str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns)
            for part in chosen
            for fs in chosen[part].values()
            for f in fs
        ]
    except OSError as reason:
        raise BadInput(f"{reason.filename} cannot be read ({reason.strerror}).") from None
    key = hashlib.sha256(repr((stamp, data.image_size, data.channels, DECODER)).encode()).hexdigest()[:16]
    packed = _packed(cache / f"{key}.safetensors", chosen, data)
    return tuple(Images(packed[f"{part}_pixels"], packed[f"{part}_labels"]) for part in ("train", "test"))


def _packed(path: Path, chosen: Files, data: settings.Data) -> dict[str, Tensor]:
    """The decoded images of every part, from the cache where an intact copy lies there."""
    if path.exists():
        try:
            return load_file(path)
        except Exception:  # safetensors has no public base class for a damaged file
            path.unlink()
    packed = {}
    for part, classes in chosen.items():
        images = [_decode(f, data) for files in classes.values() for f in files]
        packed[f"{part}_pixels"] = torch.stack(images)
        sizes = torch.tensor([len(files) for files in classes.values()])
        packed[f"{part}_labels"] = torch.arange(len(sizes)).repeat_interleave(sizes)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"")  # safetensors reports a folder or disk that refuses as an error of its own kind
        save_file(packed, partial)
        partial.replace(path)
    except Exception as reason:
        partial.unlink(missing_ok=True)
        raise BadInput(
            f"the images cannot be kept in {path.parent} ({reason}); make room or make it writable."
        ) from None
    return packed


def _decode(file: Path, data: settings.Data) -> Tensor:
    """One image as uint8 (C, H, W), its shorter side brought to ``image_size``, the centre cut out."""
    from PIL import Image
    from torchvision.transforms import v2

    try:
        if not file.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(file) as image,
        ):
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels have mode {image.mode}, but 8 bits per channel are needed")
            image = image.convert("L" if data.channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as reason:
        raise BadInput(f"{file} cannot be read as an image ({reason}); replace it or take it out.") from None
    image = v2.functional.center_crop(v2.functional.resize(image, data.image_size, antialias=True), data.image_size)
    return v2.functional.pil_to_tensor(image)


DECODER = inspect.getsource(_decode)  # part of the cache's names: another decoder, other pixels
