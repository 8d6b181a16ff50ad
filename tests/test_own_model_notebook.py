"""Notebook 06 as a stranger runs it: checkpoints in a class of the notebook, a method and a readout in cells."""

import os
import shutil

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from unlearn_utils.paths import ROOT
from unlearn_utils.settings import BadInput
from unlearn_utils.study import packs
from unlearn_utils.study.experiments import PLANS
from unlearn_utils.study.progress import QUIET
from unlearn_utils.study.studies import Study

NAME = "06_your_own_model"


@pytest.mark.parametrize("given", [{"ascent_epochs": 0}, {"ascent_lr": 0}, {"ascent_lr": -1.0}, {"ascent_lr": "fast"}])
def test_a_parameter_of_the_notebook_is_refused_by_its_name(study, given):
    with pytest.raises(BadInput, match=f"^{next(iter(given))} is {next(iter(given.values()))!r}, but it must be"):
        PLANS[NAME](study, **given).get("measured")


def executed(home, **parameters) -> dict[str, str]:
    """The text that each cell showed, by its id; the notebook is run as it stands, but for these parameters."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{NAME}.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    environment = os.environ | {"PYTHONPATH": str(ROOT), "UNLEARN_HOME": str(home), "OMP_NUM_THREADS": "1", QUIET: "1"}
    NotebookClient(notebook, kernel_name="python3", timeout=500).execute(env=environment, cwd=str(home))
    text = lambda out: out.get("text") or out.data.get("text/markdown") or out.data["text/plain"]  # noqa: E731
    return {cell.id: "\n".join(map(text, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"}


def tiny_parameters(tiny, **more) -> dict:
    return {"seeds": [0], "forget_sets": [[3], [0]], "device": "cpu", "jobs": 2, "overrides": tiny["overrides"]} | more


def test_checkpoints_method_and_readout_go_through(home, tiny):
    shown = executed(home, **tiny_parameters(tiny))
    assert "n = 2 forget sets, 1 training seed" in shown["cell-04"] and "Classes: 0, 1, 2" in shown["cell-04"]
    assert "Largest difference from the study's own rows of these models: 0.0 points" in shown["same"]
    for model in ("Original", "Retrain", "Random Label", "Untrained"):
        assert model in shown["report"] and model in shown["compare"]
    assert "NCC, forget +0.0" in shown["compare-reading"] and "Output, forget" in shown["compare-reading"]
    for model in ("Gradient ascent", "Retrain, second seed", "Untrained network", "BiasShift", "SCRUB"):
        assert model in shown["table"]
    reading = shown["table-reading"]
    assert "neighbour" in shown["table"] and "the nearest neighbour" in reading and "nan" not in reading
    assert not any("task/s" in text or "[1/" in text for text in shown.values())
    assert {path.name for path in home.iterdir()} == {".store"}, "no file is written but results"


def test_a_network_that_the_class_cannot_hold_is_said_to_be_so(home, tiny):
    other = tiny["overrides"] | {"network.architecture": "bottleneck_resnet"}
    shown = executed(home, **tiny_parameters(tiny, overrides=other, forget_sets=[[3]]))
    assert shown["export"].endswith("which bottleneck_resnet is not: the first part is left out.\n")
    assert shown["report"] == "" and shown["compare"] == "" and "Gradient ascent" in shown["table"]


@pytest.fixture
def pack_alone(home, tmp_path, tiny) -> dict:
    """Parameters for a pack whose images are gone."""
    random, folder = np.random.default_rng(0), tmp_path / "pictures"
    for part, count in (("train", 12), ("test", 6)):
        for c in range(4):
            (folder / part / "abcd"[c]).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(60 * c, 60 * c + 60, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / "abcd"[c] / f"{i}.png")
    small = {key: value for key, value in tiny["overrides"].items() if key.startswith(("recipes", "network", "probe"))}
    overrides = small | {"data.image_size": 8, "data.channels": 1, "network.blocks": [1, 1], "attack.shots": 2,
                         "multi_runs": []}
    given = {"profile": "image_folder", "seeds": [0], "forget_sets": [[0]], "data_dir": str(folder), "overrides": overrides}
    study = Study.of(**given, device="cpu", jobs=2)
    plan = PLANS[NAME](study)
    plan.get("measured")
    packs.write(packs.collect(study.profile, plan.tasks), home / "figures" / "image_folder" / packs.NAME)
    shutil.rmtree(folder)
    shutil.rmtree(home / ".store")
    return given | {"results": "committed", "device": "cpu", "jobs": 2}


def test_without_models_and_images_it_says_so_and_ends_cleanly(pack_alone, home):
    shown = executed(home, **pack_alone)
    assert "n = 1 forget set, 1 training seed" in shown["cell-04"]
    for cell in ("export", "table"):
        assert shown[cell].startswith("The models of this section are not here, so it is left out: ")
        assert shown[cell].count("\n") == 1
    assert all(shown[cell] == "" for cell in ("report", "same", "compare", "compare-reading", "table-reading"))
    assert "from the result pack" in shown["origin-line"]
