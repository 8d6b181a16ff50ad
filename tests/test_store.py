"""Results are found again under what determines them, and a damaged one is never believed or kept in the way."""

import errno
import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import torch

from unlearn_utils.study import store
from unlearn_utils.study.cells import dataset_of, features_spec, load_features, load_model, load_state, stored, trained
from unlearn_utils.study.readings import Reading
from unlearn_utils.study.store import Damaged, Store, digest

SPEC = {"kind": "model", "seed": 0, "rate": 0.1}
WEIGHTS = {"a": torch.tensor([0.1, float("nan"), -0.0]), "b": torch.tensor([1.0]).bfloat16(), "c": torch.tensor(3)}


@pytest.fixture
def filled(home) -> Store:
    filled = Store()
    filled.put(SPEC, {"accuracy": [0.5, float("nan")]}, {"weights": WEIGHTS}, 1.5, "cpu")
    return filled


def test_a_result_comes_back_bit_for_bit_under_its_own_spec_alone(filled):
    record = filled.get(dict(reversed(SPEC.items())))  # the order of keys is no parameter
    filled.put(SPEC, {"accuracy": []}, {}, 1.0, "cpu")  # a second writer of the same
    half, nan = filled.get(SPEC).result["accuracy"]
    assert half == 0.5 and nan != nan
    for name, tensor in record.tensors("weights").items():
        assert tensor.dtype == WEIGHTS[name].dtype
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), WEIGHTS[name].reshape(-1).view(torch.uint8))
    other = SPEC | {"rate": 0.2}
    filled.folder(SPEC).rename(filled.folder(other))  # a foreign result
    assert filled.get(other) is None and not filled.folder(other).exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: b"[]",
        lambda text: b"\xff\xfe",
        lambda text: text.replace(b"0.5", b"0.9"),
        lambda text: b"[" * 100_000,
    ],
)
def test_a_damaged_record_is_removed_and_computed_again(filled, damage, capsys):
    file = filled.folder(SPEC) / "record.json"
    file.write_bytes(damage(file.read_bytes()))
    assert filled.get(SPEC) is None and not filled.folder(SPEC).exists()
    assert "damaged; it will be computed again" in capsys.readouterr().out


def test_damaged_tensors_are_found_when_they_are_loaded_and_removed(filled):
    file = filled.folder(SPEC) / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(Damaged, match="is damaged; run again to compute it anew"):
        filled.get(SPEC).tensors("weights")
    assert not filled.folder(SPEC).exists()


def test_a_file_that_cannot_be_read_now_is_not_removed(filled, monkeypatch):
    def refused(path):
        raise OSError(errno.EIO, "Input/output error")

    record = filled.get(SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        for read in (lambda: filled.get(SPEC), lambda: record.tensors("weights")):
            with pytest.raises(OSError):
                read()
    assert filled.get(SPEC).tensors("weights")


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a folder", "folder without a record"])
def test_what_lies_in_the_place_of_a_result_makes_room_for_it_and_nothing_else_is_touched(kind, home):
    foreign, place = home / "foreign", Store().folder(SPEC)
    foreign.mkdir()
    (foreign / "kept.txt").write_text("")
    place.parent.mkdir(parents=True)
    {
        "file": lambda: place.write_text(""),
        "dangling link": lambda: place.symlink_to(home / "nowhere"),
        "link to a folder": lambda: place.symlink_to(foreign),
        "folder without a record": place.mkdir,
    }[kind]()
    Store().put(SPEC, {"accuracy": 1.0}, {}, 0.0, "cpu")
    assert Store().get(SPEC).result == {"accuracy": 1.0}
    assert place.is_dir() and not place.is_symlink() and (foreign / "kept.txt").exists()


@pytest.mark.parametrize("file", ["weights.safetensors", "record.json"])
def test_a_write_that_is_cut_off_leaves_nothing(home, monkeypatch, file):
    write = Path.write_bytes

    def cut_off(path, content):
        write(path, content[:10])
        if path.name == file:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", cut_off)
    with pytest.raises(KeyboardInterrupt):
        Store().put(SPEC, {}, {"weights": {"w": torch.zeros(1)}}, 0.0, "cpu")
    assert list((home / ".store" / "model").iterdir()) == []


def test_what_killed_runs_left_is_removed_when_nobody_can_want_it(filled):
    ages = {"model/.partial-1": 2, "locks/new": 2, "locks/old": 31, "unfinished/new.pt": 2, "unfinished/old.pt": 31}
    for name, days in ages.items():
        (filled.root / name).parent.mkdir(exist_ok=True)
        (filled.root / name).write_bytes(b"")
        os.utime(filled.root / name, (time.time() - days * 86400,) * 2)
    filled.tidy()
    assert [name for name in ages if (filled.root / name).exists()] == ["locks/new", "unfinished/new.pt"]
    assert filled.get(SPEC)


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "", ".hidden", "a\n"])
def test_what_comes_from_elsewhere_names_only_files_of_its_own_folder(name, filled, home):
    file = filled.folder(SPEC) / "record.json"
    body = json.loads(file.read_bytes())["body"]
    body["files"][name] = hashlib.sha256(b"x").hexdigest()
    file.write_text(json.dumps({"body": body, "checksum": digest(body)}))
    assert filled.get(SPEC) is None
    before = sorted(home.rglob("*"))
    for kind in (name, f"../{name}"):
        with pytest.raises(Damaged):
            filled.put(SPEC | {"kind": kind}, {}, {}, 0.0, "cpu")
    assert sorted(home.rglob("*")) == before


def test_a_result_is_copied_from_store_to_store_whole_or_not_at_all(filled, tmp_path, monkeypatch):
    record, other = filled.get(SPEC), SPEC | {"seed": 1}
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "other"))
    Store().copy(record, other)
    copied = Store().get(other)
    assert copied.files == record.files and copied.made_with == record.made_with and copied.seconds == 1.5
    (record.folder / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(Damaged):
        Store().copy(record, SPEC)
    assert Store().get(SPEC) is None and record.folder.exists()


def test_a_claim_is_one_processs_at_a_time(filled):
    with filled.claimed(SPEC) as first, filled.claimed(SPEC) as second, filled.claimed(SPEC | {"seed": 1}) as other:
        assert (first, second, other) == (True, False, True)
    with filled.claimed(SPEC) as again:
        assert again


def test_features_are_bounded_and_the_oldest_make_room(home, monkeypatch):
    specs = [{"kind": "features", "model": i} for i in range(4)]
    for age, spec in zip((40, 30, 20, 10), specs, strict=True):
        Store().keep_features(spec, {"train": torch.tensor([[1 / 3]]), "test": torch.tensor([[0.5]])}, "cpu")
        size = sum(file.stat().st_size for file in Store().folder(spec).iterdir())
        monkeypatch.setattr(store, "FEATURES_KEPT", 2.5 * size)  # room for two
        os.utime(Store().folder(spec), (time.time() - age,) * 2)
    assert [Store().get(spec) is not None for spec in specs] == [False, False, True, True]


def test_features_that_made_room_or_are_damaged_come_back_bit_for_bit(ran):
    cell = ran.cell(0, (0,), "random_label")
    place, before = Store().folder(features_spec(cell)), load_features(cell, "cpu")
    for harm in (store.remove, lambda place: (place / "features.safetensors").unlink()):
        harm(place)
        again = load_features(cell, "cpu")
        assert torch.equal(again.train, before.train) and torch.equal(again.test, before.test) and place.exists()


@pytest.mark.parametrize("model", [("prune", "linear"), ("random_label", "classifier")])
def test_a_model_whose_head_alone_changed_stores_no_encoder_and_shares_the_originals_features(ran, model):
    cell, original = ran.cell(0, (0,), *model), ran.cell(0, (0,), "original")
    own = stored(trained(cell)).tensors("weights")
    assert own and all(name.startswith("head.") for name in own)
    assert features_spec(cell) == features_spec(original)
    assert Reading.of(cell, "probe").key == Reading.of(original, "probe").key
    assert Reading.of(cell, "output").key != Reading.of(original, "output").key


@pytest.mark.parametrize("model", [("prune", "linear"), ("random_label", "linear"), ("scrub", "cmf")])
def test_a_model_that_shares_tensors_with_its_start_is_loaded_whole(ran, model):
    cell = ran.cell(0, (0,), *model)
    loaded, dataset = load_model(cell, "cpu"), dataset_of(ran.profile)
    with torch.no_grad():
        direct = loaded.features(dataset.test_view(dataset.test.pixels))
    assert torch.equal(direct, load_features(cell, "cpu").test)
    assert load_state(cell).keys() >= loaded.state_dict().keys()
