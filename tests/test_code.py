"""The code behind a result is all that it reaches by name, wherever that lies, and neither prose nor hints."""

import argparse
import ast
import functools
import importlib
import os
import random
import sys
import types

import numpy as np
import pytest
import torch

from unlearn_utils.settings import BadInput
from unlearn_utils.study import code

METHOD = '''
from dataclasses import dataclass
import helper
import helper as aliased
from helper import Base, Made, by_name, imported as renamed, wrapped, registered, REGISTRY
from unlearn_utils.methods import Method

LIMIT = 3
TABLE = {"one": renamed}

def own(x, by=1):
    local = x * LIMIT
    return local + by

def unrelated(x):
    return x

@wrapped
def decorated(x):
    return x

@dataclass(frozen=True)
class Mine(Base):
    """Words."""

    rate: float = 0.5
    share = 0.25

    def losses(self, run, epoch):
        from helper import within
        yield own(1) + by_name(2) + helper.by_module(3) + aliased.factor() + within(4) + TABLE["one"](5)  # why
        yield decorated(6) + Made().value() + REGISTRY["it"]().value()
'''
HELPER = """
import functools

RATE = 0.1
REGISTRY = {}

def registered(cls):
    REGISTRY["it"] = cls
    return cls

def by_name(x):
    return x * RATE

def by_module(x):
    return x + 1

def factor():
    return 2

def within(x):
    return x + 3

def imported(x):
    return x + 4

def wrapped(function):
    def wrapper(x):
        return function(x) + 5
    return wrapper

def not_used(x):
    return x

class Above:
    def value(self):
        return 6

class Made(Above):
    scale = 7

class Base(__import__("unlearn_utils.methods", fromlist=["Method"]).Method):
    def phases(self, recipe):
        return [recipe]

@registered
class Registered:
    def value(self):
        return 8
"""
COUNTS, IS_NO_CODE = True, False


@pytest.fixture(autouse=True)
def first_seen(monkeypatch) -> dict:
    """The files of these tests are not among those whose edit sends all later tasks to a process of their own."""
    monkeypatch.setattr(code, "_FIRST_SEEN", dict(code._FIRST_SEEN))
    return code._FIRST_SEEN


@pytest.fixture
def version(tmp_path, monkeypatch):
    """version(old, new): of a user's method in a module that imports another, one of which is edited."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def found(old: str = "", new: str = "") -> str:
        assert (METHOD + HELPER).count(old) == 1 or not old
        for name, text in (("user", METHOD), ("helper", HELPER)):
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        code.look_again()
        return code.version(importlib.import_module("user").Mine)

    yield found
    for name in ("helper", "user"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("counts, old, new", [
    pytest.param(counts, old, new, id=what) for what, counts, old, new in [
        ("body", COUNTS, "yield own(1)", "yield -own(1)"),
        ("helper by name", COUNTS, "x * RATE", "x / RATE"),
        ("helper by module", COUNTS, "return x + 1", "return x - 1"),
        ("helper by another name of its module", COUNTS, "return 2", "return 3"),
        ("helper imported inside", COUNTS, "return x + 3", "return x - 3"),
        ("default argument", COUNTS, "by=1", "by=2"),
        ("module constant", COUNTS, "LIMIT = 3", "LIMIT = 4"),
        ("constant behind a helper", COUNTS, "RATE = 0.1", "RATE = 0.2"),
        ("function in a table", COUNTS, "return x + 4", "return x - 4"),
        ("decorator's wrapper", COUNTS, "function(x) + 5", "function(x) - 5"),
        ("decorated function", COUNTS, "def decorated(x):\n    return x", "def decorated(x):\n    return -x"),
        ("class made and called", COUNTS, "scale = 7", "scale = 8"),
        ("its base", COUNTS, "return 6", "return 7"),
        ("base of the method", COUNTS, "return [recipe]", "return [recipe, recipe]"),
        ("class attribute", COUNTS, "share = 0.25", "share = 0.5"),
        ("dataclass default", COUNTS, "rate: float = 0.5", "rate: float = 0.6"),
        ("dataclass field", COUNTS, "rate: float = 0.5", "rate = 0.5"),
        ("registered class", COUNTS, "return 8", "return 9"),
        ("comment", IS_NO_CODE, "  # why", "  # because"),
        ("docstring", IS_NO_CODE, '"""Words."""', '"""Other words."""'),
        ("blank line", IS_NO_CODE, "    return x + 1", "\n    return x + 1"),
        ("unrelated function", IS_NO_CODE, "def unrelated(x):\n    return x", "def unrelated(x):\n    return -x"),
        ("function that no one calls", IS_NO_CODE, "def not_used(x):", "def not_used(y, x):"),
        ("layout", IS_NO_CODE, "own(1) + by_name(2)", "own( 1 )+by_name(2)"),
        ("hint of an argument and of what is returned", IS_NO_CODE, "(x, by=1):", "(x: 'Made', by: int = 1) -> int:"),
        ("hint of a variable", IS_NO_CODE, "local = x * LIMIT", "local: int = x * LIMIT"),
        ("hint alone", IS_NO_CODE, "    local = x", "    local: 'unrelated'\n    local = x"),
    ]
])  # fmt: skip
def test_an_edit_is_in_the_key_of_what_it_changes(counts, old, new, version):
    assert (version() != version(old, new)) == counts


@pytest.mark.parametrize("imported, called", [
    ("import mine.room", "mine.room.g"), ("import mine.room as r", "r.g"), ("from mine import room", "room.g"),
    ("import mine", "mine.g"), ("from mine import g as other", "other"),
])  # fmt: skip
def test_a_function_within_a_package_counts_however_it_is_imported(imported, called, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("from .room import g\n")
    (tmp_path / "top.py").write_text(f"{imported}\n\ndef f(x):\n    return {called}(x)\n")
    found = []
    for value in (1, 2):
        (tmp_path / "mine" / "room.py").write_text(f"def g(x):\n    return x + {value}\n")
        code.look_again()
        found.append(code.version(importlib.import_module("top").f))
    for name in ("top", "mine.room", "mine"):
        sys.modules.pop(name)
    assert found[0] != found[1]


@pytest.mark.parametrize("edit", [lambda file: file.unlink(), lambda file: os.utime(file, (1, 1))])
def test_a_file_that_changed_or_went_since_it_was_first_read_is_an_edit(edit, version, tmp_path, first_seen):
    version()
    assert str(tmp_path / "helper.py") in first_seen and not code.edited()
    edit(tmp_path / "helper.py")
    assert code.edited()


def test_a_tree_as_text_says_all_that_is_code():
    sources = "x = 1|x = 1.0|x = True|x = '1'|y = 1|x: int = 1|x += 1|x = f'{y!r:.8}'|x = f'{y:.8}'".split("|")
    texts = [code.as_text(code.bare(source)) for source in sources]
    assert texts[5] == texts[0] and len(set(texts)) == len(texts) - 1
    assert code.as_text(ast.parse("def f():\n    ...")) != code.as_text(ast.parse("def g():\n    ..."))


# What a notebook's cells define


def in_a_cell(monkeypatch, **values):
    """A function whose module is the notebook's, and which names what is given."""
    text = "def uses():\n    return " + ", ".join(values)
    notebook = types.ModuleType("__main__")
    notebook.In = [text]
    vars(notebook).update(values)
    exec(compile(text, "<cell>", "exec"), vars(notebook))
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    code.look_again()
    return notebook.uses


def twice(x):
    return 2 * x


def itself(lr):
    made = argparse.Namespace(lr=lr)
    made.own = made
    return made


def thrice(x):
    return 3 * x


class Scale:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return self.by * x


def scaled(by):
    return lambda x: by * x


def wrapped(by):
    return functools.wraps(twice)(lambda x: by * twice(x))


SAME = [  # name, a value, the same again, another
    ("device", torch.device("cpu"), torch.device("cpu"), torch.device("cuda:0")),
    ("criterion", *(torch.nn.CrossEntropyLoss(label_smoothing=s) for s in (0.1, 0.1, 0.2))),
    ("args", *(argparse.Namespace(lr=lr, device=torch.device("cpu"), sizes=[1, (2, 3)]) for lr in (0.1, 0.1, 0.2))),
    ("table", {"a": twice, "b": {1, 2}}, {"b": {2, 1}, "a": twice}, {"a": in_a_cell, "b": {1, 2}}),
    ("weights", torch.ones(3), torch.ones(3), torch.zeros(3)),
    ("itself", *(itself(lr) for lr in (0.1, 0.1, 0.2))),
    ("number", 1, 1, 2),
    ("cached", *(functools.cache(of) for of in (twice, twice, thrice))),
    ("vectorised", *(np.vectorize(of) for of in (twice, twice, thrice))),
    ("method", *(Scale(by).__call__ for by in (2, 2, 3))),
    ("closure", *(scaled(by) for by in (2, 2, 3))),
    ("wrapped_closure", *(wrapped(by) for by in (2, 2, 3))),
    ("closures", *([scaled(2), scaled(by)] for by in (2, 2, 3))),
    ("text", "1", "1", 1),
]


@pytest.mark.parametrize("name, value, same, other", SAME, ids=[name for name, *_ in SAME])
def test_what_a_cell_defines_counts_by_its_value(name, value, same, other, monkeypatch, capsys):
    versions = [code.version(in_a_cell(monkeypatch, **{name: given})) for given in (value, same, other)]
    assert versions[0] == versions[1] != versions[2]
    assert capsys.readouterr().out == ""


def test_what_moves_or_cannot_be_written_down_counts_by_its_type_and_that_is_said_once(monkeypatch, capsys, tmp_path):
    with open(tmp_path / "a", "w") as log, open(tmp_path / "b", "w") as another:
        uses = ({"log": log, "draw": random.Random(0)}, {"log": another, "draw": random.Random(1)})
        versions = [code.version(in_a_cell(monkeypatch, **values)) for values in uses]
    assert versions[0] == versions[1]
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and "'log' is a TextIOWrapper" in told[0] + told[1]


def test_a_class_without_a_source_is_refused_unless_it_came_with_its_version(monkeypatch):
    hidden = type("Hidden", (), {"__module__": "__main__"})
    with pytest.raises(BadInput, match="the source of 'Hidden' cannot be found"):
        code.version(hidden)
    code.received(hidden, "its version there")
    assert code.version(hidden) == "its version there"
