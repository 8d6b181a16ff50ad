"""``evaluate``: its numbers, comparisons and checks, and reports that are saved."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from toys import PROBE, TEST, TRAIN, hiding, images, quarters, read, result, small, three

from unlearn_utils import Arrays, compare, evaluate, models, sources
from unlearn_utils.checks import checks
from unlearn_utils.evaluation import default_probe
from unlearn_utils.metrics import probed
from unlearn_utils.representation import extract
from unlearn_utils.settings import BadInput, Data, Network, Probe
from unlearn_utils.study import readouts
from unlearn_utils.views.own_models import PROBES, Report


def line(comparison, model, column):
    return comparison.frame.set_index(["model", "column"]).loc[model, column]


# --- numbers


def test_rows_are_those_of_metrics_by_hand():
    report = read(three(), forget=[3, 1], starts=(4, 7))
    row, model = report.rows.set_index("model").loc["hiding"], hiding()
    with torch.no_grad():
        f, f_test, right = model[:2](TRAIN[0]), model[:2](TEST[0]), model(TEST[0]).argmax(1) == TEST[1]
    probes = [probed(f, TRAIN[1], f_test, 4, PROBE, seed).argmax(1) == TEST[1] for seed in (4, 7)]
    centres = torch.stack([f[TRAIN[1] == c].mean(0) for c in range(4)])
    ncc = torch.cdist(f_test, centres).argmin(1) == TEST[1]
    forgotten = (TEST[1] == 3) | (TEST[1] == 1)
    expected = {
        "output_forget": right[forgotten],
        "output_retain": right[~forgotten],
        "ncc_forget": ncc[forgotten],
        "probe_forget": torch.stack(probes)[:, forgotten],
        "probe_retain": torch.stack(probes)[:, ~forgotten],
    }
    for name, hits in expected.items():
        assert row[name] == pytest.approx(hits.double().mean().item(), abs=1e-9)
    assert row.output_forget == 0.5 and row.output_group > 0.5 and row.output_false_positives == 0
    assert row.forget == "3 1" and row.method == ""
    assert np.array_equal(report.hits["hiding"]["probe_forget"], torch.stack(probes)[:, forgotten].numpy())


def test_numbers_are_those_of_our_own_readouts(tmp_path):
    """Every column that the study's rows and ``evaluate`` share is equal, by network and by arrays, on the digits."""
    data = sources.load(Data(source="digits", image_size=8, channels=1), tmp_path)
    network = models.build(Network(width=4, blocks=[1, 1]), 1, 10, seed=0)
    (x, y), (x_test, y_test) = ((data.test_view(part.pixels), part.labels) for part in (data.train, data.test))
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for index in torch.arange(len(y)).split(128) * 3:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x[index]), y[index]).backward()
        optimiser.step()
    features, probe = extract(network, data), Probe(epochs=5)
    at = SimpleNamespace(
        features=features, compared=features.train, train_labels=y, test_labels=y_test, classes=10, recipe=probe,
        seed=0, head=network.head, weight=network.head.weight.detach(), logits=network(x_test).detach(),
    )  # fmt: skip
    names = ("output", "probe", "ncc", "binary", "geometry", "collapse", "margin")
    ours = readouts.row_of(10, {name: getattr(readouts, name)(at) for name in names}, (3, 8))
    options = {"probe": probe, "starts": 1, "progress": False}
    report = evaluate({"mine": network}, (x, y), (x_test, y_test), [3, 8], **options)
    arrays = evaluate(report.arrays, y, y_test, [3, 8], **options)
    apart = {"alignment", "binary_forget"}  # a list; and pooled over images there, averaged over classes here
    shared = [name for name in ours if name in report.rows and name not in apart]
    assert len(shared) >= 33 and set(ours) - set(shared) == apart
    for theirs in (report.rows.iloc[0], arrays.rows.iloc[0]):
        np.testing.assert_allclose([theirs[name] for name in shared], [ours[name] for name in shared], atol=1e-6)
        np.testing.assert_allclose(theirs.alignment, ours["alignment"], atol=1e-6)
    assert ours["output_retain"] > 0.3


def test_a_linear_eraser_blinds_the_binary_probe_and_not_the_others():
    """The class mean is moved onto the global mean: no direction is left to the class, but the middle is."""
    random = torch.Generator().manual_seed(0)
    corners = 4 * torch.nn.functional.one_hot(torch.arange(4), 4).double()
    corners -= corners.mean(0)
    corners[3] = corners[:3].mean(0)
    y, y_test = torch.arange(4).repeat(200), torch.arange(4).repeat(50)
    features, test = (corners[labels] + 0.3 * torch.randn(len(labels), 4, generator=random) for labels in (y, y_test))
    report = read(
        {"erased": Arrays(features, test, torch.zeros(200, 4), torch.eye(4))}, y, y_test, probe=Probe(epochs=30, lr=0.1)
    )
    row = report.rows.iloc[0]
    assert 0.35 < row.binary_auroc_forget < 0.65 and row.ncc_forget > 0.95 and row.probe_forget > 0.9
    exact = features.clone()
    exact[y == 3] -= exact[y == 3].mean(0) - exact[y != 3].mean(0)
    centred = read({"erased": Arrays(exact, test, torch.zeros(200, 4), torch.eye(4))}, y, y_test)
    assert result(centred, "UNL006") == "raised" and np.isnan(centred.rows.alignment_forget[0])


# --- comparisons


def test_the_comparison_is_that_of_the_images_with_the_scatter_of_starts():
    report = read(three(), starts=5, probe=Probe(epochs=8, lr=0.05))
    found = report.compare()
    for column in ("ncc_forget", "probe_forget"):
        hits = [report.hits[name][column] for name in ("hiding", "Retrain")]
        difference = 100 * (hits[0].mean(0) - hits[1].mean(0))
        over_images, over_starts, freedom = difference.var(ddof=1) / 40, 0, 39
        if column == "probe_forget":
            over_starts = (100 * (hits[0].mean(1) - hits[1].mean(1))).var(ddof=1) / 5
            freedom = (over_images + over_starts) ** 2 / (over_images**2 / 39 + over_starts**2 / 4)
            assert over_starts > 0
        low, high = stats.t.interval(0.95, freedom, difference.mean(), (over_images + over_starts) ** 0.5)
        at = line(found, "hiding", column)
        assert (at.low, at.high) == (pytest.approx(low), pytest.approx(high))


def test_the_verdict_does_not_hang_on_the_start():
    """One short start gives now this answer, now that; several, with their scatter, give one."""
    probe, found = Probe(epochs=6, lr=0.02), {1: set(), 5: set()}
    torch.manual_seed(0)
    noise = lambda n: 0.9 * torch.randn(n, 4)  # noqa: E731
    features = {
        name: [model[:2](part[0]) + noise(len(part[1])) for part in (TRAIN, TEST)] for name, model in three().items()
    }
    shift = torch.tensor([0.35, 0, 0, 0.0])
    features["Retrain"] = [
        part + shift * (labels == 3)[:, None] for part, (_, labels) in zip(features["hiding"], (TRAIN, TEST))
    ]
    for size in found:
        for k in range(10):
            report = read(
                {name: Arrays(*parts, TEST[0].flatten(1)[:, :4]) for name, parts in features.items()},
                TRAIN[1],
                TEST[1],
                starts=range(size * k, size * (k + 1)),
                probe=probe,
            )
            at = compare(report.images, "Retrain", ("probe_forget",), over="image")
            found[size].add(bool(line(at, "hiding", "probe_forget").significant))
    assert found == {1: {True, False}, 5: {False}}


def test_reports_are_compared_by_model_over_the_same_images():
    before, after = read(three()), read(three() | {"hiding": quarters(), "new": small()})
    found = after.compare(before)
    assert list(found.frame.model.unique()) == ["Original", "Retrain", "hiding"]
    assert (
        line(found, "hiding", "output_forget").difference == 100 and line(found, "hiding", "ncc_forget").difference == 0
    )
    assert line(found, "hiding", "output_forget").reference == "hiding, before"


def test_reports_that_do_not_compare_are_refused():
    report, mixed = read(three(), starts=1), torch.randperm(160)
    for changed in (
        dict(forget=[0]),
        dict(test=images(40, seed=2)),
        dict(test=[part[mixed] for part in TEST]),
        dict(probe=Probe(epochs=3)),
        dict(models={"other": quarters()}),
    ):
        with pytest.raises(BadInput, match="the two reports share no model, or differ in"):
            report.compare(read(**{"models": three(), "starts": 1} | changed))
    for reference in ("untrained", 5):
        with pytest.raises(BadInput, match=f"there is no {reference} in this report; it has Original, Retrain, hiding"):
            report.compare(reference)


def test_six_probes_are_compared_with_retrain():
    found = read(three(), probe=Probe(epochs=5)).probes()
    assert list(found.frame.column.unique()) == [f"{name}_forget" for name in PROBES]
    for column in ("logistic_forget", "ridge_forget", "neighbours_forget"):
        assert line(found, "hiding", column).value == 100 and line(found, "hiding", column).significant
        assert line(found, "hiding", column).difference == line(found, "Original", column).difference > 20


# --- checks


def known_by_other_names():
    """Models whose outputs are in another order of the classes."""
    models = three()
    for model in models.values():
        head = list(model)[-1]
        with torch.no_grad():
            head.weight.copy_(head.weight[[1, 0, 2, 3]])
    return models


def without(name):
    return {key: model for key, model in three().items() if key != name}


def constant(model, value):
    """Its output is one class, whatever the image."""
    with torch.no_grad():
        list(model)[-1].bias[value] += 1000
    return model


def permuted(part):
    return part[0], (part[1] + 1) % 4


RAISED = {
    "no Retrain": ("UNL001", lambda: read(without("Retrain"))),
    "no Original": ("UNL001", lambda: read(without("Original"))),
    "a destroyed model": ("UNL002", lambda: read(three() | {"hiding": constant(quarters(), 1)})),
    "few images": ("UNL003", lambda: read(three(), test=images(20, seed=1))),
    "no headroom": ("UNL004", lambda: read(three() | {"Retrain": hiding()})),
    "a probe of one step": ("UNL005", lambda: read(three(), probe=Probe(epochs=1))),
    "another order of outputs": ("UNL007", lambda: read(known_by_other_names())),
    "labels permuted in training alone": ("UNL007", lambda: read(three(), train=permuted(TRAIN))),
    "labels permuted in both": ("UNL007", lambda: read(three(), permuted(TRAIN), permuted(TEST))),
    "labels permuted in testing alone": ("UNL007", lambda: read(three(), test=permuted(TEST))),
    "a third of the images shared": (
        "UNL008",
        lambda: read(three(), test=tuple(torch.cat([a, b[:80]]) for a, b in zip(TEST, TRAIN))),
    ),
    "train once more": ("UNL008", lambda: read(three(), TRAIN, TRAIN)),
    "an Original without the class": ("UNL009", lambda: read(three() | {"Original": hiding()})),
    "a Retrain with the class": ("UNL009", lambda: read(three() | {"Retrain": quarters()})),
    "one state under two names": ("UNL010", lambda: read(three() | {"copy": hiding()})),
}


@pytest.mark.parametrize("code, made", RAISED.values(), ids=RAISED)
def test_a_check_is_raised_and_withholds_the_verdict(code, made):
    report = made()
    assert result(report, code) == "raised" and re.search(f"{code} .*: raised \\(", repr(report))
    if {"Original", "Retrain"} <= set(report.hits) and code != "UNL010":
        columns = (
            ("probe_forget",)
            if code in ("UNL004", "UNL005", "UNL008")
            else ("output_forget", "probe_forget", "ncc_forget")
        )
        withheld = [line(report.compare(), "hiding", column) for column in columns]
        assert all(code in at.withheld and not at.significant for at in withheld)
        assert code in report.compare().table().to_string()


def test_sound_models_pass_and_get_a_verdict():
    report = read(three())
    assert set(report.checks.result) == {"passed"} and len(report.checks) == 10
    at = line(report.compare(), "hiding", "ncc_forget")
    assert at.significant and at.withheld == "" and at.difference > 20
    assert set(read({"mine": quarters()}).checks.result) >= {"not applicable", "raised"}


def test_an_original_whose_probe_calls_everything_by_the_class_leaves_no_headroom():
    """Its forget accuracy is 80 %, but so is its rate of false positives."""
    rows = read(three())
    frame = rows.rows.copy()
    frame.loc[frame.model == "Original", ["probe_forget", "probe_false_positives"]] = 0.8, 0.8
    found = checks(frame, rows.hits, rows.arrays, 0).set_index("code")
    assert found.result["UNL004"] == "raised" and "probe" in found.readouts["UNL004"]


def test_how_many_images_are_shared_is_said():
    shared = read(three(), test=tuple(torch.cat([a, b[:1]]) for a, b in zip(TEST, TRAIN)))
    assert result(shared, "UNL008") == "passed" and "1 of 161 test images are training images" in repr(shared)


# --- shown and saved


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = read(three() | {"untrained": small(), "<i>": quarters()})
    html = report._repr_html_()
    assert "data:image/png;base64" in html and "UNL001" in html and "NCC, forget (%)" in repr(report)
    assert "&lt;i&gt;</th>" in html and "<i></th>" not in html
    assert list(report.table) == ["Original", "Retrain", "hiding", "Untrained", "<i>"]
    assert set(report.short.index) < set(report.table.index) and not list(tmp_path.rglob("*"))
    report.save("found")
    assert {file.suffix for file in (tmp_path / "found").iterdir()} == {".csv", ".png", ".json"}


def test_a_saved_report_is_read_again_and_an_edited_one_is_refused(tmp_path):
    report = read(three())
    report.save(tmp_path / "found")
    again = Report.load(str(tmp_path / "found"))
    assert again.table.equals(report.table) and repr(again) == repr(report)
    assert again.compare(report).frame.difference.eq(0).all()
    pd.testing.assert_frame_equal(again.images, report.images)
    with pytest.raises(BadInput, match="call evaluate again"):
        again.probes()
    file = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    file["report"]["rows"][2]["probe_forget"] = 0.0
    for harm in ("{}", "[]", "no JSON", json.dumps(file)):
        (tmp_path / "evaluation.json").write_text(harm)
        with pytest.raises(BadInput, match="holds no report"):
            Report.load(tmp_path)


def test_without_a_probe_small_data_get_as_many_steps_as_a_probe_needs():
    report = evaluate(three(), TRAIN, TEST, [3], starts=1, progress=False)
    assert result(report, "UNL005") == "passed" and report.rows.probe_retain.min() > 0.7
    assert (
        report.made["probe"]["epochs"] == 1000
        and default_probe(50000, 10).epochs == 20
        and default_probe(50000, 100).epochs == 150
    )


@pytest.mark.parametrize(
    "kept, named", [(lambda y: y != 3, "no image of the forget class 3"), (lambda y: y == 3, "only")]
)
def test_a_test_part_without_forget_or_without_retain_images_is_refused(kept, named):
    chosen = kept(TEST[1])
    with pytest.raises(BadInput, match=named):
        evaluate(three(), TRAIN, (TEST[0][chosen], TEST[1][chosen]), forget=[3])


@pytest.mark.parametrize("starts", [[], [0, 0], [-1], "3", 0, 2.5])
def test_starts_that_are_none_or_twice_the_same_are_refused(starts):
    with pytest.raises(BadInput, match="starts is"):
        read(quarters(), starts=starts)
    assert read(quarters(), starts=torch.tensor([4, 2])).made["starts"] == [4, 2]
