"""Image files in class folders: listed, decoded once, and kept; for profiles and for ``evaluate``."""

from __future__ import annotations

import hashlib
import inspect
import mimetypes
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import settings
from .data import Images
from .paths import replaced
from .settings import BadInput

Files = dict[str, dict[str, list[Path]]]  # files[part][class]
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def class_folders(root: Path) -> tuple[Files, tuple[str, ...]]:
    """Image files by part and class of train/<class>/ and test/<class>/ (or val/), at any depth, and the class names.

    The one reader of such folders, for profiles and for ``evaluate``. Classes whose names are numbers are in numeric
    order, others in that of their names; a Tiny-ImageNet as it is unpacked is read, too. Raises BadInput.
    """
    if (root / "wnids.txt").is_file():
        return tiny_imagenet(root)
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


def tiny_imagenet(home: Path) -> tuple[Files, tuple[str, ...]]:
    """Its files by part and class, where the archive puts them, and the classes' names."""
    try:
        names = sorted((home / "wnids.txt").read_text(encoding="utf-8").split())
        words = dict(line.split("\t") for line in (home / "words.txt").read_text(encoding="utf-8").splitlines())
        train = {name: sorted((home / "train" / name / "images").glob("*.JPEG")) for name in names}
        test = {name: [] for name in names}
        for line in sorted((home / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()):
            file, name, *_ = line.split("\t")
            test[name].append(home / "val" / "images" / file)
    except (OSError, ValueError, KeyError) as reason:
        raise BadInput(f"{home} is not a complete Tiny-ImageNet ({reason}); unpack it again.") from None
    if empty := [name for name in names if not (train[name] and test[name])]:
        raise BadInput(f"{home} is not a complete Tiny-ImageNet (no images of {empty[0]}); unpack it again.")
    first = [words.get(name, name).split(",")[0] for name in names]
    shown = (word if first.count(word) == 1 else f"{word} ({name})" for name, word in zip(names, first))
    return {"train": train, "test": test}, tuple(shown)


def _hidden(path: Path) -> bool:
    """What systems and notebooks leave behind: .DS_Store, .ipynb_checkpoints, __MACOSX."""
    return any(name.startswith(".") or name == "__MACOSX" for name in path.parts)


def _listing(root: Path, part: str) -> dict[str, list[Path]]:
    folder = root / part
    if not folder.is_dir():
        raise BadInput(
            f"there is no folder {folder}; a data folder (--data-dir) must have train/<class>/ and test/<class>/."
        )
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
            raise BadInput(f"{entry} holds no images; allowed endings are {', '.join(ENDINGS)}.")
    return listing


def _is_image(file: Path) -> bool:
    """By its ending or, where it has none, by its first bytes. Raises BadInput for an image that is not read here."""
    if file.suffix.lower() in ENDINGS:
        return True
    if not file.suffix and file.is_file():
        with open(file, "rb") as opened:
            return opened.read(8).startswith((b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF"))
    if (mimetypes.guess_type(file.name, strict=False)[0] or "").startswith("image/"):
        raise BadInput(f"{file} is an image of another kind than {', '.join(ENDINGS)}; convert it or take it out.")
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


def state(file: Path) -> tuple[int, int]:
    """Size and time of a file. Raises BadInput where it cannot be read."""
    try:
        found = file.stat()
    except OSError as reason:
        raise BadInput(f"{file} cannot be read ({reason.strerror}); mend it or take it out.") from None
    return found.st_size, found.st_mtime_ns


def decoded(root: Path, files: Files, data: settings.Data, cache: Path) -> tuple[Images, Images]:
    """Training and test images. Only those that the profile asks for are decoded: the first of each class."""
    # A validation split takes its images from train/, so the test limit must not cut there.
    limit = {"train": data.train_per_class, "test": data.test_per_class}
    if data.evaluate_on == "validation":
        limit["train"] = 0 if not data.train_per_class else -(-data.train_per_class * 5 // 4)
    chosen = {part: {c: fs[: limit[part] or None] for c, fs in files[part].items()} for part in files}
    listed = [(part, file) for part in chosen for files in chosen[part].values() for file in files]
    stamp = [(part, str(file.relative_to(root)), *state(file)) for part, file in listed]
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
    try:
        with replaced(path) as partial:
            save_file(packed, partial)
    except Exception as reason:  # safetensors reports a folder or disk that refuses as an error of its own kind
        raise BadInput(f"the images cannot be kept in {path.parent} ({reason}); make room there.") from None
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
