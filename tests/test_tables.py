"""Tables: what a cell holds, as a number in the CSV and as text in LaTeX and on the screen."""

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from test_claims import cmf_rows, frame, label, model

from unlearn_utils.paths import ROOT, Outputs
from unlearn_utils.views import claims, tables
from unlearn_utils.views.intervals import Interval


def test_an_interval_is_students_t_over_forget_sets():
    rows = label(probe=0.7)
    gap = tables.gaps(with_readings(rows)).probe_difference["Random Label"]
    of = {model: rows[rows.model == model].probe_forget.to_numpy() for model in ("Random Label", "Retrain")}
    values = of["Random Label"] - of["Retrain"]
    half = 2.2621571627409915 * values.std(ddof=1) / np.sqrt(10)  # t(0.975, 9)
    assert gap.n == 10 and gap.mean == pytest.approx(values.mean())
    assert (gap.low, gap.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_seeds_are_averaged_before_forget_sets():
    rows = pd.DataFrame({"model": "m", "forget": ["0", "0", "0", "1"], "seed": [0, 1, 2, 0], "x": [0.0, 0.0, 0.0, 1.0]})
    cell = tables.summary(rows, ["x"]).x["m"]
    assert (cell.mean, cell.n) == (0.5, 2) and cell.std == pytest.approx(np.sqrt(0.5))
    assert tables.over(rows) == "n = 2 forget sets, 1 to 3 training seeds"
    assert tables.over(rows[:3]) == "n = 1 forget set, 3 training seeds"
    assert tables.over(rows[:1]) == "n = 1 forget set, 1 training seed"


def test_the_interval_of_an_accuracy_ends_at_0_and_1():
    values = [1.0, 1.0, 1.0, 1.0, 0.9]
    rows = pd.DataFrame({"model": "m", "forget": list("01234"), "x_forget": values, "nc1": values})
    rows["y_forget"] = 1 - rows.x_forget
    cells = tables.summary(rows, ["x_forget", "y_forget", "nc1"]).loc["m"]
    assert cells.x_forget.high == 1 and cells.y_forget.low == 0 and cells.nc1.high > 1
    assert 0 < cells.x_forget.low < cells.x_forget.mean == pytest.approx(0.98)


def test_equal_values_have_no_spread():
    assert Interval.of(pd.Series([0.16] * 10)).spread() == "0.16"
    assert Interval.of(pd.Series([0.1, 0.2])).spread() == "0.15 ± 0.07"
    assert Interval.of(pd.Series([np.nan])).spread() == "–"


def test_a_model_without_a_reading_has_a_dash():
    table = tables.formatted(tables.summary(cmf_rows(), ["ncc_in_head_forget"]))
    assert table.loc["Original"].item() == "–" and table.loc["Random Label + CMF"].item() == "40.0"


def test_a_csv_holds_fractions_and_the_screen_per_cent():
    table = tables.summary(label(probe=0.7), ["probe_forget", "alignment_forget"]).loc[["Random Label"]]
    flat = tables.numbers(table)
    assert list(flat.columns[:5]) == ["probe_forget mean", "probe_forget std", "probe_forget low", "probe_forget high", "probe_forget n"]
    assert flat["probe_forget mean"].item() == pytest.approx(0.7) and set(flat.dtypes.map(str)) <= {"float64", "int64"}
    shown = tables.formatted(table).loc["Random Label"]
    assert shown["Linear probe", "forget"] == "70.0 ± 0.1" and shown["cosine", "forget"] == "0.90 ± 0.00"


def test_gaps_are_shown_with_bounds_and_the_bias_gap_is_none():
    rows = label(probe=0.7, median_bias_gap=0.3)
    assert tables.formatted(tables.gaps(with_readings(rows))).loc["Random Label", ("Linear probe", "gap to Retrain")].startswith("20.0 [")
    assert tables.formatted(tables.summary(rows, ["median_bias_gap"])).loc["Random Label"].item() == "0.30"


def with_readings(rows):
    return rows.assign(ncc_alarms=0.01, ncc_auroc_forget=0.9, membership_forget=0.5)


def test_a_refused_recovery_is_shown_as_a_dash():
    rows = with_readings(label(probe=0.7))
    rows.loc[rows.model == "Retrain", "probe_forget"] = rows.loc[rows.model == "Original", "probe_forget"].to_numpy()
    shown = tables.formatted(tables.gaps(rows))
    assert set(shown["Linear probe", "recovery"]) == {"–"} and shown.loc["Original", ("NCC", "recovery")].startswith("1.00")


def test_a_method_that_diverged_leaves_a_gap():
    rows = with_readings(label(probe=0.7))
    numbers = [column for column in rows if column not in ("model", "method", "variant", "seed", "forget")]
    rows.loc[rows.model == "Random Label", numbers] = np.nan
    shown = tables.formatted(tables.gaps(rows))
    assert set(shown.loc["Random Label"]) == {"–"} and shown.loc["Original", ("NCC", "recovery")].startswith("1.00")


def test_attack_gaps_are_at_the_fewest_images_or_after_the_last_step():
    readings = pd.DataFrame([
        {"model": name, "attack": attack, "forget": forget, "x": x, "forget_accuracy": value * x}
        for name, value in (("m", 0.2), ("Retrain", 0.1)) for attack, xs in (("few_shot", (2, 4)), ("own_head", (0, 1, 3)))
        for forget in "01" for x in xs])
    readings = pd.concat([readings, readings[(readings.model == "m") & (readings.attack == "few_shot")].assign(model="part")])
    table = tables.attack_gaps(readings)
    gaps = table.loc["m"]
    assert tables.formatted(table).loc["part", ("own head", "gap to Retrain")] == "–"
    assert np.isnan(tables.numbers(table).loc["part", "own_head_difference mean"])
    assert gaps.few_shot_difference.mean == pytest.approx(0.2) and gaps.own_head_difference.mean == pytest.approx(0.3)


def test_the_papers_numbers_stand_after_each_readout_in_its_geometry():
    rows = cmf_rows().assign(probe_in_head_retain=0.9)
    columns = ["output_forget", "probe_forget", "probe_in_head_forget"]
    table = tables.beside_paper(tables.summary(rows, columns), rows, "digits")
    assert list(table) == ["output_forget", "output_paper", "probe_forget", "probe_paper", "probe_in_head_forget", "probe_in_head_paper"]
    assert table.output_paper["Random Label + CMF"] == pytest.approx(0.807)
    assert table.probe_paper["Random Label"] == pytest.approx(0.9249)
    assert np.isnan(table.probe_paper["Random Label + CMF"]) and table.probe_in_head_paper["Random Label + CMF"] == pytest.approx(0.8571)
    assert np.isnan(table.output_paper["Distilled head"])
    other = tables.beside_paper(tables.summary(rows, columns), rows, "tiny_imagenet")
    assert not any(column.endswith("paper") for column in other)


def test_latex_is_plain_escaped_and_says_what_it_needs(home):
    table = tables.gaps(with_readings(label(probe=0.4)))
    shown = tables.save(table, "a_table", Outputs("digits"), "Gaps in % of images, n = 10")
    text = (home / "figures/digits/a_table.tex").read_text()
    assert text.startswith("% needs \\usepackage{booktabs,graphicx}\n") and "\\label{tab:a_table}" in text
    assert "Gaps in \\% of images, n = 10; profile digits." in text and "$-$10.0 [$-$10" in text
    assert not set("±–●◐○") & set(text) and "\\multicolumn{2}{c}{Linear probe}" in text
    assert len(shown) == len(pd.read_csv(home / "figures/digits/a_table.csv"))


def test_long_tables_go_over_pages_and_sentences_are_wrapped():
    lines = range(tables.PAGE + 1)
    long = pd.DataFrame({"x": ["1.0" for _ in lines]}, index=pd.MultiIndex.from_product([["a"], lines]))
    assert "\\begin{longtable}{llr}" in tables.latex(long, "n", "c") and "multirow" not in tables.latex(long, "n", "c")
    assert "{lrp{4cm}}" in tables.latex(pd.DataFrame({"x": ["1"], "why": ["word " * 20]}), "n", "c")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no TeX engine here: install pdflatex (Debian: texlive-latex-base)")
def test_all_committed_tables_compile_and_fit_on_a_page(tmp_path):
    files = sorted((ROOT / "figures" / "digits").glob("*.tex"))
    body = "\n".join(f"\\input{{{file}}}\\clearpage" for file in files)
    (tmp_path / "all.tex").write_text(
        "\\documentclass[a4paper]{article}\n\\usepackage[margin=2cm]{geometry}\n\\usepackage{booktabs,graphicx,longtable}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n")
    for _ in range(2):  # the second time references and the widths of long tables are known
        run = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path,
                             capture_output=True, text=True, errors="replace")
    assert files and run.returncode == 0, run.stdout[-2000:]
    assert "Overfull \\hbox" not in run.stdout and "too large for page" not in run.stdout, run.stdout[-2000:]


def test_cards_of_other_profiles_are_read_and_old_ones_named(home):
    card = claims.scorecard(label(probe=0.88))
    for folder, content in {"one": card, "two": card, "two+1a2b3c": card, "old": card.rename(columns={"agrees": "verdict"})}.items():
        Outputs(folder).file("scorecard.csv")
        content.to_csv(home / "figures" / folder / "scorecard.csv", index=False)
    others, older = tables.other_cards("one")
    assert list(others) == ["two"] and older == ["old"]
    both = claims.claims_by_profile({"one": card} | others)
    assert (both.one == both.two).all() and len(both) == len(claims.claims_by_profile({"one": card}))


def test_frame_is_left_as_it_was():
    rows = frame(model("Random Label", "random_label"))
    before = rows.copy()
    tables.summary(rows), tables.gaps(with_readings(rows))
    pd.testing.assert_frame_equal(rows, before)
