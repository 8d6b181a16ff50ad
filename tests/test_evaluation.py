"""``evaluate``: networks of every make, numbers beside those of our own rows, and every refusal in one sentence."""

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, normalize
from torch.utils.data import DataLoader, Dataset, TensorDataset

from unlearn_utils import __main__, compare, evaluate, evaluation, files, foreign, models
from unlearn_utils.settings import BadInput, Network, Probe
from unlearn_utils.study.cells import dataset_of, load_model
from unlearn_utils.study.rows import attacked, measurements
from unlearn_utils.views import own_models

PROBE = Probe(epochs=2)


def images(per_class, channels=1, side=8, classes=4, seed=0):
    """Noise with one bright quarter, which names the class; in mixed order."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)[torch.randperm(classes * per_class, generator=random)]
    pixels = 0.3 * torch.randn(len(labels), channels, side, side, generator=random)
    half = side // 2
    for i, c in enumerate(labels.tolist()):
        pixels[i, :, half * (c // 2) : half * (c // 2 + 1), half * (c % 2) : half * (c % 2 + 1)] += 1.5
    return pixels, labels


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 4))


def fitted(seed=0, keep=(0, 1, 2, 3)):
    model, (x, y) = small(seed), TRAIN
    kept = torch.isin(y, torch.tensor(keep))
    optimiser = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(80):
        optimiser.zero_grad()
        cross_entropy(model(x[kept]), y[kept]).backward()
        optimiser.step()
    return model


TRAIN, TEST = images(20), images(80, seed=1)


def read(model, train=TRAIN, test=TEST, forget=(3,), **options):
    named = model if isinstance(model, dict) else {"mine": model}
    return evaluate(named, train, test, forget, **{"probe": PROBE, "progress": False, **options})


def refusal(*given, **options):
    with pytest.raises(BadInput) as refused:
        read(*given, **options)
    told = str(refused.value)
    assert "\n" not in told and told.endswith((".", "..."))
    return told


class HeadNotLast(nn.Module):
    """Runs an auxiliary nn.Linear after its head; or, by the order of its attributes alone, lists it later."""

    def __init__(self, runs_later):
        super().__init__()
        self.head, self.other, self.runs_later = nn.Linear(64, 4), nn.Linear(64, 7), runs_later

    def forward(self, x):
        x = x.flatten(1)
        if not self.runs_later:
            self.other(x)
        logits = self.head(x)
        if self.runs_later:
            self.other(x)
        return logits


class Cosine(nn.Module):
    """Without a linear head, like a class-mean classifier."""

    def __init__(self):
        super().__init__()
        self.body, self.centres = nn.Linear(64, 5), nn.Parameter(torch.randn(4, 5))

    def forward(self, x):
        return normalize(self.body(x.flatten(1)), dim=1) @ normalize(self.centres, dim=1).T


class Wrapped(nn.Module):
    """Gives its logits as an attribute, as image classifiers of a model hub do."""

    def __init__(self):
        super().__init__()
        self.inner = small()

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.inner(pixel_values), loss=None)


class Dropped(nn.Module):
    def __init__(self, always):
        super().__init__()
        self.inner, self.always = small(), always

    def forward(self, x):
        return self.inner(nn.functional.dropout(x, 0.5, self.training or self.always))


class LogSoftmax(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return log_softmax(self.inner(x), dim=1)


@pytest.mark.parametrize("made, width", [
    (lambda: torchvision.models.resnet18(weights=None, num_classes=4), 512),
    (lambda: timm.create_model("resnet10t", num_classes=4), 512),
    (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4), 192),
])
def test_networks_of_libraries_are_read_at_the_input_of_their_head(made, width):
    torch.manual_seed(0)
    model, train, test = made(), images(6, 3, 32), images(6, 3, 32, seed=1)
    report = read(model, train, test)
    with torch.no_grad():
        right = model.eval()(test[0]).argmax(1) == test[1]
    assert report.rows.output_by_class[0] == [right[test[1] == c].double().mean().item() for c in range(4)]
    given = foreign.Foreign("mine", model)
    with torch.no_grad():
        assert given.introduce(train[0][:5]) == 4
    with given.watched(), torch.no_grad():
        assert given.head is list(m for m in model.modules() if isinstance(m, nn.Linear))[-1]
        assert given.look(train[0][:5])[0].shape == (5, width)


@pytest.mark.parametrize("made, features, headless", [
    (Wrapped, None, False), (lambda: HeadNotLast(False), None, False), (lambda: HeadNotLast(True), "head", False),
    (lambda: Dropped(False), None, False), (Cosine, lambda model, x: model.body(x.flatten(1)), True),
    (lambda: nn.Sequential(small(), nn.Identity()), "1", True),
])
def test_homemade_networks_are_read(made, features, headless):
    torch.manual_seed(0)
    model = made()
    report = read(model, features=features)
    assert report.rows.alignment_forget.isna().all() == headless == any("No linear head" in note for note in report.notes)
    assert ("nc3" in report.rows) and report.rows.nc3.isna().all() == headless and report.rows.nc1.notna().all()
    assert ("bias_stability" in report.rows) != headless and ("alignment, forget" in report.table.index) != headless


def test_modes_hooks_and_weights_are_as_before(state_of, same):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), small()).train()
    model[0].eval()
    before = state_of(model)
    first, second = read(model), read(copy.deepcopy(model).eval())
    assert [m.training for m in model] == [False, True, True] and same(before, state_of(model))
    assert not any(m._forward_hooks for m in model.modules())
    assert first.table.equals(second.table)
    with pytest.raises(BadInput):
        read(model, features="2.9")
    assert model[1].training and not any(m._forward_hooks for m in model.modules())


def test_a_log_softmax_output_reads_as_its_logits():
    model = fitted()
    plain, normalised = read(model), read(LogSoftmax(model))
    assert plain.table.equals(normalised.table) and any("log-softmax" in note for note in normalised.notes)


def test_numbers_are_those_of_our_own_rows(study):
    cells = [("original",), ("retrain",), ("random_label",)]
    ours = measurements(study, cells).get()
    few = attacked(study, {"few_shot": cells}, [1, 10], 5).get()
    ours, few = ours[ours.forget == "3"], few[few.forget == "3"]
    data = dataset_of(study.profile)
    given = {row.model: load_model(study.cell(0, (3,), row.method), "cpu") for row in ours.itertuples()}
    train, test = ((data.test_view(part.pixels), part.labels) for part in (data.train, data.test))
    theirs = read(given, train, test, [3], probe=study.profile.probe, batch_size=500).rows
    shared = [column for column in ours if column in theirs and ours[column].dtype == float]
    assert len(shared) >= 24 and {"probe_forget", "nc3", "margin_row_forget", "bias_stability", "ncc_alarms"} <= set(shared)
    np.testing.assert_allclose(theirs[shared], ours[shared], atol=1e-6)
    np.testing.assert_allclose(np.stack(theirs.alignment), np.stack(ours.alignment), atol=1e-6)
    for x, column in own_models.SHOTS.items():
        expected = few[few.x == x].groupby("model", sort=False).forget_accuracy.mean()
        np.testing.assert_allclose(theirs.set_index("model")[column][expected.index], expected, atol=1e-6)


@pytest.fixture(scope="module")
def three():
    """An Original, a Retrain that folds class 3 onto class 0, the Original with class 3 shut out, and the Retrain again."""
    original = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 4))
    with torch.no_grad():
        original[2].weight.copy_(torch.eye(4))
        original[2].bias.zero_()
    folded = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        folded[2].weight.copy_(torch.eye(4))
        folded[2].weight[3] = 0
        folded[2].weight[0, 3] = 1  # the features of class 3 are those of class 0
        folded[2].bias.zero_()
        folded[3].weight.copy_(torch.eye(4))
        folded[3].bias.copy_(torch.tensor([0.0, 0, 0, -9]))
    hiding = copy.deepcopy(original)
    with torch.no_grad():
        hiding[2].bias[3] = -100
    return {"Original": original, "Retrain": folded, "hiding": hiding, "like Retrain": copy.deepcopy(folded)}


def word(report, model, readout="ncc"):
    lines = report.verdicts
    return lines[(lines.model == model) & (lines.readout == readout)].shows.item()


def test_words_are_those_of_the_scorecard_with_intervals_over_test_images(three):
    report = read(three)
    assert word(report, "hiding") == "hidden" and word(report, "hiding", "output") == "holds"
    assert word(report, "like Retrain") == "removed"
    line = report.verdicts[(report.verdicts.model == "hiding") & (report.verdicts.readout == "ncc")].iloc[0]
    # NCC reads every image of class 3 right in the Original's features, and about half in Retrain's, of two equal centres.
    rows = report.rows.set_index("model")
    gap = rows.ncc_forget["hiding"] - rows.ncc_forget["Retrain"]
    assert rows.ncc_forget["hiding"] == 1 and 0.2 < gap < 0.8
    error = np.sqrt(gap * (1 - gap) / 79)  # of 80 values 0 and 1; Holm's first of two steps: t of 79 degrees at 98.75 %
    assert line.n == 80 and line["mean"] == pytest.approx(gap) and line.low == pytest.approx(gap - 2.2848 * error, abs=1e-4)
    assert line.recovery == pytest.approx(1) and any("80 test images" in note for note in report.notes)


def test_few_test_images_give_no_word(three):
    report = read(three, test=images(20, seed=1))
    assert set(report.verdicts.shows) == {"cannot tell"} and any("only 20 test images" in note for note in report.notes)


def test_without_a_reference_it_says_what_cannot_be_told(three):
    some = lambda *names: read({name: three[name] for name in names})  # noqa: E731
    alone, without, original = some("hiding"), some("hiding", "Original"), some("hiding", "Retrain")
    assert all(word(report, "hiding") == "cannot tell" for report in (alone, without, original))
    assert without.table["hiding"]["NCC, to the Original (points)"] == "0.0 [0.0, 0.0]"
    assert any("Without Retrain" in note and "distance to Original" in note for note in without.notes)
    assert any("Without Original" in note and "distance to Retrain" in note for note in original.notes)
    assert not any("(points)" in label for label in alone.table.index)
    assert sum("shown are readings" in note for note in alone.notes) == 2 and word(original, "hiding", "output") == "holds"
    assert list(some("Original", "Retrain").table.columns) == ["Original", "Retrain"]


def test_several_starts_of_the_probe_give_an_interval():
    report = read(small(), seeds=5, probe=Probe(epochs=1))
    values = [read(small(), probe=Probe(epochs=1), seeds=n).rows.probe_forget[0] for n in (1, 2)]
    starts = report.rows.probe_seeds[0]
    assert starts[0] == values[0] and np.mean(starts[:2]) == pytest.approx(values[1])
    assert len(set(starts)) > 1 and report.rows.probe_forget[0] == pytest.approx(np.mean(starts))
    assert report.table["mine"]["Linear probe, forget (%)"].startswith(f"{100 * np.mean(starts):.1f} [")


class Folder(Dataset):
    """With names, and one label and image at a time."""

    classes = ["bird", "car", "cat", "dog"]

    def __init__(self, pixels, labels, augmented=False):
        self.pixels, self.labels, self.augmented = pixels, labels, augmented

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.pixels[i] + torch.randn(()) * self.augmented, int(self.labels[i])


def test_data_sets_loaders_and_tensors_read_the_same_and_names_are_known():
    model, sets = fitted(), (Folder(*TRAIN), Folder(*TEST))
    tensors, folders = read(model, forget=[2]), read(model, *sets, forget=["cat"])
    loaders = read(model, *(DataLoader(torch.utils.data.Subset(s, range(len(s))), 7) for s in sets), forget="cat")
    assert tensors.table.equals(folders.table) and folders.forget == loaders.forget == (2,)
    assert loaders.classes == Folder.classes and loaders.table.equals(folders.table)


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch, three):
    monkeypatch.chdir(tmp_path)
    report = read(three, forget=[3, 1])
    html = report._repr_html_()
    assert "data:image/png;base64" in html and "hiding" in html and "NCC, verdict" in repr(report)
    assert not list(tmp_path.rglob("*"))
    report.save("found")
    made = {file.name for file in (tmp_path / "found").iterdir()}
    assert made == {f"{n}.{e}" for n in ("evaluation", "verdicts") for e in ("csv", "tex")} | {
        "evaluation.png", "evaluation.pdf", "evaluation.json"}
    kept = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert kept["forget"] == [3, 1] and kept["rows"][2]["output_forget"] == 0.5 and len(kept["verdicts"]) == 6
    axis = report.figure().axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(three)


def test_a_saved_report_is_read_again(tmp_path, three):
    report = read(three, seeds=2)
    report.save(tmp_path / "found")
    again = own_models.Report.load(tmp_path / "found")
    assert again.table.equals(report.table) and (again.forget, again.notes) == (report.forget, report.notes)
    assert len(report.short) <= 15 < len(report.table) and set(report.short.index) < set(report.table.index)
    (tmp_path / "file").write_text("")
    (tmp_path / "found" / "evaluation.json").write_text('{"rows": []}')
    for refused, sentence in {
        lambda: report.save(tmp_path / "file" / "below"): "no report can be written to",
        lambda: own_models.Report.load(tmp_path / "nowhere"): "holds no report (No such file",
        lambda: own_models.Report.load(tmp_path / "found"): "is no intact report (KeyError)",
        lambda: report.save("~nobody-of-this-name/found"): "is no path",
        lambda: report.save("a\0b"): "but it must be a path",
    }.items():
        with pytest.raises(BadInput, match=re.escape(sentence)):
            refused()


def test_a_class_of_few_images_gives_no_head_from_ten(three):
    rare = torch.cat([torch.where(TRAIN[1] != 3)[0], torch.where(TRAIN[1] == 3)[0][:9]])
    report = read(three, train=tuple(part[rare] for part in TRAIN))
    assert "ten_shot" not in report.rows and report.rows.one_shot.notna().all()
    assert "Class 3 has 9 training images, so there is no head from 10 per class." in report.notes
    assert read(three).rows.ten_shot.notna().all()


def test_a_name_is_no_formula(three):
    report = read({r"$\foo$": three["Original"]})
    assert report.figure().axes[0].get_yticklabels()[0].get_text() == r"\$\foo\$" and report._repr_html_()


@pytest.mark.parametrize("folder", [None, 3, "", " "])
def test_a_folder_of_a_report_is_a_path(folder, three):
    report = read(three["Original"])
    for refused in (lambda: report.save(folder), lambda: own_models.Report.load(folder), lambda: compare(report, folder)):
        with pytest.raises(BadInput, match=re.escape(f"a report's folder is {folder!r}, but it must be a path")):
            refused()


def test_two_reports_stand_side_by_side_with_what_has_changed(tmp_path, three):
    names = ["Original", "Retrain", "hiding"]
    before = read({name: three[name] for name in names})
    after = read({name: three[name] for name in names[:2]} | {"hiding": three["Original"], "new": three["hiding"]})
    before.save(tmp_path / "v1")
    after.save(tmp_path / "v2")
    both = compare(tmp_path / "v1", tmp_path / "v2")
    columns = [(name, column) for name in names for column in ("v1", "v2", "change")] + [("new", "v2")]
    assert list(both.columns) == columns and both.index.equals(before.table.index)
    output, ncc = both.loc["Output, forget (%)", "hiding"], both.loc["NCC, forget (%)", "hiding"]
    assert output.tolist() == ["0.0", "100.0", "+100.0"] and ncc.tolist() == ["100.0", "100.0", "+0.0"]
    assert both.loc["NCC, verdict", ("hiding", "change")] == "–" and both["Original"]["v1"].equals(both["Original"]["v2"])
    assert list(compare(before, after)["new"]) == ["after"] and compare(before, after)["new"].notna().all(axis=None)


def test_reports_that_do_not_compare_are_refused(tmp_path, three, capsys):
    report, other = read(three), read(three, forget=(0,))
    with pytest.raises(BadInput, match="before forgets 3 of 4 classes and after 0 of 4 classes; compare"):
        compare(report, other)
    with pytest.raises(BadInput, match="before and after were read on other test images"):
        compare(report, read(three, test=images(80, seed=2)))
    with pytest.raises(BadInput, match=r"have probes of other settings \(epochs 2 and 1\)"):
        compare(report, read(three, probe=Probe(epochs=1)))
    older = replace(report, made=report.made | {"probe": {"epochs": 2}})
    with pytest.raises(BadInput, match="have probes of other settings .*patience .* and not told"):
        compare(report, older)
    turned = tuple(reversed(TEST[0].flatten(1).unbind(1)))  # the same mean, every pixel elsewhere
    with pytest.raises(BadInput, match="before and after were read on other test images"):
        compare(report, read(three, test=(torch.stack(turned, 1).reshape(TEST[0].shape), TEST[1])))
    compare(report, read(three, draws=2)), compare(report, replace(report, made={}))
    chance, unknown = capsys.readouterr().out.splitlines()
    assert "have 5 and 2 draws" in chance and "is not known" in unknown
    report.save(tmp_path / "same")
    with pytest.raises(BadInput, match="both reports are .*same; name two folders"):
        compare(tmp_path / "same", tmp_path / "same")


@pytest.mark.parametrize("changed", [
    {"rows": []}, {"forget": [99]}, {"forget": "3"}, {"notes": None}, {"classes": None}, {"made": [1]}, {"made": {"seeds": 1}}])
def test_a_report_that_cannot_be_shown_is_no_intact_one(tmp_path, three, changed):
    read(three).save(tmp_path)
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(BadInput, match="is no intact report"):
        own_models.Report.load(tmp_path)


def test_the_untrained_network_is_read_and_not_judged(three):
    report, without = read(three | {"untrained": small()}), read(three)
    assert "Untrained" in report.table and "Untrained" not in set(report.verdicts.model)
    assert report.verdicts.equals(without.verdicts)
    assert sum("the architecture alone" in note for note in without.notes) == 1
    assert not any("the architecture alone" in note for note in report.notes)


def named(names, data, **given):
    return type("Named", (Folder,), {"classes": list(names), **given})(*data)


REFUSED = {
    "no start": (dict(seeds=0), "seeds is 0"),
    "a list of samples": (dict(forget=list(range(40, 60))), "classes, not samples"),
    "a mask of samples": (dict(forget=torch.ones(80, dtype=torch.bool)), "classes, not samples"),
    "no class": (dict(forget=[]), "classes, not samples"),
    "all but one": (dict(forget=[0, 1, 2]), "leave two to retain"),
    "a name that is none": (dict(forget=["cow"]), "[cow]"),
    "a module that is none": (dict(features="fc9"), "has no module 'fc9'"),
    "features of a model that is none": (dict(features={"yours": "4"}), "features names yours"),
    "an inner layer": (dict(features="2"), "nn.Linear that reads the features gives neither"),
    "maps as features": (dict(features="0"), "not (N, d); name the module"),
    "more labels than images": (dict(train=(TRAIN[0], TRAIN[1][:9])), "80 images and 9 labels"),
    "fractions as labels": (dict(train=(TRAIN[0], TRAIN[1] / 2)), "whole-number labels"),
    "a path": (dict(test="images/"), "test is a str"),
    "a shuffling loader": (dict(test=DataLoader(TensorDataset(*TEST), 9, shuffle=True)), "shuffle=False"),
    "augmented images": (dict(train=Folder(*TRAIN, augmented=True)), "images are augmented"),
    "a label too many": (dict(test=(TEST[0], TEST[1] + 1)), "test has the label 4"),
    "a class without images": (dict(train=tuple(t[TRAIN[1] != 2] for t in TRAIN)), "train holds no image of class 2"),
    "images of another shape": (dict(train=(TRAIN[0][:, :, :4], TRAIN[1])), "cannot read a tensor (80, 1, 4, 8)"),
    "images left out": (dict(train=DataLoader(TensorDataset(*TRAIN), 9, drop_last=True)), "drop_last=False"),
    "no numbers": (dict(test=(torch.cat([TEST[0][:-1], TEST[0][:1] / 0]), TEST[1])), "a batch of test has 1 images"),
    "data that fail on the way": (dict(train=Folder(TRAIN[0][:70], TRAIN[1]), batch_size=35), "train fails after 70 images (index 70"),
    "a batch with a label too few": (
        dict(test=DataLoader(TensorDataset(*TEST), 9, collate_fn=lambda batch: (torch.ones(9, 1, 8, 8), torch.zeros(8).long()))),
        "9 images and 8 labels"),
    "a number for a module": (dict(features=3), "features of model 'mine' is 3, which is neither a name nor a function"),
    "a list for a module": (dict(features=["3"]), "features of model 'mine' is ['3']"),
    "no images": (dict(train=(TRAIN[0][:0], TRAIN[1][:0])), "train holds no image; every class needs some"),
    "a number of classes": (dict(train=named(range(4), TRAIN, classes=4)), "the classes of train are 4, but they must be a list"),
    "one name twice": (dict(train=named("abca", TRAIN), test=named("abca", TEST)), "train has more than one class 'a'"),
    "other classes": (dict(train=Folder(*TRAIN), test=named("dcba", TEST)), "test has other classes than train"),
    "no name of a module": (dict(features=""), "has no module ''"),
    "train once more": (dict(train=TRAIN, test=TRAIN), "train and test are the same images"),
    "copies of training images": (dict(train=TRAIN, test=tuple(t[:60].clone() for t in TRAIN)), "60 of 60 test images are training"),
    "a function that fails": (dict(features=lambda images: images), "the features function of model 'mine' fails"),
    "features of no dimension": (dict(features=lambda model, images: images.flatten(1)[:, :0]), "its features are a tensor"),
    "names of five": (dict(train=named("abcde", TRAIN)), "train has 5 classes"),
}


@pytest.mark.parametrize("options, told", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(options, told):
    assert told in refusal(small(), **options)


def broken(model):
    with torch.no_grad():
        model[4].weight[0, 0] = torch.nan
    return model


class Table(nn.Sequential):
    def forward(self, x):
        return {"out": super().forward(x)}


class Scaled(nn.Sequential):
    def forward(self, x):
        return super().forward(x).mul_(2)  # in place: what the head gave is changed, too


@pytest.mark.parametrize("model, told", [
    ({"mine": "mine.pth"}, "model 'mine' is a str"), ({}, "at least one model"), ({3: small()}, "by name"),
    ({"retrain": small(), "Retrain": small()}, "same name"),
    ({"a": small(), "b": small()[:-1]}, "model 'b': the nn.Linear"),
    ({"a": small(), "b": nn.Sequential(nn.Flatten(), nn.Linear(64, 7))}, "'a' 4, 'b' 7"),
    (nn.Flatten(2), "must give logits (N, K)"), (nn.Flatten(), "no nn.Linear was run"), (Cosine(), "nn.Linear that reads"),
    (HeadNotLast(True), "nn.Linear that reads"), (Dropped(True), "differently in eval mode"),
    (Table(*small()), "gives a dict, but it must give logits"), (small().to("meta"), "'mine' is on the device 'meta'"),
    (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *small()), "differently beside others of their batch"),
    (nn.Sequential(*small()[:3], nn.BatchNorm1d(12, track_running_stats=False), *small()[3:]), "train it with track_running"),
    ({"x" * 81: small()}, "one line of 1 to 80 characters"), ({"": small()}, "a model's name is ''"),
    (broken(small()), "infinite or no numbers"), (Scaled(*small()), "nn.Linear that reads the features gives neither"),
])
def test_models_that_cannot_be_read_are_refused(model, told):
    assert told in refusal(model)


def cifar_names(model, blocks=(2, 2, 2, 2)):
    """The state of our ResNet under the names of the usual CIFAR ResNet."""
    places, renamed = [f"layer{layer}.{i}." for layer, n in enumerate(blocks, 1) for i in range(n)], {}
    for key, value in model.state_dict().items():
        for ours, usual in {"encoder.stem.0.": "conv1.", "encoder.stem.1.": "bn1.", "head.": "linear."}.items():
            key = key.replace(ours, usual) if key.startswith(ours) else key
        for i in reversed(range(len(places))):
            key = key.replace(f"encoder.stages.{i}.", places[i])
        renamed[key] = value.contiguous()
    return renamed


@pytest.fixture(scope="module")
def network():
    return models.build(Network(width=4, blocks=[2, 2, 2, 2]), 3, 3, seed=5).eval()


@pytest.mark.parametrize("wrapped", [
    lambda m: m.state_dict(), cifar_names, lambda m: {"state_dict": cifar_names(m), "epoch": 3},
    lambda m: {"net": {f"module.{k}": v for k, v in cifar_names(m).items()}, "acc": 0.9},
    lambda m: {"model": {k.replace("linear", "fc").replace("shortcut", "downsample"): v for k, v in cifar_names(m).items()}},
])
@pytest.mark.parametrize("architecture", ["cifar_resnet18", "resnet18"])
def test_weights_of_cifar_resnets_load_whatever_they_are_called(tmp_path, network, wrapped, architecture):
    torch.save(wrapped(network), tmp_path / "mine.pth")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(files.built(architecture, tmp_path / "mine.pth", 3).eval()(x), network(x))


def test_weights_of_a_deeper_one_load(tmp_path):
    blocks = [3, 4, 6, 3]
    network = models.build(Network(architecture="bottleneck_resnet", width=4, blocks=blocks), 3, 3, seed=5).eval()
    torch.save(cifar_names(network, blocks), tmp_path / "mine.pth")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(files.built("resnet50", tmp_path / "mine.pth", 3).eval()(x), network(x))


def test_weights_of_libraries_and_of_a_file_of_ones_own_load(tmp_path):
    own = "from torch import nn\ndef make(): return nn.ModuleDict({'net': nn.Linear(2, 3)})\n"
    (tmp_path / "net.py").write_text(own)
    for architecture, model in {"torchvision/squeezenet1_1": torchvision.models.squeezenet1_1(num_classes=3),
                                "resnet18": torchvision.models.resnet18(num_classes=3),
                                "timm/resnet10t": timm.create_model("resnet10t", num_classes=3),
                                f"{tmp_path}/net.py:make": nn.ModuleDict({"net": nn.Linear(2, 3)})}.items():
        save_file(model.state_dict(), tmp_path / "mine.safetensors")
        loaded = files.built(architecture, tmp_path / "mine.safetensors", 3).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


class Bomb:
    def __reduce__(self):
        return (open, ("bomb", "w"))


def sound(model):
    return model.state_dict()


@pytest.mark.parametrize("content, architecture, classes, told", [
    (lambda m: Bomb(), "resnet18", 3, "cannot be read as weights"), (lambda m: [1], "resnet18", 3, "cannot be read"),
    (lambda m: {"epoch": 3}, "resnet18", 3, "holds no tensors"), (sound, "resnet34", 3, "weights of cifar_resnet34"),
    (sound, "cifar_resnet18", 10, "with 10 classes"), (sound, "timm/resnet10t", 3, "weights of timm/resnet10t"),
    (sound, "resnet19", 3, "no architecture 'resnet19'"), (sound, "timm/resnet", 3, "no architecture"),
    (sound, "nowhere.py:make", 3, "there is no file nowhere.py"), (lambda m: m, "resnet18", 3, "like a whole pickled model"),
    (sound, "net.py:nope", 3, "net.py defines no function 'nope'"), (sound, "net.py:three", 3, "returns a int"),
    (sound, "net.py:bad", 3, "net.py:bad fails (ZeroDivisionError: division by zero)"),
])
def test_files_that_do_not_fit_are_refused(tmp_path, monkeypatch, network, content, architecture, classes, told):
    monkeypatch.chdir(tmp_path)
    torch.save(content(network), "mine.pth")
    (tmp_path / "net.py").write_text("def three(): return 3\ndef bad(): return 1 / 0\n")
    with pytest.raises(BadInput) as refused:
        files.built(architecture, tmp_path / "mine.pth", classes)
    assert told in str(refused.value) and "\n" not in str(refused.value) and not (tmp_path / "bomb").exists()


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for c, name in enumerate(("cat", "dog", "frog")):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(6):
                pixels = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
                pixels[..., c] += 150
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{i}.png")
    return tmp_path


def test_three_files_and_a_folder_give_table_and_figure_by_one_command(folder, network, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for name in ("mine", "o", "r"):
        torch.save(cifar_names(network), f"{name}.pth")
    data = ["--architecture", "resnet18", "--data", "images", "--device", "cpu"]
    whole = ["mine.pth", "--original", "o.pth", "--retrain", "r.pth", *data, "--forget", "cat"]
    assert evaluation.command(whole) == 0
    told = capsys.readouterr().out
    assert "Linear probe, verdict" in told and "16 pixels, normalised as 'cifar10'" in told
    assert sorted(path.name for path in folder.iterdir()) == ["images", "mine.pth", "o.pth", "r.pth"]
    assert evaluation.command([*whole, "--save", "found"]) == 0 and (folder / "found" / "evaluation.png").exists()
    for arguments, sentence in {
        ("mine.pth", *data, "--forget", "cow"): "cat, dog, frog",
        ("none.pth", *data, "--forget", "cat"): "none.pth cannot be read",
        ("mine.pth", *data[:2], "--data", "nowhere", "--forget", "cat"): "nowhere must hold images",
        ("mine.pth", *data, "--forget", "cat", "--sed", "3"): "--seeds",
        ("mine.pth", *data, "--forget", "9"): "forget is [9]",
        ("mine.pth", "./mine.pth", *data, "--forget", "cat"): "mine.pth is given twice",
        ("mine.pth", *data[:-1], "foo", "--forget", "cat"): "device 'foo' is not available here; choose one of auto, cpu",
        ("mine.pth", *data, "--forget", "0", "--save", ""): "--save names nothing; give it a value, or leave it out",
        ("mine.pth", "--architecture", "", *data[2:], "--forget", "0"): "--architecture names nothing",
    }.items():
        with pytest.raises(SystemExit) as ended:
            evaluation.command(list(arguments))
        assert str(ended.value).startswith("evaluate: ") and sentence in str(ended.value)


def test_a_broken_image_is_named(folder):
    (folder / "images" / "train" / "dog" / "3.png").write_text("no image")
    batches, _ = files.image_folder(folder / "images", 0, None)
    with pytest.raises(BadInput, match=r"^\S*dog/3.png cannot be read as an image \(cannot identify.*take it away.$"):
        foreign.loader("train", batches["train"], 6)


def test_the_package_alone_loads_no_views_and_the_command_is_known(monkeypatch, capsys):
    code = ("import sys, unlearn_utils; assert not any(n.startswith(('unlearn_utils.', 'torch')) for n in sys.modules); "
            "from unlearn_utils import evaluate; assert callable(evaluate)")
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr(sys, "argv", ["unlearn_utils", "evaluate", "--help"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert not ended.value.code and "--retrain" in capsys.readouterr().out
