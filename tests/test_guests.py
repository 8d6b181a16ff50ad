"""Methods and readouts that the package does not define are found, computed by worker processes, and never mistaken."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from unlearn_utils.methods import METHODS, Method, method
from unlearn_utils.paths import ROOT
from unlearn_utils.settings import BadInput
from unlearn_utils.study import guests, packs
from unlearn_utils.study.cells import trained
from unlearn_utils.study.readings import Reading
from unlearn_utils.study.readouts import READOUTS, Readout, read, readout

THEIRS = '''
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from unlearn_utils.methods import Method, method
from unlearn_utils.metrics import confusion
from unlearn_utils.study.readouts import readout


@method("theirs", "Theirs")
@dataclass(frozen=True)
class Theirs(Method):
    """max CE(D_f)."""

    def losses(self, run, epoch):
        for x, y in run.batches(run.forget):
            yield SIGN * cross_entropy(run.model(x), y)


@readout(of_features=True)
def neighbour(at):
    nearest = torch.cdist(at.features.test, at.features.train).argmin(1)
    return {"counts": confusion(at.train_labels[nearest], at.test_labels, at.classes).tolist()}
'''
MEASURED = """
import json, sys
from unlearn_utils.study import rows
from unlearn_utils.study.cells import trained
from unlearn_utils.study.studies import Study

if __name__ == "__main__":
    overrides = json.loads(sys.argv[1]) | {"recipes.theirs.linear": {"epochs": 3, "lr": 0.1}}
    study = Study.of("digits", [0], [[0], [3]], "cpu", jobs=2, overrides=overrides)
    found = rows.measurements(study, [("theirs", "linear")]).get()
    print("KEY", trained(study.cell(0, (0,), "theirs")).key)
    print("MEASURED", json.dumps(found[["output_forget", "ncc_forget", "neighbour_forget"]].values.tolist()))
"""


def measured(folder, tiny, script: str, sign: str = "-1") -> list[str]:
    """What a process of its own prints that has the folder on its path."""
    (folder / "their_package.py").write_text(THEIRS.replace("SIGN", sign))
    (folder / "script.py").write_text(script)
    overrides = json.dumps(tiny["overrides"] | {"recipes.original.linear.epochs": 15, "network.width": 6})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]), "UNLEARN_HOME": str(folder),
                                "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, folder / "script.py", overrides], capture_output=True, text=True, env=environment,
                         cwd=folder)
    return [line for line in (ran.stdout + ran.stderr).splitlines() if not line.startswith("[")]


def installed(folder, module="their_package"):
    """A distribution on the path, as pip leaves it, which registers a module."""
    (folder / "theirs-1.0.dist-info").mkdir()
    (folder / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "theirs-1.0.dist-info" / "entry_points.txt").write_text(f"[{guests.GROUP}]\nmine = {module}\n")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny) -> dict[str, list[str]]:
    """What is printed for one method and readout that are registered in three ways, and for an edited one."""
    folder = tmp_path_factory.mktemp
    cell = THEIRS.replace("SIGN", "-1") + MEASURED
    return {
        "entry point": measured(installed(folder("entry")), tiny, MEASURED),
        "import": measured(folder("imported"), tiny, "import their_package\n" + MEASURED),
        "cell": measured(folder("cell"), tiny, cell),
        "edited": measured(installed(folder("edited")), tiny, MEASURED, sign="1"),
    }


@pytest.mark.parametrize("way", ["entry point", "import", "cell"])
def test_a_method_and_a_readout_reach_the_workers_however_they_are_registered(results, way):
    (key, numbers) = results[way]
    assert key.startswith("KEY") and numbers == results["entry point"][1]
    assert all(len(row) == 3 and all(0 <= value <= 1 for value in row)
               for row in json.loads(numbers.removeprefix("MEASURED")))


def test_an_edited_method_of_another_package_gets_a_key_and_numbers_of_its_own(results):
    assert all(a != b for a, b in zip(results["entry point"], results["edited"]))


def test_a_package_that_cannot_be_imported_is_named_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(installed(tmp_path, "nowhere.at_all"))
    guests.load.cache_clear()
    with pytest.raises(BadInput, match=r"^'nowhere.at_all', which theirs registers under .* \(ModuleNotFoundError: .*\.$"):
        guests.load()


def test_what_cannot_be_sent_to_a_worker_is_said_to_be_so(tmp_path, tiny):
    told = measured(tmp_path, tiny, THEIRS.replace("SIGN", "FILE and -1") + "\nFILE = open(__file__)\n" + MEASURED)
    assert any("make it a plain number or text" in line for line in told)


def mine(module="__main__"):
    return type("Mine", (Method,), {"__module__": module})


def named(name):
    def function(at):
        return {}

    function.__name__ = name
    return function


@pytest.fixture
def registries(monkeypatch):
    """What is registered here leaves again."""
    for registry in (METHODS, READOUTS):
        for name, thing in list(registry.items()):
            monkeypatch.setitem(registry, name, thing)
    yield
    for registry in (METHODS, READOUTS):
        registry.pop("mine", None)


@pytest.mark.parametrize("register, told", [
    (lambda: method("salun", "Mine")(mine()), "there is a method 'salun' in unlearn_utils.methods.salun already"),
    (lambda: method("mine", "SalUn")(mine()), "the label 'SalUn' of method 'mine' is that of method 'salun' already"),
    (lambda: readout()(named("probe")), "there is a readout 'probe' in unlearn_utils.study.readouts already"),
    (lambda: method("mine", "Mine")(mine("a")) and method("mine", "Mine")(mine("b")), "a method 'mine' in a already"),
    (lambda: method(mine()), "@method needs a name and a label"), (lambda: method("mine"), "@method needs a name and a label"),
    (lambda: readout(named("mine")), "@readout is written without its brackets"),
    (lambda: readout()(lambda at: {}), "a lambda has no name"),
    (lambda: method("mine", "Mine", start="initialization"), "start of method 'mine' is 'initialization', but"),
    (lambda: method("mine", "Mine", role="paper"), "role of method 'mine' is 'paper', but"),
    (lambda: method("a.b", "Mine"), "a method's name is 'a.b', but it must be one word"),
])
def test_what_cannot_be_registered_is_refused(registries, register, told):
    with pytest.raises(BadInput, match=told):
        register()


def test_a_cell_that_is_run_again_registers_its_own_anew(registries):
    first, second = (method("mine", label)(mine()) for label in ("Mine", "Mine, too"))
    assert METHODS["mine"] is second is not first
    readout()(named("mine")), readout()(named("mine"))


@pytest.mark.parametrize("found, told", [
    (3, "returns 3, but it must return a dictionary"), (None, "returns None"), ({"counts": 3}, "as 'counts' 3, but"),
    ({"counts": [[1, 2], [3]]}, "must be a list of numbers of shape .2, 2."), ({"auroc": [0.5]}, "a list of shape .1,.,"),
    ({"counts": torch.ones(2, 2)}, "as 'counts' tensor"),
])
def test_what_a_readout_returns_is_checked_where_it_is_computed(registries, found, told):
    READOUTS["mine"] = Readout(lambda at: found, (), False, lambda cell: True)
    with pytest.raises(BadInput, match=f"^readout 'mine' .*{told}"):
        read("mine", SimpleNamespace(classes=2))


def test_the_place_of_an_error_is_a_guests_own_line():
    try:
        json.loads("nothing")
    except ValueError as error:
        assert re.fullmatch(r" .test_guests.py, line \d+.", guests.place(error))
    assert guests.place(ValueError()) == ""


def test_a_pack_never_serves_a_guest(study, monkeypatch):
    output = Reading.of(study.cell(0, (0,), "random"), "output")
    pack = packs.Pack("digits", None, {output.question: {"result": {}}, trained(output.cell).question: {"result": {}}})
    assert pack.find(output) and pack.find(trained(output.cell))
    for registry in (METHODS, READOUTS):  # what is registered here leaves again
        for name, thing in list(registry.items()):
            monkeypatch.setitem(registry, name, thing)

    @readout()
    def output_of_a_cell(at):
        return {"counts": []}

    READOUTS["output"] = READOUTS.pop("output_of_a_cell")
    assert pack.find(output) is None and pack.find(trained(output.cell))

    @method("mine", "Mine")
    class Mine(Method):
        pass

    METHODS["random"] = METHODS.pop("mine")
    assert pack.find(trained(output.cell)) is None
