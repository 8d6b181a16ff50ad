"""The report opens anywhere: one file, nothing loaded, readable at every width, its view operable by keyboard alone."""

import base64
import json
import re
import shutil
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from unlearn_utils.paths import ROOT, Outputs
from unlearn_utils.study.running import tidied
from unlearn_utils.study.steps import MIME
from unlearn_utils.views import frames
from unlearn_utils.views.report import COLOURS, part, smaller, write_index, write_report

WIDTHS = (360, 800, 1400)
ROWS = pd.DataFrame([
    {"method": method, "variant": "linear", "seed": 0, "forget": "3", "output_forget": output, "probe_forget": 0.9,
     "ncc_forget": 0.8}
    for method, output in (("original", 1.0), ("retrain", 0.0), ("random", 0.1), ("scrub", 0.2))
])


def run_of(steps=(0, 1, 2, 4), images=8) -> dict:
    """A made-up run: the output loses class 3 after the first step, the probe one image, NCC nothing."""
    labels = [c for c in (3, 5, 8) for _ in range(images)]
    reading = lambda i, step: {  # noqa: E731
        "step": step, "points": [[c + 0.1 * j, i + 0.2 * j] for j, c in enumerate(labels)],
        "means": [[3, i], [5, i], [8, i]], "output": [5 if i and c == 3 else c for c in labels],
        "probe": [1, *labels[1:]] if i else labels, "ncc": labels,
    }
    return {
        "model": "SCRUB", "profile": "toy </script><b>", "seed": 0, "forget_set": [3], "forget": "3", "labels": labels,
        "names": [str(c) for c in range(10)], "classes": [3, 5, 8], "seconds": 1.0,
        "readings": [reading(i, step) for i, step in enumerate(steps)],
        "pixels": [[[[10 * i, 255], [0, 7]]] for i in range(len(labels))],
    }


@pytest.fixture(scope="module")
def shown() -> frames.Frames:
    return frames.frames(run_of(), ROWS)


@pytest.fixture(scope="module")
def made(tmp_path_factory, shown) -> Path:
    """The report of the committed digits notebooks and of one more with the view, a formula and a failure."""
    home = tmp_path_factory.mktemp("report")
    folder = home / "figures" / "digits"
    (folder / "notebooks").mkdir(parents=True)
    for name in ("scorecard_one_screen.csv", "provenance.json"):
        shutil.copy(ROOT / "figures" / "digits" / name, folder)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, folder / "notebooks")
    view = new_output("display_data", shown._repr_mimebundle_())
    wide = new_output("display_data", {"text/html": pd.DataFrame([["cell"] * 40]).to_html(), "text/plain": ""})
    cells = [
        new_markdown_cell("# The view\n\nWith $\\gamma_K = \\frac{1}{K}$, `$not this$` and 5$ or 6$.\n\n"
                          "$$ a_1 * b_1 * c_1 = 1 $$"),
        new_code_cell("view", outputs=[view, wide]), new_code_cell("x " * 300),
    ]
    path = folder / "notebooks" / "99_view.ipynb"
    nbformat.write(tidied(new_notebook(cells=cells), [], ""), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_HOME", str(home))
        return write_report(Outputs("digits"), {"04_relearning_attacks": "BadInput: <no> images"})


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not binary:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=binary)
        yield started
        started.close()


@pytest.fixture
def opened(browser, made):
    """opened(width, **options): the report in a page, which notes what it asks for and complains of."""

    def open_page(width: int = 800, file: Path = made, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.noted = []
        page.on("console", lambda message: page.noted.append(message.text))
        page.on("pageerror", lambda error: page.noted.append(str(error)))
        page.on("request", lambda request: page.noted.append(request.url))
        page.goto(file.as_uri())
        return page

    return open_page


REPORTS = sorted((ROOT / "figures").glob("*/report.html"))


@pytest.mark.parametrize("committed", [None, *REPORTS], ids=lambda path: path.parent.name if path else "made")
def test_a_report_is_under_2_mb_and_loads_nothing(made, committed):
    text = (committed or made).read_text(encoding="utf-8")
    assert len(text.encode()) < 2e6
    tags = "img|script|iframe|source|audio|video|embed|object"
    loaded = re.findall(rf"<(?:{tags})[^>]*?(?:src|data)=[\"'](?!data:)[^>]{{0,80}}", text)
    assert loaded == [] and not re.search(r"@import|url\((?!['\"]?data:)", text)
    assert re.findall(r"<link[^>]*>", text) == ['<link rel="icon" href="data:,">']


def test_the_claims_come_first_then_every_notebook_then_where_the_numbers_come_from(made):
    text = made.read_text(encoding="utf-8")
    names = [f'id="{path.stem}"' for path in sorted((made.parent / "notebooks").glob("*.ipynb"))]
    places = [text.index(mark) for mark in ('id="scorecard"', *names, 'id="provenance"')]
    assert places == sorted(places) and len(names) > 6
    noted = json.loads((made.parent / "provenance.json").read_text())["notebooks"]
    assert all(note["machine"] in text for note in noted.values())


def test_a_failed_notebook_is_said_and_a_run_without_failure_says_nothing(made, monkeypatch):
    text = made.read_text(encoding="utf-8")
    assert "<strong>04_relearning_attacks</strong>: BadInput: &lt;no&gt; images" in text
    monkeypatch.setenv("UNLEARN_HOME", str(made.parents[2]))
    again = write_report(Outputs("digits"), {}).read_text(encoding="utf-8")
    made.write_text(text, encoding="utf-8")
    assert "Not complete" not in again and "<strong>04_relearning_attacks</strong>" not in again


def test_ids_are_unique_and_the_links_to_them_lead_somewhere(made):
    text = made.read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_formulas_are_mathml_and_code_and_money_are_not(made):
    body = part(made.parent / "notebooks" / "99_view.ipynb")["body"]
    assert body.count("<math") == 2 and "<mfrac>" in body and 'display="block"' in body and "<em>" not in body
    assert "<code>$not this$</code>" in body and "5$ or 6$" in body and "xFORMULA" not in body


def test_no_formula_of_a_notebook_is_left_as_latex_and_no_link_leads_out_of_the_file(made):
    text = made.read_text(encoding="utf-8")
    formulas = re.findall(r"<math.*?</math>", text, re.DOTALL)
    assert len(formulas) > 2 and not any("\\" in formula for formula in formulas)
    assert not re.search(r'href="(?!#|data:|https?://)', text)


def test_a_figure_with_fewer_colours_is_smaller_and_looks_the_same(shown):
    before = frames.png(shown.figure())
    after = smaller(before)
    one, other = (np.asarray(Image.open(BytesIO(base64.b64decode(p))).convert("RGB"), float) for p in (before, after))
    assert len(after) < len(before) and len(np.unique(other.reshape(-1, 3), axis=0)) <= COLOURS
    assert np.abs(one - other).mean() < 3


def test_a_saved_notebook_keeps_the_picture_and_the_data_of_the_view_and_no_script(made, shown):
    (output, _) = nbformat.read(made.parent / "notebooks" / "99_view.ipynb", as_version=4).cells[1].outputs
    assert set(output.data) == {MIME, "image/png"} and dict(output.data[MIME]) == shown.data


def test_the_sentence_is_what_the_numbers_say(shown):
    assert shown.reading() == (
        "SCRUB, from step 0 to 4, the 8 drawn images of class 3 read right in per cent: Output 100.0 to 0.0 (halved by step 1); "
        "Linear probe 100.0 to 87.5 (never halved); NCC 100.0 to 100.0 (never halved). Beside it, over all test images and in the same order: "
        "Original 100.0, 90.0, 80.0; Retrain 0.0, 90.0, 80.0; Untrained network 10.0, 90.0, 80.0.")


def test_every_colour_of_the_view_stands_out_on_white(shown):
    for colour in shown.data["colours"]:
        linear = [(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)
                  for v in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))]
        assert 1.05 / (np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05) >= 3


def test_the_figure_is_readable_at_nine_centimetres(shown):
    figure = shown.figure()
    texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize")) if text.get_text()]
    assert figure.get_size_inches()[0] <= 3.55 and min(text.get_fontsize() for text in texts) >= 7


def test_the_thumbnails_are_the_images(shown):
    sheet = np.asarray(Image.open(BytesIO(base64.b64decode(shown.data["sprite"]["uri"].partition(",")[2]))))
    assert [sheet[2 * (i // 20), 2 * (i % 20)] for i in range(24)] == [10 * i for i in range(24)]
    assert frames.sprite(None) is None


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways_asks_for_anything_or_complains(opened, made, width):
    for file in (made, made.parents[1] / "index.html"):
        page = opened(width, file)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.noted == [file.as_uri()]


def test_a_wide_table_scrolls_inside_its_own_box_by_keyboard(opened):
    page = opened(360)
    box = page.locator("section[id='99_view'] .box").last
    box.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())


def test_the_view_is_operable_by_keyboard_alone(opened):
    page = opened()
    view = page.locator("section[id='99_view'] figure.frames")
    step, image = (view.get_by_role("slider", name=name) for name in ("Step", "Image"))
    first = view.locator("svg").first
    before = first.inner_html()
    step.focus()
    assert "Output 100.0 %" in step.get_attribute("aria-valuetext")
    page.keyboard.press("End")
    assert step.get_attribute("aria-valuetext").startswith("step 4: ")
    assert "Output 0.0 %, Linear probe 87.5 %" in step.get_attribute("aria-valuetext")
    assert first.inner_html() != before
    page.keyboard.press("Tab")
    assert image.evaluate("element => element === document.activeElement")
    assert "A 3, at step 4\nOutput reads 5\nLinear probe reads 1\nNCC reads 3" in view.locator("p").inner_text()
    page.keyboard.press("ArrowRight")
    assert "Linear probe reads 3" in view.locator("p").inner_text()
    assert page.noted[1:] == []


def test_what_lies_under_the_pointer_is_told_and_the_colours_are_those_of_the_readout(opened):
    page = opened()
    view = page.locator("section[id='99_view'] figure.frames")
    marks = view.locator("svg").first.locator("path[fill-opacity]")
    view.get_by_role("slider", name="Step").press("End")
    assert {mark.get_attribute("fill") for mark in marks.all()[:8]} == {frames.COLOURS[1]}  # the output reads 5
    view.get_by_label("Colour shows").select_option("ncc")
    assert {mark.get_attribute("fill") for mark in marks.all()[:8]} == {frames.COLOURS[0]}
    marks.nth(12).hover()
    assert view.get_by_role("slider", name="Image").get_attribute("aria-valuetext").startswith("image 13, a 5")


def test_dark_mode_is_dark_and_text_stands_out_in_both(opened):
    for scheme in ("dark", "light"):
        page = opened(color_scheme=scheme)
        ink, ground = (
            [int(v) for v in re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{what}"))[:3]]
            for what in ("color", "backgroundColor"))
        light, dark = sorted((sum(ink), sum(ground)), reverse=True)
        assert (sum(ground) == dark) == (scheme == "dark") and light > 4 * dark


def test_on_paper_the_view_is_its_picture(opened):
    page = opened()
    page.emulate_media(media="print")
    view = page.locator("section[id='99_view'] figure.frames")
    assert view.locator("> img").is_visible() and not view.locator(".live").is_visible()
    assert not page.locator("details.code").first.is_visible()


def test_without_scripts_the_view_is_its_picture(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("section[id='99_view'] figure.frames > img").is_visible()


def test_the_index_lists_profiles_with_a_report_and_no_run_with_other_parameters(made, monkeypatch):
    monkeypatch.setenv("UNLEARN_HOME", str(made.parents[2]))
    other = made.parents[1] / "digits+abc123"
    other.mkdir(exist_ok=True)
    (other / "report.html").write_text("")
    text = write_index().read_text(encoding="utf-8")
    assert re.findall(r'href="(?!data)([^"]+)"', text) == ["digits/report.html"]
