"""RESULTS, README and the notebooks' first sentences say what the committed results give."""

import copy
import json
import re
from shutil import copytree

import pages
import pytest

from unlearn_utils import Study, compare
from unlearn_utils.paths import ROOT


@pytest.fixture(scope="module")
def slim():
    return pages.Numbers("cifar10_slim")


def test_the_texts_hold_what_the_committed_results_give(tmp_path, monkeypatch):
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md")}
    copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "README.md").write_text(pages.BLOCK.sub(r"\1\2", texts["README.md"]), encoding="utf-8")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    assert pages.BLOCK.search(texts["README.md"])
    pages.main()
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in texts} == texts


HEADS = {  # what the numbers of a notebook's sentence on CIFAR-10 are, in their order
    "00_original_and_retrain": [("Retrain", "probe_forget"), ("Original", "probe_forget")],
    "01_misalignment_discovery": [("Random Label", "probe_forget"), ("Retrain", "probe_forget")],
    "02_classifier_only": [
        ("Random Label, classifier only", "output_forget"),
        ("Random Label, classifier only", "output_retain"),
        ("Retrain", "output_retain"),
    ],
    "03_cmf_unlearning": [
        ("Random Label", "probe_forget"),
        ("Random Label + CMF", "probe_forget"),
        ("Retrain", "probe_forget"),
        ("Random Label + CMF", "output_forget"),
        ("Original", "output_forget"),
        ("Retrain", "output_forget"),
    ],
    "04_relearning_attacks": [(name, "one_image") for name in ("Random Label", "Original", "Retrain")],
    "A1_controls": [("Retrain, second seed", "above_retrain")],
}


@pytest.mark.parametrize("notebook", HEADS)
def test_the_first_sentences_of_the_notebooks_give_committed_numbers(slim, notebook):
    attack = slim.study.attack(["random_label"])
    attack = attack[attack.attack.eq("few_shot") & attack.variant.eq("linear") & attack.x.eq(1)]
    means = 100 * slim.rows.groupby("model").mean(numeric_only=True)
    means["one_image"] = 100 * attack.groupby("model").forget_accuracy.mean()
    means["above_retrain"] = means.probe_forget - means.probe_forget["Retrain"]
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    sentence = re.search(r"\*On CIFAR-10,(.*?)(?:the paper.*?)?\*", "".join(cells[0]["source"]))[1]
    numbers = re.findall(r"-?\d+(?:\.\d+)?", sentence.replace("−", "-"))
    digits = [len(number.partition(".")[2]) for number in numbers]
    assert numbers == [f"{means.loc[of]:.{n}f}" for of, n in zip(HEADS[notebook], digits, strict=True)]


def test_sentences_of_results_without_a_number_hold(slim):
    rows = slim.rows
    found = compare(rows, "retrain", ["probe_forget", "ncc_forget", "output_retain"]).frame
    of = found[found.significant].set_index(["model", "column"]).difference
    cmf = rows[rows.variant.eq("cmf")].model.unique()
    assert len(cmf) == 5 and all(of[model, "probe_forget"] > 0 for model in cmf)
    assert of["UNSIR (tuned)", "ncc_forget"] < 0 and of["UNSIR (tuned)", "output_retain"] < 0
    assert of["NegGrad+", "ncc_forget"] < 0 < of["NegGrad+", "probe_forget"]
    without_frog = copy.copy(slim)
    without_frog.rows = rows[rows.forget != str(slim.study.classes.index("frog"))]
    falls = [one.fall_with_cmf(" (matched budget)", "probe_forget") for one in (slim, without_frog)]
    assert ["UNSIR + CMF" in models for models in falls] == [False, True]


def test_notebook_01_gives_the_committed_alignment(slim):
    cells = json.loads((ROOT / "notebooks" / "01_misalignment_discovery.ipynb").read_text(encoding="utf-8"))["cells"]
    (text,) = (text for cell in cells if "*Alignment*" in (text := "".join(cell["source"])))
    of = slim.rows.groupby("model").alignment_forget.mean()
    assert re.findall(r"0\.\d\d", text) == [f"{of[model]:.2f}" for model in ("Original", "Random Label", "Retrain")]


@pytest.mark.parametrize(
    ("profile", "forget"), [("digits", "single"), ("fashion_mnist", "single"), ("cifar10_slim", ["frog"])]
)
def test_over_half_of_the_excess_arises_from_retrain(profile, forget):
    rows = Study(profile, forget, [0], results="committed").measure(["random_label"], variant=["linear", "sham"])
    of = rows.groupby("model").probe_forget.mean() - rows.probe_forget[rows.model.eq("Retrain")].mean()
    assert of["Random Label on Retrain"] > of["Random Label"] / 2 > 0


def test_every_model_of_cifar_10_has_ten_forget_sets(slim):
    attacked = slim.study.attack(["random_label", "salun", "neggrad_plus", "scrub", "unsir", "random_label.cmf"])
    mask = slim.study.measure(["salun_random_mask"])
    assert all(of.groupby("model").forget.nunique().eq(10).all() for of in (slim.rows, attacked, mask))
