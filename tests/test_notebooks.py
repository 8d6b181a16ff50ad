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

from unlearn_utils.__main__ import chosen_notebooks
from unlearn_utils.study.running import code_of, without_data_dir

ROOT = Path(__file__).parent.parent
FIGURES = {
    "00_original_and_retrain": ["training_curves"],
    "01_misalignment_discovery": ["bars_misalignment", "alignment", "tsne_misalignment", "learning_curve"],
    "02_classifier_only": ["theory_gamma", "theory_path", "bars_classifier_only"],
    "03_cmf_unlearning": ["bars_cmf", "tsne_cmf"],
    "04_relearning_attacks": ["attacks_on_features", "attacks_by_fine_tuning"],
}
TABLES = [
    "neural_collapse", "references", "alignment_means", "learning_curve_by_epoch", "table1_misalignment", "gaps_misalignment", "table2_classifier_only",
    "table3_cmf", "cmf_effect", "table1_several_classes", "gaps_several_classes", "gaps_classifier_only",
    "cmf_geometries", "table3_several_classes", "cmf_own_geometry", "cmf_centre_distance", "attack_one_shot", "attack_scores", "attack_gaps", "scorecard",
    "beside_the_paper", "verdicts_by_profile",
]


def run_all(home: Path, tiny: dict, *more: str) -> subprocess.CompletedProcess:
    settings = [f"--set={key}={value!r}" for key, value in tiny.items()]
    command = [sys.executable, "-m", "unlearn_utils", "--device=cpu", "--jobs=2", *settings, *more]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "UNLEARN_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny) -> tuple[Path, subprocess.CompletedProcess]:
    home = tmp_path_factory.mktemp("run")
    return home, run_all(home, tiny)


def test_the_command_succeeds_and_gives_a_verdict_per_claim(ran):
    _, process = ran
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    for claim in ("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9"):
        assert f"\n  {claim} " in process.stdout


@pytest.mark.parametrize("notebook", sorted(FIGURES))
def test_every_figure_is_there_as_png_and_pdf(ran, notebook):
    for name in FIGURES[notebook]:
        assert (ran[0] / f"figures/digits/{name}.png").stat().st_size > 5000
        assert (ran[0] / f"figures/digits/{name}.pdf").stat().st_size > 2000


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_there_as_csv_and_latex(ran, name):
    assert len(pd.read_csv(ran[0] / f"figures/digits/{name}.csv"))
    assert "\\end{tabular}" in (ran[0] / f"figures/digits/{name}.tex").read_text()


def test_every_notebook_was_executed_and_carries_no_path(ran):
    for notebook in chosen_notebooks([]):
        text = (ran[0] / "figures/digits/notebooks" / notebook.name).read_text()
        cells = nbformat.reads(text, as_version=4).cells
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
        assert str(ROOT) not in text and str(ran[0]) not in text


@pytest.mark.parametrize("path", sorted((ROOT / "figures").rglob("*.ipynb")) + sorted((ROOT / "figures").rglob("*.json")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_committed_results_name_no_folder_of_the_machine_that_made_them(path):
    assert not re.search(r'"/(?:tmp|home|root|Users|work|mnt)/', path.read_text().replace('\\"', '"'))


def test_the_image_folder_is_left_out_of_what_is_kept():
    assert without_data_dir('data_dir = "/disk/images"', "/disk/images") == 'data_dir = "path/to/images"'
    assert without_data_dir('data_dir = ""', "") == 'data_dir = ""'


def test_the_provenance_names_what_the_run_was_made_of(ran):
    told = json.loads((ran[0] / "figures/digits/provenance.json").read_text())
    assert set(told["notebooks"]) == {path.stem for path in chosen_notebooks([])}
    for note in told["notebooks"].values():
        assert note["pairs of seed and forget set"] == [[0, [0]], [0, [3]]]
        assert {"torch", "python"} <= set(note["versions"]) and note["results computed with"]
        assert note["changed parameters"]["seeds"] == [0] and note["minutes of the notebook"] > 0


def test_the_references_stand_in_every_accuracy_table(ran):
    for name in ("references", "table1_misalignment", "table2_classifier_only", "table3_cmf"):
        models = set(pd.read_csv(ran[0] / f"figures/digits/{name}.csv").iloc[:, 0])
        assert {"Original", "Retrain", "Random network"} <= models


def test_a_second_run_reads_everything_from_the_store(ran, tiny):
    home, _ = ran
    listed = run_all(home, tiny, "--list")
    assert ", 0 to run: about 0.0 minutes" in listed.stdout
    study = {key: tiny[key] for key in ("seeds", "forget_sets", "overrides")}
    again = run_all(home, study, "--only=00")
    assert again.returncode == 0 and "[1/" not in again.stdout


def test_an_unusable_parameter_in_a_notebook_shows_one_sentence(ran, tiny):
    import papermill

    with pytest.raises(papermill.PapermillExecutionError) as shown:
        papermill.execute_notebook(chosen_notebooks(["00"])[0], ran[0] / "refused.ipynb", {"profile": "cifar11"},
                                   progress_bar=False)
    assert shown.value.traceback == ["BadInput: there is no profile 'cifar11'; choose one of "
                                     + ", ".join(p.stem for p in sorted((ROOT / "unlearn_utils/study/profiles").glob("*.toml"))) + "."]


@pytest.mark.parametrize("notebook", chosen_notebooks([]), ids=lambda path: path.stem)
def test_a_committed_notebook_holds_the_outputs_of_its_own_code(notebook):
    content = nbformat.read(notebook, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert content.metadata["outputs_of"] == code_of(content), "run ./run_all.sh --refresh-notebooks"
    assert any(cell.outputs for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


def test_conda_and_pip_install_the_same_things():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = (ROOT / "environment.yml").read_text()
    listed = [line.strip("- ").strip() for line in conda.split("dependencies:")[1].splitlines() if line.strip()]
    assert listed == [f"python{project['requires-python']}", "pip", "pip:", "editable .[run,test]"]
