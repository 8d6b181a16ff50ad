"""The notebooks: short, in the field's words, and really executed by the command, on a network of seconds."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from unlearn_utils.__main__ import checked, parameters_of
from unlearn_utils.paths import ROOT
from unlearn_utils.study import run

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / name for name in ("README.md", "RESULTS.md", "USAGE.md", "CLUSTER.md", "CONTRIBUTING.md")]
OURS = (  # words of our own that the field has other ones for
    r"surely|not apart|told apart|not to be told|cannot tell|held against|stands? beside|false alarms?|second hand"
    r"|at hand|is honest|names? \d|reads? \d|knows it|still reads?|deserves?|gives away"
    r"|Expectation\.|Reading\.|scorecard|class centre"
    r"|partly hidden|image passes|searched rate"
)


def prose(path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`]*`|!?\[[^\]]*\]\([^)]*\)|\|[^\n]*\|", " ", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.stem)
def test_the_field_s_words(path):
    assert not re.findall(OURS, prose(path), flags=re.IGNORECASE)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_shows_its_results(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code" and "install" not in cell.metadata.get("tags", [])]
    assert len(code) <= 12 and max(len(cell.source.splitlines()) for cell in code) <= 15
    assert len(prose(path).split()) <= 500
    assert any(cell.outputs for cell in code)
    assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]
    assert set(parameters_of(path)) >= {"forget", "seeds", "overrides", "machine"}


def test_the_notebooks_together_are_read_in_half_an_hour():
    assert sum(len(prose(path).split()) for path in NOTEBOOKS) <= 2600


def test_what_is_linked_is_there():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (ROOT / link).exists(), f"{page.name}: {link}"


@pytest.fixture(scope="module")
def executed(tmp_path_factory, tiny):
    """A home in which notebooks 01 and 03 were executed by the command, what that printed, and how to run it again."""
    home = tmp_path_factory.mktemp("executed")
    settings = [f"forget={tiny['forget_sets']}", f"seeds={tiny['seeds']}", f"overrides={tiny['overrides']}"]

    def run(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "unlearn_utils", "--jobs", "2", "--only", "01", "--only", "03"]
        command += [part for setting in settings for part in ("--set", setting)]
        environment = os.environ | {"UNLEARN_HOME": str(home), "PYTHONPATH": str(ROOT)}
        return subprocess.run([*command, *more], env=environment, cwd=ROOT, capture_output=True, text=True)

    return home, run(), run


def test_the_command_executes_notebooks_and_writes_figures_tables_and_report(executed):
    home, done, _ = executed
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first figure after" in done.stdout
    (folder,) = (home / "figures" / "local").glob("digits+*")
    assert json.loads((folder / "parameters.json").read_text())
    for name in "dumbbell.png dumbbell.pdf dumbbell_points.csv misalignment.csv misalignment.tex cmf.png".split():
        assert (folder / name).exists()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and not re.findall(r'(?:src|href)="https?://', page.split("</head>")[0])
    for name in ("01_misalignment_discovery", "03_cmf_unlearning"):
        notebook = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
        assert "reading/" in notebook.metadata["unlearning"]["used"] and str(home) not in json.dumps(notebook)
    assert not [path for path in (ROOT / "notebooks").glob("*") if "partial" in path.name]


def test_an_unchanged_notebook_is_not_executed_again_and_a_lost_figure_brings_one_back(executed):
    home, _, run = executed
    next((home / "figures" / "local").glob("digits+*/cmf.png")).unlink()
    assert "1 of 2 notebooks to execute" in run().stdout


def test_a_notebook_on_other_images_is_not_unchanged(executed):
    home, _, _ = executed
    outputs = SimpleNamespace(name="digits", path=next((home / "figures" / "local").glob("digits+*")))
    machine, (path,) = dict.fromkeys(("results", "data_dir", "device"), ""), (ROOT / "notebooks").glob("03*.ipynb")
    made = [run._made_of(path, {}, machine, outputs, images) for images in ("some", "some", "others")]
    assert made[0] == made[1] != made[2]
    assert {"cmf_table.csv", "cmf_points.csv"} <= run.drawn_by(outputs.path / "notebooks" / path.name)


def test_results_of_the_notebooks_are_exported(executed, tmp_path):
    _, _, run = executed
    assert "results in" in run("--export", str(tmp_path / "mine.jsonl.xz")).stdout


WRONG = ("--profile nothing", "--only 99", "--set nothing=1", "--set seeds=text", "--results x", "--fresh")
WRONG += ("--set overrides={'no.key':1}", "--batch-size -1", "--export=")


@pytest.mark.parametrize("line", WRONG)
def test_what_cannot_be_meant_ends_before_anything_runs(line):
    with pytest.raises(SystemExit) as ended:
        checked(line.split())
    assert str(ended.value).startswith("run_all.sh: ")


def test_settings_become_parameters_of_the_notebooks_that_have_them():
    _, given = checked(["--set", "seeds=1", "--set", "shots=(1, 2)", "--profile", "cifar10_slim"])
    by_name = {path.stem[:2]: values for path, values in given.items()}
    assert by_name["04"] == {"profile": "cifar10_slim", "seeds": [1], "shots": [1, 2]}
    assert "shots" not in by_name["01"]
    _, given = checked(["--profile", "fashion_mnist", "--only", "06"])  # the profile of models of one's own
    assert [*given.values()] == [{"example": "fashion_mnist"}]
