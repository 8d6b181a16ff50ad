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


@pytest.fixture
def filled(home) -> Store:
    filled = Store()
    filled.put(SPEC, {"accuracy": [0.5, 1.0]}, {"weights": {"w": torch.arange(4.0)}}, 1.5, "cpu")
    return filled


def test_a_result_comes_back_as_it_was(filled):
    record = filled.get(SPEC)
    assert record.result == {"accuracy": [0.5, 1.0]} and record.seconds == 1.5
    assert torch.equal(record.tensors("weights")["w"], torch.arange(4.0))


def test_another_parameter_is_another_result(filled):
    assert filled.get(SPEC | {"rate": 0.2}) is None
    assert filled.get(dict(reversed(SPEC.items()))) is not None  # the order of keys is no parameter


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.unlink()  # tensors that are loaded lie in the old file
    file.write_bytes(content[:-3])


DAMAGE = {
    "nothing": lambda text: b"", "a list": lambda text: b"[]", "no body": lambda text: b"{}",
    "no text": lambda text: b"\xff\xfe",
    "another number": lambda text: text.replace(b"0.5", b"0.9"), "2,000 lists": lambda text: b"[" * 2000 + b"]" * 2000,
    "100,000 lists": lambda text: b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_removed_and_computed_again(filled, damage, capsys):
    file = filled.folder(SPEC) / "record.json"
    file.write_bytes(damage(file.read_bytes()))
    assert filled.get(SPEC) is None
    assert "damaged; it will be computed again" in capsys.readouterr().out
    assert not filled.folder(SPEC).exists()


def test_damaged_tensors_are_found_when_they_are_loaded_and_removed(filled):
    cut(filled.folder(SPEC) / "weights.safetensors")
    record = filled.get(SPEC)
    assert record is not None  # a look at the store reads no tensors
    with pytest.raises(Damaged, match="is damaged; run again to compute it anew"):
        record.tensors("weights")
    assert not filled.folder(SPEC).exists()


@pytest.mark.parametrize("problem", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_now_is_not_removed(filled, problem, monkeypatch):
    record, content = filled.get(SPEC), sorted(filled.folder(SPEC).iterdir())

    def refused(path):
        raise OSError(problem, os.strerror(problem))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        for read in (lambda: filled.get(SPEC), lambda: record.tensors("weights")):
            with pytest.raises(OSError):
                read()
    assert sorted(filled.folder(SPEC).iterdir()) == content and filled.get(SPEC).result == record.result


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a folder", "folder without a record", "pipe"])
def test_what_lies_in_the_place_of_a_result_makes_room_for_it_and_nothing_else_is_touched(kind, home):
    foreign, place = home / "foreign", Store().folder(SPEC)
    foreign.mkdir()
    (foreign / "kept.txt").write_text("")
    place.parent.mkdir(parents=True)
    targets = {"dangling link": home / "nowhere", "link to a folder": foreign}
    if kind == "file":
        place.write_text("")
    elif kind in ("folder without a record", "pipe"):
        place.mkdir()
        if kind == "pipe":
            os.mkfifo(place / "record.json")
    else:
        place.symlink_to(targets[kind])
    Store().put(SPEC, {"accuracy": 1.0}, {}, 0.0, "cpu")
    assert Store().get(SPEC).result == {"accuracy": 1.0}
    assert place.is_dir() and not place.is_symlink() and (foreign / "kept.txt").exists()


def test_a_foreign_result_is_not_believed(filled):
    other = SPEC | {"seed": 1}
    filled.folder(SPEC).rename(filled.folder(other))
    assert filled.get(other) is None


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
    day, half_written = 86400, filled.root / "model" / ".partial-1"
    locks = [filled.root / "locks" / name for name in ("held for two days", "old")]
    half_written.mkdir()
    locks[0].parent.mkdir()
    trainings = [filled.root / "unfinished" / name for name in ("recent.pt", "old.pt")]
    trainings[0].parent.mkdir()
    ages = {half_written: 2, locks[0]: 2, locks[1]: 31, trainings[0]: 2, trainings[1]: 31}
    for file, age in ((file, days * day) for file, days in ages.items()):
        file.is_dir() or file.write_bytes(b"")
        os.utime(file, (time.time() - age,) * 2)
    filled.tidy()
    assert not half_written.exists()
    assert [file.exists() for file in (*locks, *trainings)] == [True, False, True, False]
    assert filled.get(SPEC)


def test_the_second_writer_of_the_same_result_keeps_the_first(filled):
    filled.put(SPEC, {"accuracy": [0.0, 0.0]}, {}, 1.0, "cpu")
    assert filled.get(SPEC).result == {"accuracy": [0.5, 1.0]}


def test_numbers_keep_their_hash_and_weights_their_bits(filled):
    weights = {
        "a": torch.tensor([0.1, float("nan"), -0.0]),
        "b": torch.tensor([1.0, 2.0]).bfloat16(),
        "c": torch.tensor(3),
    }
    filled.put(SPEC | {"seed": 2}, {"nan": float("nan")}, {"weights": weights}, 0.0, "cpu")
    record = filled.get(SPEC | {"seed": 2})
    found = record.tensors("weights")
    assert all(
        found[k].dtype == t.dtype and found[k].numpy(force=True).tobytes() == t.numpy(force=True).tobytes()
        for k, t in weights.items()
        if t.dtype != torch.bfloat16
    )
    assert torch.equal(found["b"], weights["b"]) and record.result["nan"] != record.result["nan"]


def features_of_32_bits():
    return {"train": torch.tensor([[1 / 3]]), "test": torch.tensor([[0.5]])}


# From elsewhere

OUTSIDE = ["../../x", "/tmp/x", "a/b", "..", "", ".hidden", "a\\b", "a\n"]


def signed(record: dict) -> dict:
    return record | {"checksum": digest(record["body"])}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_comes_from_elsewhere_names_only_files_of_its_own_folder(name, filled, tmp_path, monkeypatch):
    packed = filled.packed(SPEC)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "other" / "home"))
    before = sorted(tmp_path.rglob("*"))
    record = json.loads(packed["record.json"])
    record["body"]["files"][name] = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(Damaged):
        Store().unpack(SPEC, packed | {name: b"x", "record.json": json.dumps(signed(record)).encode()})
    for spec in (SPEC | {"kind": name}, SPEC | {"kind": f"../{name}"}):
        with pytest.raises(Damaged):
            Store().put(spec, {}, {}, 0.0, "cpu")
    assert [path for path in tmp_path.rglob("*") if path not in before and not path.is_dir()] == []


def test_a_stored_record_that_names_a_file_elsewhere_is_not_believed(filled):
    (filled.root / "outside.safetensors").write_bytes(b"x")
    file = filled.folder(SPEC) / "record.json"
    record = json.loads(file.read_text())
    record["body"]["files"]["../../outside.safetensors"] = hashlib.sha256(b"x").hexdigest()
    file.write_text(json.dumps(signed(record)))
    assert filled.get(SPEC) is None


@pytest.mark.parametrize("spoil", [
    lambda files: files, lambda files: files | {"weights.safetensors": files["weights.safetensors"][:-1]},
    lambda files: files | {"record.json": files["record.json"].replace(b'"seconds": ', b'"seconds": 1')},
    lambda files: {"record.json": files["record.json"]}, lambda files: files | {"record.json": b"[" * 2000},
])  # fmt: skip
def test_a_result_travels_from_store_to_store_whole_or_not_at_all(spoil, filled, tmp_path, monkeypatch):
    packed, here = filled.packed(SPEC), filled.get(SPEC)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "other"))
    if (sent := spoil(packed)) != packed:
        with pytest.raises(Damaged, match="damaged on its way"):
            Store().unpack(SPEC, sent)
        assert Store().get(SPEC) is None
    else:
        Store().unpack(SPEC, sent)
        there = Store().get(SPEC)
        assert there.checksum == here.checksum and torch.equal(there.tensors("weights")["w"], torch.arange(4.0))


def test_a_result_that_is_damaged_here_is_not_sent(filled):
    (filled.folder(SPEC) / "weights.safetensors").write_bytes(b"")
    with pytest.raises(Damaged):
        filled.packed(SPEC)


def test_a_claim_is_one_processs_at_a_time(filled):
    with filled.claimed(SPEC) as first, filled.claimed(SPEC) as second, filled.claimed(SPEC | {"seed": 1}) as other:
        assert (first, second, other) == (True, False, True)
    with filled.claimed(SPEC) as again:
        assert again


# Features


def test_features_are_bounded_and_the_oldest_make_room(home, monkeypatch):
    specs = [{"kind": "features", "model": i} for i in range(4)]
    for age, spec in zip((40, 30, 20, 10), specs, strict=True):
        Store().keep_features(spec, features_of_32_bits(), "cpu")
        size = sum(file.stat().st_size for file in Store().folder(spec).iterdir())
        monkeypatch.setattr(store, "FEATURES_KEPT", 2.5 * size)  # room for two
        os.utime(Store().folder(spec), (time.time() - age,) * 2)
    assert [Store().get(spec) is not None for spec in specs] == [False, False, True, True]


def test_features_that_made_room_or_are_damaged_come_back_bit_for_bit(ran):
    cell = ran.cell(0, (0,), "random_label")
    place, before = Store().folder(features_spec(cell)), load_features(cell, "cpu")
    for harm in (store.remove, lambda place: cut(place / "features.safetensors")):
        harm(place)
        again = load_features(cell, "cpu")
        assert torch.equal(again.train, before.train) and torch.equal(again.test, before.test)
        assert place.exists()


@pytest.mark.parametrize("model", [("prune", "linear"), ("random_label", "classifier")])
def test_a_model_whose_head_alone_changed_stores_no_encoder_and_shares_the_originals_features(ran, model):
    cell, original = ran.cell(0, (0,), *model), ran.cell(0, (0,), "original")
    own = stored(trained(cell)).tensors("weights")
    assert own and all(name.startswith("head.") for name in own)
    assert features_spec(cell) == features_spec(original)
    assert Reading.of(cell, "probe").key == Reading.of(original, "probe").key
    assert Reading.of(cell, "output").key != Reading.of(original, "output").key


@pytest.mark.parametrize(
    "model", [("prune", "linear"), ("random_label", "classifier"), ("random_label", "linear"), ("scrub", "cmf")]
)
def test_a_model_that_shares_tensors_with_its_start_is_loaded_whole(ran, model):
    cell = ran.cell(0, (0,), *model)
    loaded = load_model(cell, "cpu")
    with torch.no_grad():
        dataset = dataset_of(ran.profile)
        direct = loaded.features(dataset.test_view(dataset.test.pixels))
    assert torch.equal(direct, load_features(cell, "cpu").test)
    assert load_state(cell).keys() >= loaded.state_dict().keys()
