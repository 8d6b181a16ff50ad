"""Results are found again under what determines them, and a damaged one is never believed."""

import json
import os
import time

import pytest
import torch

from unlearn_utils.study import store
from unlearn_utils.study.store import Store, code_version, digest

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


@pytest.mark.parametrize("name", ["record.json", "weights.safetensors"])
def test_a_truncated_file_is_computed_again(filled, name, capsys):
    file = filled.folder(SPEC) / name
    file.write_bytes(file.read_bytes()[:-3])
    assert filled.get(SPEC) is None
    assert "damaged" in capsys.readouterr().out
    assert not filled.folder(SPEC).exists()


def test_a_changed_number_is_not_believed(filled):
    file = filled.folder(SPEC) / "record.json"
    file.write_text(file.read_text().replace("0.5", "0.9"))
    assert filled.get(SPEC) is None


def test_a_foreign_result_is_not_believed(filled):
    other = SPEC | {"seed": 1}
    filled.folder(SPEC).rename(filled.folder(other))
    assert filled.get(other) is None


def test_a_missing_tensor_file_is_not_believed(filled):
    (filled.folder(SPEC) / "weights.safetensors").unlink()
    assert filled.get(SPEC) is None


def test_an_interrupted_write_leaves_nothing(home, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        Store().put(SPEC, {}, {"weights": {"w": torch.zeros(1)}}, 0.0, "cpu")
    assert Store().get(SPEC) is None
    assert list((home / ".store" / "model").iterdir()) == []


def test_what_killed_runs_left_is_removed_when_nobody_can_want_it(filled):
    day, half_written = 86400, filled.root / "model" / ".partial-1"
    half_written.mkdir()
    trainings = [filled.root / "unfinished" / name for name in ("recent.pt", "old.pt")]
    trainings[0].parent.mkdir()
    for file, age in [(half_written, 2 * day), (trainings[0], 2 * day), (trainings[1], 31 * day)]:
        file.is_dir() or file.write_bytes(b"")
        os.utime(file, (time.time() - age,) * 2)
    filled.tidy()
    assert not half_written.exists() and [file.exists() for file in trainings] == [True, False]
    assert filled.get(SPEC)


def test_the_second_writer_of_the_same_result_keeps_the_first(filled):
    filled.put(SPEC, {"accuracy": [0.0, 0.0]}, {}, 1.0, "cpu")
    assert filled.get(SPEC).result == {"accuracy": [0.5, 1.0]}


def test_the_code_version_sees_code_and_not_prose(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "__file__", str(tmp_path / "study" / "store.py"))

    def version(source: str) -> str:
        (tmp_path / "room.py").write_text(source)
        code_version.cache_clear()
        return code_version("room")

    plain = version("def f(x):\n    return x + 1\n")
    assert version('"""Prose."""\n\ndef f(x):\n    """More."""\n    return x + 1  # why\n') == plain
    assert version("def f(x):\n    return x + 2\n") != plain
    code_version.cache_clear()


def test_the_digest_is_that_of_canonical_json():
    assert digest({"b": 1, "a": [1.0, None]}) == digest(json.loads('{"a": [1.0, null], "b": 1}'))
