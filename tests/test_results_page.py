"""No number of RESULTS.md or of the README is typed; the README is short, and its findings say what the numbers say."""

import re
import subprocess
import runpy
from pathlib import Path

import pandas as pd
import pytest
import results_page
from test_claims import frame, label, model

from unlearn_utils.views import claims, evidence, findings, sentences, spread

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROFILES = sorted(path.parent.name for path in (ROOT / "figures").glob("*/measurements.csv"))
BLOCK = re.compile(r"<!-- \w+: written by .*?<!-- end -->", re.DOTALL)


def prose(text: str) -> str:
    """What a reader reads: without code blocks, marks, pictures and the addresses of links."""
    text = re.sub(r"```.*?```|<!--.*?-->", " ", text, flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"!\[[^]]*\]\([^)]*\)", " ", text))


def words(text: str) -> int:
    return len(re.findall(r"[^\s|]*\w[^\s|]*", prose(text)))


def of(rows: pd.DataFrame, readings: pd.DataFrame | None = None) -> dict[str, str]:
    return {found.title: found.sentence for found in findings.findings(rows, claims.scorecard(rows, None, readings))}


@pytest.fixture
def committed():
    drawn = subprocess.run(["git", "status", "--porcelain", "figures"], cwd=ROOT, capture_output=True, text=True).stdout
    if drawn:
        pytest.skip("./run_all.sh has drawn figures here, and what is tested is of those that are committed")


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_profile_shows_of_the_others_stands_on_their_cards(profile, committed):
    shown = pd.read_csv(ROOT / "figures" / profile / "claims_shown_by_profile.csv", index_col=0)
    cards = {name: results_page.measured(name)[1] for name in PROFILES}
    assert set(shown) == set(PROFILES), "run --only 05 on this profile"
    assert shown.to_dict() == claims.claims_by_profile(cards, "shows")[list(shown)].to_dict(), "run --only 05 on this profile"


def test_results_and_readme_are_what_the_results_give(tmp_path, committed):
    assert results_page.main(tmp_path) == 0
    for name in ("RESULTS.md", "README.md"):
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert written == (ROOT / name).read_text(encoding="utf-8"), f"{name} is older: run tools/results_page.py"


def test_help_writes_nothing(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["results_page.py", "--help"])
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: pytest.fail("it wrote"))
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(results_page.__file__, run_name="__main__")
    assert "RESULTS.md" in capsys.readouterr().out


def test_the_readme_is_two_screens():
    assert words(README) <= 800


def test_no_number_of_the_readme_is_typed():
    typed = re.findall(r"\d[\d.,]*", prose(BLOCK.sub("", README)))
    assert typed == ["2026"], "the year of the paper is no result; every other number comes from a block"


def test_a_readme_without_a_place_for_a_block_is_refused():
    with pytest.raises(ValueError, match="no place for findings"):
        results_page.readme(README.replace("<!-- findings:", "<!-- findings here:"), PROFILES)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_six_findings_of_one_or_two_numbers_and_at_most_25_words(profile):
    rows, card = results_page.measured(profile)
    found = findings.findings(rows, card)
    assert len(found) == 6
    for finding in found:
        assert words(finding.sentence) <= 25, finding.sentence
        numbers = re.findall(r"\d+ of \d+|\d+\.\d+", finding.sentence)
        assert len(numbers) in ((0,) if finding.sentence == findings.NOT_RUN else (1, 2)), finding.sentence
        assert (ROOT / "notebooks" / f"{finding.notebook}.ipynb").exists()


def test_a_finding_turns_with_its_numbers():
    hidden, removed = of(label(ncc=0.88, probe=0.5)), of(label(ncc=0.4, probe=0.88))
    assert "let a probe read the class 0.0 points better than Retrain's (removed), the" in hidden["The features keep it"]
    assert hidden["The features keep it"].endswith("centre 38.0 points better (hidden).")
    assert "38.0 points better than Retrain's (hidden)" in removed["The features keep it"]
    assert removed["The features keep it"].endswith("centre 10.0 points worse (removed).")
    assert "names 1.0 % of" in (kept := of(label(output=0.01))["The output forgets"]) and kept.endswith("1 of 1 methods.")
    assert "names 40.0 % of" in (kept := of(label(output=0.4))["The output forgets"]) and kept.endswith("0 of 1 methods.")
    assert "more than an untrained" in of(frame())["Zero is the wrong reference"]
    seen = frame()
    seen.loc[seen.method == "random", "probe_forget"] += 0.3
    assert "no more than an untrained" in of(seen)["Zero is the wrong reference"]


@pytest.mark.parametrize("retain, said", [
    (0.9, "is enough to look unlearned: 1 of 1"), (0.7, "was never seen to be enough to look unlearned: 0 of 1")])
def test_the_classifier_is_enough_or_not(retain, said):
    assert said in of(frame(model("M", "random_label", "classifier", retain=retain)))["The classifier is enough"]


@pytest.mark.parametrize("after, retain, said", [
    (0.3, 0.9, "in 2 of 2 readings (the paper's comparison), at an equal budget in 2 of 2."),
    (0.6, 0.9, "in 2 of 2 readings (the paper's comparison), at an equal budget in 0 of 2."),
    (0.3, 0.7, "in 0 of 2 readings (the paper's comparison), at an equal budget in 0 of 2.")])
def test_a_tied_classifier_removes_more_or_not_and_one_that_costs_too_much_shows_nothing(after, retain, said):
    tied = {"probe_in_head_forget": after, "ncc_in_head_forget": after}
    rows = frame(model("Random Label", "random_label", probe=0.7, ncc=0.7),
                 model("A", "random_label", "cmf", retain=retain, probe=after, ncc=after, **tied),
                 model("B", "random_label", "cmf_budget", probe=0.5, ncc=0.5))
    rows.loc[rows.method == "retrain", list(tied)] = 0.5
    assert of(rows)["A tied classifier"].endswith(said)


@pytest.mark.parametrize("value, said", [
    (0.8, "30.0 points better on Random Label's features than on Retrain's."),
    (0.3, "20.0 points worse on Random Label's features than on Retrain's: it does")])
def test_one_image_brings_it_back_or_not(value, said):
    shots = pd.DataFrame([
        {"model": name, "method": method, "variant": "linear", "seed": 0, "forget": str(i), "attack": "few_shot", "x": 1,
         "draw": 0, "forget_accuracy": (value if method == "random_label" else 0.5) + 0.001 * i * (method == "retrain")}
        for i in range(10) for name, method in (("Random Label", "random_label"), ("Retrain", "retrain"))])
    shots.loc[shots.method == "retrain", "forget_accuracy"] -= 0.0045
    assert said in of(label(), shots)["One image brings it back"]


def test_what_was_not_run_is_said_to_be_not_run():
    assert of(frame())["One image brings it back"] == of(frame())["The output forgets"] == findings.NOT_RUN


def test_a_claim_is_counted_by_what_its_models_show():
    tally = findings.tallies(claims.scorecard(label(ncc=0.88, probe=0.5)))
    assert tally["NCC still reads it"] == "1/0/0" and tally["Probe still reads it"] == "0/1/0"
    assert set(findings.WORDS) == set(claims.WORDS) and set(tally) <= set(evidence.CLAIMS)


def test_what_seeds_change_is_said_only_where_there_are_several():
    rows = pd.concat([label(probe=0.5 + 0.01 * seed).assign(seed=seed) for seed in (0, 1)])
    assert "One training seed" in spread.said(label())
    assert "over classes, over seeds, and of class by seed" in spread.said(rows)


def test_a_verdict_that_hangs_on_the_seed_is_counted_and_named():
    def said(**other):
        return spread.by_seed(pd.concat([label(probe=0.88, ncc=0.88).assign(seed=0), label(**other).assign(seed=1)]))

    assert "0 turn into their opposite, and 0 are told" in said(probe=0.88, ncc=0.88)
    assert "0 turn into their opposite, and 0 are told" in said(probe=0.65, ncc=0.88)  # hidden or partly hidden
    assert "1 turn into their opposite (Probe still reads it, Random Label), and 0 are told" in said(probe=0.5, ncc=0.88)
    more = pd.concat([label(probe=0.88, ncc=0.88).assign(seed=0), label(probe=0.5, ncc=0.88).assign(seed=1)[lambda rows: rows.forget < "5"]])
    assert "over 5 forget sets" in spread.by_seed(more) and "NCC" not in spread.by_seed(more)
    assert "0 turn into their opposite, and 4 are told" in said(probe=0.88, ncc=0.88, retain=0.75)  # output, probe, NCC, head


@pytest.mark.parametrize("within, said", [
    ("no", "1 can be judged, and another choice of classes would explain 0 (of 1 on the forget class 0)"),
    ("yes", "1 can be judged, and another choice of classes would explain 1 (of 1 on the forget class 1)")])
def test_a_difference_to_the_paper_is_within_or_beyond(within, said):
    table = pd.DataFrame([{"model": "M", "measure": "ncc_forget", "here": 0.5, "paper": 0.4, "difference": 0.1,
                           "within": within}])
    assert said in sentences.explained(table)
    assert "M, NCC on the forget class, 50.0 against 40.0 %" in sentences.explained(table)
    assert "No published number" in sentences.explained(table.assign(within=""))


def test_the_repository_has_one_address():
    address = results_page.repository()
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w-]+", address)
    badges = re.findall(r"colab\.research\.google\.com/github/([\w-]+/[\w-]+)/", README)
    places = set() if "/OWNER/" in address else {address.removeprefix("https://github.com/")}
    assert set(badges) == places  # none where the address is not known yet: no dead links
    assert len(badges) == len(list((ROOT / "notebooks").glob("*.ipynb"))) * len(places)


def test_a_backbone_stands_beside_itself_as_it_came_and_not_beside_an_untrained_network():
    said = findings.backbone(label(ncc=0.88))
    assert "the backbone as it came" in said and "untrained" not in said
    assert said.endswith(" and 88.0 % in Random Label.") and "in Retrain" in said and "in the Original" in said
