"""Every notebook is executed through papermill on tiny settings, by the command that the README names."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import tqdm

from unlearn_utils.__main__ import chosen_notebooks
from unlearn_utils.study.running import Whole, _folders_of, _stamp, code_of, without
from unlearn_utils.views.claims import CLAIMS
from unlearn_utils.views.evidence import BEYOND, RAW

ROOT = Path(__file__).parent.parent
FIGURES = {
    "00_original_and_retrain": ["training_curves"],
    "01_misalignment_discovery": ["by_hand", "dumbbell", "alignment", "learning_curve", "steps"],
    "02_classifier_only": ["theory_gamma", "theory_path"],
    "03_cmf_unlearning": ["slopes_cmf", "tsne"],
    "04_relearning_attacks": ["attacks_on_features", "attacks_by_fine_tuning"],
    "05_scorecard": ["gaps_by_profile"],
}
TABLES = [
    "neural_collapse", "references", "table1_misalignment", "gaps_misalignment", "alignment_means", "table1_several_classes",
    "gaps_several_classes", "table2_classifier_only", "gaps_classifier_only", "cmf_own_geometry",
    "table3_cmf", "gaps_cmf", "cmf_effect", "cmf_centre_distance", "cmf_geometries", "table3_several_classes",
    "attack_one_shot", "attack_gaps", "scorecard_one_screen", "claims_by_profile", "claims_shown_by_profile", "controls",
    "beside_the_paper",
]
NUMBERS = ["scorecard", "measurements", "attack_points"]  # CSV alone, as are the points behind each figure
NOTEBOOKS = chosen_notebooks([])
STORY = [path for path in NOTEBOOKS if path.stem < "06"]  # the study's; 06 is about other people's models
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def run_all(home: Path, tiny: dict, *more: str) -> subprocess.CompletedProcess:
    settings = [f"--set={key}={value!r}" for key, value in tiny.items()]
    command = [sys.executable, "-m", "unlearn_utils", "--device=cpu", "--jobs=2", *settings, *more]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "UNLEARN_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny) -> tuple[Path, subprocess.CompletedProcess]:
    home = tmp_path_factory.mktemp("run")
    return home, run_all(home, tiny)


@pytest.fixture(scope="module")
def made(ran) -> Path:
    """The one folder that the run made: its parameters are not the profile's, so it is not the reference's."""
    (folder,) = (ran[0] / "figures").iterdir()
    assert re.fullmatch(r"digits\+\w{6}", folder.name)
    return folder


def executed(made: Path, notebook: Path) -> list:
    return nbformat.read(made / "notebooks" / notebook.name, as_version=4).cells


def test_the_command_succeeds_and_says_what_it_did(ran):
    _, process = ran
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert "nothing to compare with" in process.stdout and "FAILED" not in process.stdout


def test_there_is_a_verdict_for_every_claim_but_that_on_backbones(made):
    card = pd.read_csv(made / "scorecard.csv")
    assert set(card.claim) == set(CLAIMS) - {"Pretrained backbone"}
    assert {"agrees", "shows", "counted"} <= set(card) and card["mean"].dtype == float
    assert len(pd.read_csv(made / "scorecard_one_screen.csv")) <= 13


@pytest.mark.parametrize("notebook", sorted(FIGURES))
def test_every_figure_is_there_as_png_and_pdf(made, notebook):
    for name in FIGURES[notebook]:
        assert (made / f"{name}.png").stat().st_size > 5000 and (made / f"{name}.pdf").stat().st_size > 2000


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_there_as_csv_and_latex(made, name):
    assert len(pd.read_csv(made / f"{name}.csv"))
    text = (made / f"{name}.tex").read_text()
    assert re.search(r"\\end\{(tabular|longtable)\}", text) and f"\\label{{tab:{name}}}" in text and "±" not in text


def test_no_other_table_or_figure_is_made(made):
    drawn = {name for names in FIGURES.values() for name in names}
    there = {path.stem for path in made.iterdir() if path.suffix in (".csv", ".tex", ".png", ".pdf")}
    assert there - {f"{name}_points" for name in drawn} == {*TABLES, *NUMBERS, *drawn}


TEXTS = {"scorecard_one_screen", "claims_by_profile", "claims_shown_by_profile", "controls"}


@pytest.mark.parametrize("name", sorted(set(TABLES) - TEXTS))
def test_the_cells_of_a_csv_are_numbers(made, name):
    table = pd.read_csv(made / f"{name}.csv")
    texts = {column for column in table if not pd.api.types.is_numeric_dtype(table[column]) and table[column].notna().any()}
    assert texts <= {"model", "claim", "readout", "measure", "within"}


def table_rows(cells: list) -> list[int]:
    """Rows of every table that a reader sees."""
    shown = [output.data["text/html"] for cell in cells if cell.cell_type == "code"
             for output in cell.outputs if "<tbody>" in output.get("data", {}).get("text/html", "")]
    return [html.split("<tbody>")[1].count("<tr>") for html in shown]


@pytest.mark.parametrize("notebook", STORY, ids=lambda path: path.stem)
def test_a_notebook_shows_at_most_three_tables_of_fifteen_rows_and_second_ones_at_searched_rates(made, notebook):
    counts = table_rows(executed(made, notebook))
    assert len(counts) <= 3 and max(counts) <= 15 + 1  # of UNSIR


def test_all_notebooks_together_show_at_most_200_rows():
    assert sum(sum(table_rows(nbformat.read(path, as_version=4).cells)) for path in NOTEBOOKS) <= 200


@pytest.mark.parametrize("notebook", STORY, ids=lambda path: path.stem)
def test_every_output_stands_between_an_expectation_and_a_computed_reading(notebook):
    state = "read"
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown" and "**Expectation.**" in cell.source:
            assert state != "expected", f"nothing is read before {cell.id}"
            state = "expected"
        if cell.cell_type == "code" and re.search(r"(style|plots|tables)\.save", cell.source):
            assert state != "closed", f"{cell.id} shows what nobody expected"
        if cell.cell_type == "code" and re.search(r"\*\*Reading|outputs\.note", cell.source):
            state = "read"
        elif cell.cell_type == "markdown" and "\n## " in "\n" + cell.source and "**Expectation.**" not in cell.source:
            assert state != "expected", f"nothing is read before {cell.id}"
            state = "closed"
    assert state != "expected"


@pytest.mark.parametrize("notebook", STORY, ids=lambda path: path.stem)
def test_prose_is_short_cells_are_small_and_no_static_text_holds_a_verdict(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    prose = "\n".join(texts)
    assert not re.search(r"\bA[1-9]\b", prose), "claims have names"
    assert not re.search(r"(?i)fashion|cifar-10 at", prose), "a sentence about one profile stands in no notebook"
    assert "**Reading" not in prose, "readings are computed"
    assert len(prose.split()) <= 1250 and max(len(text.split()) for text in texts) <= 250
    code = [len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code"
            and not {"parameters"} & set(cell.metadata.get("tags", [])) and not cell.source.startswith(("import", "from"))]
    assert max(code) <= 14


@pytest.mark.parametrize("notebook", STORY, ids=lambda path: path.stem)
def test_a_notebook_says_over_how_many_runs(made, notebook):
    printed = [output.text for cell in executed(made, notebook) if cell.cell_type == "code"
               for output in cell.outputs if output.output_type == "stream"]
    assert "n = 2 forget sets, 1 training seed; features read in the test view" in "\n".join(printed)


def guard_of(notebook: Path) -> str:
    return next(cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code")


@pytest.mark.parametrize("notebook", STORY, ids=lambda path: path.stem)
def test_the_first_code_cell_installs_only_where_the_package_is_missing(notebook, monkeypatch):
    ran, path = [], list(sys.path)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    monkeypatch.setattr(sys, "path", path)
    exec(guard_of(notebook), {})
    assert ran == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(guard_of(notebook), {})
    clone, install = ran
    assert clone[:2] == ["git", "clone"] and clone[-2] == REPOSITORY and path[0] == clone[-1] == install[-1]
    assert install[:4] == [sys.executable, "-m", "pip", "install"] and "--no-deps" in install


def test_claims_of_the_notebooks_are_those_of_the_rules():
    first = [nbformat.read(path, as_version=4).cells[0].source for path in STORY]
    named = {name for text in first for name in re.findall(r"\*\*Claim[^:]*: (.*?)\*\*", text)}
    names = {name for listed in named for name in listed.rstrip(".").split(". ")}
    assert names == set(CLAIMS) - {"Pretrained backbone", "Output is not enough", BEYOND, RAW}


def test_the_run_ends_with_a_report_of_all_notebooks(ran, made):
    text = (made / "report.html").read_text(encoding="utf-8")
    assert [f'id="{path.stem}"' in text for path in NOTEBOOKS] == [True] * len(NOTEBOOKS)
    assert f"Report: {made / 'report.html'}" in ran[1].stdout and "Not complete" not in text
    assert str(ROOT) not in text and str(ran[0]) not in text


def test_every_notebook_was_executed_and_carries_no_path(ran, made):
    for notebook in NOTEBOOKS:
        cells = executed(made, notebook)
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
        text = (made / "notebooks" / notebook.name).read_text()
        assert str(ROOT) not in text and str(ran[0]) not in text


COMMITTED = sorted(path for ending in ("ipynb", "json") for path in (ROOT / "figures").rglob(f"*.{ending}"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_committed_results_name_no_folder_of_the_machine_that_made_them(path):
    assert not re.search(r'"/(?:tmp|home|root|Users|work|mnt)/', path.read_text().replace('\\"', '"'))


def test_the_image_folder_is_left_out_of_what_is_kept():
    assert without('data_dir = "/disk/images"', ["/disk/images"]) == 'data_dir = "path/to/files"'
    assert without('data_dir = "/disk/images2"', ["/disk/images"]) == 'data_dir = "/disk/images2"'
    assert without('data_dir = ""', [""]) == 'data_dir = ""'
    warned = f"{Path(tqdm.__file__)}:21: a warning"
    assert without(warned, _folders_of({})) == "path/to/files/tqdm/__init__.py:21: a warning"


def test_the_provenance_names_what_the_run_was_made_of(made):
    told = json.loads((made / "provenance.json").read_text())
    assert set(told["notebooks"]) == {path.stem for path in chosen_notebooks([])}
    for note in told["notebooks"].values():
        assert note["pairs of seed and forget set"] == [[0, [0]], [0, [3]]]
        assert {"torch", "python"} <= set(note["versions"]) and note["results computed with"]
        assert note["changed parameters"]["seeds"] == [0] and note["minutes of the notebook"] > 0


@pytest.mark.parametrize("name", [
    "references", "table1_misalignment", "table2_classifier_only", "table3_cmf", "cmf_own_geometry", "cmf_centre_distance",
    "table1_several_classes", "table3_several_classes", "gaps_misalignment", "alignment_means"])
def test_the_references_stand_in_every_accuracy_table(made, name):
    models = set(pd.read_csv(made / f"{name}.csv").iloc[:, 0])
    assert {"Original", "Retrain", "Retrain, second seed", "Untrained network"} <= models


def test_a_second_run_reads_everything_from_the_store(ran, made, tiny):
    home, _ = ran
    listed = run_all(home, tiny, "--list")
    assert ", 0 to run with what they need: about 0.0 minutes" in listed.stdout
    study = {key: tiny[key] for key in ("seeds", "forget_sets", "overrides")}
    again = run_all(home, study, "--only=00")
    assert again.returncode == 0 and "[1/" not in again.stdout


def test_the_scorecard_is_drawn_again_where_the_card_of_another_profile_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path))
    plans = Whole.of({path: {"profile": "digits"} for path in STORY}).plans

    def changed(profile: str) -> list[str]:
        before = [_stamp(path, plan, {}) for path, plan in plans.items()]
        (tmp_path / "figures" / profile).mkdir(parents=True, exist_ok=True)
        (tmp_path / "figures" / profile / "scorecard.csv").write_text("claim,model\n")
        return [path.stem for stamp, (path, plan) in zip(before, plans.items()) if _stamp(path, plan, {}) != stamp]

    assert changed("mine") == ["05_scorecard"]
    assert changed("digits") == []  # its own is what it writes


def test_an_unusable_parameter_in_a_notebook_shows_one_sentence(ran, tiny):
    import papermill

    with pytest.raises(papermill.PapermillExecutionError) as shown:
        papermill.execute_notebook(chosen_notebooks(["00"])[0], ran[0] / "refused.ipynb", {"profile": "cifar11"},
                                   progress_bar=False)
    assert shown.value.traceback == ["BadInput: there is no profile 'cifar11'; choose one of "
                                     + ", ".join(p.stem for p in sorted((ROOT / "unlearn_utils/study/profiles").glob("*.toml"))) + "."]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_holds_the_outputs_of_its_own_code(notebook):
    content = nbformat.read(notebook, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert content.metadata["outputs_of"] == code_of(content), "run ./run_all.sh --refresh-reference"
    assert any(cell.outputs for cell in code)
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


def test_conda_and_pip_install_the_same_things():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = (ROOT / "environment.yml").read_text()
    listed = [line.strip("- ").strip() for line in conda.split("dependencies:")[1].splitlines() if line.strip()]
    assert listed == [f"python{project['requires-python']}", "pip", "pip:", "editable .[run,test,pretrained]"]
