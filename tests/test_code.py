"""The code behind a result is all that it reaches by name, wherever that lies."""

import importlib
import json
import os
import sys
from dataclasses import dataclass

import nbformat
import pytest
from nbclient import NotebookClient

from unlearn_utils.methods import Method
from unlearn_utils.paths import ROOT
from unlearn_utils.settings import BadInput
from unlearn_utils.study import code

METHOD = """
from unlearn_utils.methods import Method
import helper, helper as aliased
from helper import imported, imported as renamed, RATE, Base

LIMIT = 3
unused = 1

def own(x):
    return deeper(x)

def deeper(x):
    return x + 1

class Mine(Base):
    {body}
"""
HELPER = """
from unlearn_utils.methods import Method

RATE = 0.5
TABLE = {"a": 1}
TABLE["b"] = 2

def imported(x):
    return x * factor()

def factor():
    return 2

def not_used(x):
    return x

class Base(Method):
    def phases(self, recipe):
        return [recipe]
"""


WITHIN = "def losses(self, run, epoch):\n        {}\n        return {}"


@pytest.fixture(autouse=True)
def first_seen(monkeypatch) -> dict:
    """The files of these tests are not among those whose edit sends all later tasks to a process of their own."""
    monkeypatch.setattr(code, "_FIRST_SEEN", dict(code._FIRST_SEEN))
    return code._FIRST_SEEN


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(body, changes of the helper) -> version of a user's method in a module that imports another."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = []

    def version(body: str, *changes: tuple[str, str], method: tuple[str, str] = ("", "")) -> str:
        helper = HELPER
        for old, new in changes:
            assert old in helper
            helper = helper.replace(old, new)
        (tmp_path / "helper.py").write_text(helper)
        (tmp_path / "user.py").write_text(METHOD.format(body=body).replace(*method))
        for name in ("helper", "user"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        code.look_again()
        made.append(importlib.import_module("user").Mine)
        return code.version(made[-1])

    yield version
    for name in ("helper", "user"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("body, old, new", [
    ("x = imported", "x * factor()", "x - factor()"),
    ("x = imported", "return 2", "return 3"),
    ("x = renamed", "x * factor()", "x - factor()"),
    ("x = helper.imported", "x * factor()", "x - factor()"),
    ("x = aliased.factor", "return 2", "return 3"),
    ("x = RATE", "RATE = 0.5", "RATE = 0.6"),
    ("x = helper.RATE", "RATE = 0.5", "RATE = 0.6"),
    ("x = helper.TABLE", 'TABLE["b"] = 2', 'TABLE["b"] = 3'),
    ("x = 1", "return [recipe]", "return [recipe, recipe]"),
    (WITHIN.format("from helper import imported as local", "local(1)"), "return 2", "return 3"),
    (WITHIN.format("import helper as local", "local.imported(1)"), "return 2", "return 3"),
])
def test_what_a_method_reaches_in_another_module_counts(body, old, new, written):
    assert written(body) != written(body, (old, new))


@pytest.mark.parametrize("body, change", [
    ("x = own", ("x + 1", "x + 2")), ("x = LIMIT", ("LIMIT = 3", "LIMIT = 4")), ("x = 1", ("x = 1", "x = 2")),
])
def test_what_a_method_reaches_in_its_own_module_counts(body, change, written):
    assert written(body) != written(body, method=change)


@pytest.mark.parametrize("change", [
    ("def not_used(x):\n    return x", "def not_used(x):\n    return -x"),
    ("    return 2", "    return 2  # why"),
    ("def factor():", 'def factor():\n    """Words."""'),
    ("def factor():", "def one_more():\n    return 0\n\n\ndef factor():"),
    ("RATE = 0.5", "RATE = 0.6"),
])
def test_what_it_does_not_reach_and_prose_do_not_count(change, written):
    assert written("x = imported") == written("x = imported", change)


@pytest.mark.parametrize("imported, called", [
    ("import mine.room", "mine.room.g"), ("import mine.room as r", "r.g"), ("from mine import room", "room.g"),
    ("import mine", "mine.g"), ("from mine import g as other", "other"),
])
def test_a_function_within_a_package_of_the_users_counts_however_it_is_imported(imported, called, tmp_path, monkeypatch):
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
def test_a_file_that_changed_or_went_since_it_was_first_read_is_an_edit(edit, written, tmp_path, first_seen):
    written("x = imported")
    assert str(tmp_path / "helper.py") in first_seen and not code.edited()
    edit(tmp_path / "helper.py")
    assert code.edited()


@pytest.mark.parametrize("source, kept", [
    ('x = "# no comment"  # a comment\n', ['x = "# no comment"']),
    ('def f():\n    """Words\n\n    more."""\n    return "text"\n', ["def f():", "", "", "", '    return "text"']),
    ('class A:\n    "words"\n    x = 1\n', ["class A:", "", "    x = 1"]),
    ('def f():\n    def g():\n        """Words."""\n        return 1\n', ["def f():", "    def g():", "", "        return 1"]),
])
def test_comments_and_docstrings_are_prose_and_texts_are_not(source, kept):
    assert code.without_prose(source) == kept


def without_a_source() -> type:
    made: dict = {}
    exec("class Hidden:\n    def losses(self, run, epoch):\n        return []\n", {"__name__": "__main__"}, made)
    return dataclass(frozen=True)(type("Hidden", (made["Hidden"], Method), dict(vars(made["Hidden"]), __module__="__main__")))


def test_a_class_without_a_source_is_refused_in_one_sentence():
    hidden = without_a_source()
    with pytest.raises(BadInput, match=r"^the source of 'Hidden' cannot be found, [^\n]* a notebook cell or a file\.$"):
        code.version(hidden)


def test_a_value_of_a_notebook_that_is_no_text_is_refused_in_one_sentence():
    with pytest.raises(BadInput, match="a method or readout uses 'LOSS', .* make it a plain number"):
        code._value("LOSS", object())


def test_a_class_that_came_from_a_notebook_has_the_version_that_it_had_there():
    hidden = without_a_source()
    code.received(hidden, "its version there")
    assert code.version(hidden) == "its version there"


DEFINED = """
import torch
from dataclasses import dataclass
from torch.nn.functional import cross_entropy
from unlearn_utils.methods import Method, method

SCALE = 1.0

def change(loss):
    return {sign} * SCALE * loss

class Base(Method):
    def losses(self, run, epoch):
        for x, y in run.batches(run.forget):
            yield change(cross_entropy(run.model(x), y))

@method("mine", "Mine")
@dataclass(frozen=True)
class Mine(Base):
    pass
"""
MEASURED = """
import json, os, sys
from unlearn_utils.study import rows
from unlearn_utils.study.studies import Study
os.environ["UNLEARN_HOME"] = "{home}"
overrides = json.loads('''{overrides}''') | {{"recipes.mine.linear": {{"epochs": 3, "lr": 0.1}}}}
study = Study.of("digits", [0], [[0], [3]], "cpu", jobs={jobs}, overrides=overrides)
found = rows.measurements(study, [("mine", "linear")]).get()
print("MEASURED", json.dumps(found[["output_forget", "output_retain", "ncc_forget"]].values.tolist()))
"""


@pytest.fixture(scope="module")
def in_a_notebook(tmp_path_factory, tiny) -> list[str]:
    """What each measurement printed in one kernel: of a method, edited, and again in an empty store by processes."""
    home, cells = tmp_path_factory.mktemp("notebook"), []
    overrides = json.dumps(tiny["overrides"] | {"recipes.original.linear.epochs": 15, "network.width": 6})
    for sign, place, jobs in [("1", "a", 1), ("-1", "a", 1), ("-1", "b", 2)]:
        cells += [DEFINED.format(sign=sign), MEASURED.format(home=home / place, overrides=overrides, jobs=jobs)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    client = NotebookClient(notebook, kernel_name="python3", timeout=120)
    client.execute(env=environment, cwd=str(home))
    texts = ["".join(out.get("text", "") for out in cell.outputs) for cell in notebook.cells[1::2]]
    return [line for text in texts for line in text.splitlines() if line.startswith("MEASURED")]


def test_a_method_edited_in_a_notebook_cell_gets_the_numbers_of_its_code(in_a_notebook):
    descent, ascent, ascent_elsewhere = in_a_notebook
    assert descent != ascent == ascent_elsewhere
