"""The one verdict language: against hand-made numbers, and on controls whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from unlearn_utils import Study, metrics
from unlearn_utils.representation import Features
from unlearn_utils.settings import BadInput, Probe
from unlearn_utils.views import check, plots, tables
from unlearn_utils.views.compare import compare


def compared(reference="retrain", **values):
    """The comparison of models' probe accuracies on forget sets; Retrain is the reference, the others are methods."""
    methods = {"Retrain": "retrain", "Pruned head": "prune"}
    lines = [(name, methods.get(name, "salun"), str(i), v) for name in values for i, v in enumerate(values[name])]
    rows = pd.DataFrame(lines, columns=["model", "method", "forget", "probe_forget"]).assign(variant="linear", seed=0)
    return compare(rows, reference, ["probe_forget"])


RETRAIN = [0.5, 0.6, 0.4, 0.7, 0.55, 0.45]


def test_interval_and_p_are_student_s():
    mine = [0.62, 0.71, 0.55, 0.78, 0.70, 0.52]
    line = compared(Retrain=RETRAIN, mine=mine).frame.iloc[0]
    difference = 100 * (np.array(mine) - np.array(RETRAIN))
    half = 2.570581835636314 * difference.std(ddof=1) / np.sqrt(6)  # t of 5 degrees of freedom, from a table
    assert line.difference == pytest.approx(difference.mean()) and line.n == 6
    assert (line.low, line.high) == pytest.approx((difference.mean() - half, difference.mean() + half))
    assert line.p == pytest.approx(stats.ttest_rel(mine, RETRAIN).pvalue)


def test_holm_counts_methods_and_no_controls_and_the_smallest_difference_agrees_with_it():
    rng = np.random.default_rng(0)
    made = {f"m{i}": (np.array(RETRAIN) + 0.02 * i + rng.normal(0, 0.02, 6)).tolist() for i in range(4)}
    found = compared(Retrain=RETRAIN, **made, **{"Pruned head": made["m3"]}).frame
    methods = found[found.model.str.startswith("m")].sort_values("p")
    adjusted = np.maximum.accumulate(methods.p.to_numpy() * [4, 3, 2, 1])
    assert methods.p_holm.to_numpy() == pytest.approx(np.minimum(adjusted, 1))
    assert found.set_index("model").p_holm["Pruned head"] == found.set_index("model").p["Pruned head"]
    for line in methods.itertuples():
        assert not line.significant or abs(line.difference) > line.smallest


@pytest.mark.parametrize("apart", [0.0, 0.02, 0.06, 0.08])
def test_over_images_and_starts_too_what_is_beyond_the_smallest_difference_is_significant(apart):
    gained = np.repeat([0.0, 0.5], [180, 20])
    lines = [
        {
            "model": name,
            "seed": s,
            "image": i,
            "probe_forget": hit + (name == "mine") * (gained[i] + apart * (s - 2) / 2),
        }
        for name, hit in (("mine", 0.2), ("Retrain", 0.2))
        for s in range(5)
        for i in range(200)
    ]
    (line,) = compare(pd.DataFrame(lines), "Retrain", ["probe_forget"], over="image").frame.itertuples()
    assert line.significant == (abs(line.difference) > line.smallest) == (line.low > 0)


def test_few_values_are_shown_and_have_no_interval():
    found = compared(Retrain=RETRAIN[:3], mine=[0.6, 0.7, 0.8])
    assert found.frame.low.isna().all() and not found.frame.significant.any()
    assert found.table().iloc[0, 1].count(",") == 2


def test_equal_features_differ_by_nothing_and_a_constant_shift_is_certain():
    found = compared(Retrain=RETRAIN, same=RETRAIN, shifted=[v + 0.1 for v in RETRAIN]).frame.set_index("model")
    assert found.difference["same"] == 0 and not found.significant["same"]
    assert found.significant["shifted"] and found.low["shifted"] == pytest.approx(10)


def test_names_are_escaped_and_bold_is_not():
    shown = compared(**{"Retrain": RETRAIN, "<i>mine</i>": [v + 0.1 for v in RETRAIN]})._repr_html_()
    assert "&lt;i&gt;mine" in shown and "<i>" not in shown and "<b>+10.0</b> [10.0, 10.0]" in shown


def test_check_says_by_how_much_and_in_what_tables_differ(tmp_path):
    old = pd.DataFrame({"model": ["a", "b"], "value": [1.0, 2.0], "other": [1.0, np.nan]})
    changed = {
        "same": old,
        "number": old.assign(value=[1.0, 1.75]),
        "text": old.assign(model=["a", "c"]),
        "missing": old.assign(other=np.nan),
        "rows": old[:1],
    }
    for name, table in {"old": old, **changed}.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    found = [check.difference(tmp_path / "old.csv", tmp_path / f"{name}.csv") for name in [*changed, "absent"]]
    notes = ["", "", "text in model", "missing numbers in other", "other rows or columns", "not drawn here"]
    assert [note for _, note in found] == notes and [number for number, _ in found] == [0, 0.25, 0, 0, 0, 0]


def test_check_fails_for_what_differs_but_not_for_models_that_a_notebook_trains(tmp_path, monkeypatch, capsys):
    committed, here = tmp_path / "figures" / "toy", tmp_path / "local"
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "drawn_by", lambda notebook: {f"{notebook.stem}.csv"})
    study = SimpleNamespace(outputs=SimpleNamespace(path=here), profile=SimpleNamespace(name="toy"))
    own, both = ["own_method.ipynb"], ["own_method.ipynb", "claims.ipynb"]

    def put(name, *values):
        for folder, value in zip((committed, here), values):
            folder.mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"value": value}).to_csv(folder / f"{name}.csv", index=False)

    put("own_method", [1.0], [2.0])
    assert check.compared(study, False, own) == 0 and "1 differ" in (said := capsys.readouterr().out)
    assert "trained here" in said
    put("own_method", [1.0], [1.0, 2.0])
    assert check.compared(study, False, own) == 1
    put("own_method", [1.0], [2.0])
    put("claims", [1.0], [2.0])
    assert check.compared(study, False, both) == 1 and check.compared(study, True, both) == 0
    assert check.compared(study, False, own, some=True) == 0  # the other table is of an earlier run
    put("claims", [1.0], [1.0])
    assert check.compared(study, False, both) == 0 and check.compared(study, False, own) == 1


def test_what_a_reader_may_choose_is_compared_or_refused_in_a_sentence(home):
    study = Study("cifar10_slim", results="committed")
    rows, few = study.measure(["finetune", "random_label"], variant=["linear", "classifier"]), study.attack(["scrub"])
    nothing = compare(rows, {})
    assert nothing.caption == "Nothing to compare." and tables.means(rows, ["probe_forget"], nothing).caption
    for wrong in (lambda: tables.claims(rows, few, "finetune"), lambda: plots.cmf(rows)):
        with pytest.raises(BadInput, match="choose"):
            wrong()
    assert "Fine-tune" in plots.dumbbell(rows).points.model.tolist()


def test_models_have_references_of_their_own():
    found = compared({"b": "a"}, Retrain=RETRAIN, a=RETRAIN, b=[v + 0.1 for v in RETRAIN]).frame
    assert found.model.tolist() == ["b"] and found.reference.tolist() == ["a"]
    with pytest.raises(BadInput):
        compared({"b": "a"}, Retrain=RETRAIN)


@pytest.mark.parametrize("profile", ["cifar10_slim", "fashion_mnist", "digits"])
def test_controls_of_the_committed_results_get_their_known_answers(home, profile):
    rows = Study(profile, results="committed").measure(["prune", "bias_shift", "distilled_head.classifier"])
    original = compare(rows, "original").frame.set_index(["model", "column"])
    for control in ("Pruned head", "BiasShift", "Distilled head, classifier only"):
        assert (original.difference[control] == 0).all()  # their features are the Original's
    retrain = compare(rows, "retrain").frame.set_index(["model", "column"])
    assert not retrain.significant["Retrain, second seed"].any()
    assert retrain.significant["Pruned head"].any()


def test_donor_features_hold_nothing_of_the_class(clusters):
    """Each forget image has the features of a random retain image, so no probe classifies it above chance."""
    features, labels = clusters(4, 8, 60, 0.3)
    part = Features(features[:160].float(), features[160:].float())
    train, test = labels[:160], labels[160:]
    donor = metrics.donor_features(part, train, test, (2,))
    kept = train != 2
    assert torch.equal(donor.train[kept], part.train[kept]) and not torch.equal(donor.train[~kept], part.train[~kept])
    probe = metrics.probed(donor.train, train, donor.test, 4, Probe(epochs=30, lr=0.1), 0).argmax(1)
    ncc, _ = metrics.nearest(donor.train, train, donor.test, 4)
    for predicted in (probe, ncc):
        right = (predicted == test).double()
        assert right[test == 2].mean() < 0.5 < right[test != 2].mean()
