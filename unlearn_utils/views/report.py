"""The report: one file for a profile that opens by double click anywhere, and the index over profiles.

The scorecard, the executed notebooks, where the numbers come from. Figures lie in the file, formulas are MathML, the
one script is that of the interactive view: nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from PIL import Image
from pygments.formatters import HtmlFormatter

from ..paths import Outputs, home, write
from ..settings import BadInput
from ..study import profiles
from ..study.steps import MIME
from . import frames
from .claims import CAPTION

HERE = Path(__file__).parent
COLOURS = 48  # of a figure in the report: as seen, a third of the bytes
# Code of a cell is folded; nbconvert's other templates load scripts and styles from elsewhere.
CELL = """{%- extends 'basic/index.html.j2' -%}
{%- block input_group -%}<details class="code"><summary>Code</summary>{{ super() }}</details>{%- endblock -%}"""
MATHS = re.compile(  # code first, which may hold dollars; 5$ or 6$ is no formula
    r"(?P<code>```.*?```|`[^`]*`)|\$\$(?P<block>.+?)\$\$|"
    r"(?<![\\\w$])\$(?P<inline>[^\s$](?:[^$]*[^\s$\\])?)\$(?![\w$])", re.DOTALL)


def write_report(outputs: Outputs, failed: dict[str, str]) -> Path:
    """Write ``report.html`` beside a profile's figures, of the notebooks that lie there, and the index of all reports.

    ``failed`` says by notebook what went wrong in this run: the report says so, too.
    """
    notebooks = sorted((outputs.path / "notebooks").glob("[0-9]*.ipynb"))
    parts = [part(path) for path in notebooks if ".partial" not in path.name]
    content = {
        "title": _title(outputs.profile), "caption": outputs.caption, "failed": failed, "parts": parts,
        "picture": _picture(outputs),
        "scorecard": _scorecard(outputs), "scorecard_caption": CAPTION, "provenance": _provenance(outputs),
    }
    path = outputs.file("report.html")
    write(path, _filled("report.j2", content))
    if not outputs.differs:  # a run with other parameters touches nothing of the reference
        write_index()
    return path


def write_index() -> Path:
    """Write ``figures/index.html``: a line for every profile that has a report, none for runs with other parameters."""
    figures = home() / "figures"
    names = [path.parent.name for path in sorted(figures.glob("*/report.html")) if "+" not in path.parent.name]
    verdicts = ["claim", "agrees", "shows"]
    listed = [{"name": name, "title": _title(name), "scorecard": _scorecard(Outputs(name), verdicts)} for name in names]
    write(figures / "index.html", _filled("index.j2", {"title": "Reports", "listed": listed}))
    return figures / "index.html"


def _filled(template: str, content: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    style = (HERE / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style + _colours_of_code(), **content)


def _title(profile: str) -> str:
    try:
        return profiles.load(profile).title
    except BadInput:  # a profile that is gone; its report is still there
        return profile


def _colours_of_code() -> str:
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}"


def _picture(outputs: Outputs) -> str:
    """The dumbbell figure as base64; empty where it was not drawn yet."""
    path = outputs.path / "dumbbell.png"
    return smaller(base64.b64encode(path.read_bytes()).decode()) if path.exists() else ""


def _scorecard(outputs: Outputs, columns: list[str] | None = None) -> str:
    """The claims on one screen, as an HTML table; empty where the profile has none yet."""
    path = outputs.path / "scorecard_one_screen.csv"
    return _boxed(pd.read_csv(path).to_html(columns=columns, index=False, border=0, na_rep="–")) if path.exists() else ""


def _provenance(outputs: Outputs) -> dict[str, Any]:
    """By notebook: commit, machine, versions, minutes."""
    path = outputs.path / "provenance.json"
    return json.loads(path.read_text(encoding="utf-8"))["notebooks"] if path.exists() else {}


def part(path: Path) -> dict[str, str]:
    """A notebook as a part of the report: ``name``, ``title`` and ``body``. Converted alone, since cell ids repeat."""
    notebook, formulas = nbformat.read(path, as_version=4), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _set_apart(cell.source, formulas)
        for output in cell.get("outputs", ()):
            _prepare(output, cell.source, formulas)
    without = dict.fromkeys(("exclude_input_prompt", "exclude_output_prompt", "exclude_anchor_links"), True)
    exporter = HTMLExporter(raw_template=CELL, **without)
    body, _ = exporter.from_notebook_node(notebook)
    for number, formula in enumerate(formulas):
        body = body.replace(_token(number), formula)
    body = re.sub(r' id="(?:cell-id=)?[^"]*"', "", body)  # the same ones in every notebook
    body = re.sub(r'href="(?:\./)?([0-9]\w+)\.ipynb[^"]*"', r'href="#\1"', body)  # all of them are parts of this page
    body = re.sub(r"<(/?)h([1-5])\b", lambda m: f"<{m[1]}h{int(m[2]) + 1}", body)  # below the report's own
    body = re.sub(r"<style scoped[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<table.*?</table>", lambda m: _boxed(m[0]), body, flags=re.DOTALL)
    title = re.search(r"^# (.+)", next((c.source for c in notebook.cells if c.cell_type == "markdown"), ""), re.MULTILINE)
    return {"name": path.stem, "title": title[1] if title else path.stem, "body": body}


def _prepare(output: nbformat.NotebookNode, source: str, formulas: list[str]) -> None:
    """An output as the report shows it: smaller figures that say what they are, formulas, the interactive view."""
    data = output.get("data", {})
    if MIME in data:
        data["text/html"] = frames.page(data[MIME], smaller(data["image/png"]))
        return
    if "text/markdown" in data:
        data["text/markdown"] = _set_apart(data["text/markdown"], formulas)
    if "image/png" in data:
        data["image/png"] = smaller(data["image/png"])
        name = re.search(r'"(\w+)", plan\.outputs', source)
        output.metadata["image/png"] = {"alt": f"figure {name[1].replace('_', ' ')}" if name else "figure"}


def smaller(picture: str) -> str:
    """A PNG with few colours, base64 to base64; the picture itself where that would not be smaller."""
    file = BytesIO()
    image = Image.open(BytesIO(base64.b64decode(picture))).convert("RGB")  # figures have no transparent ground
    image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    made = base64.b64encode(file.getvalue()).decode()
    return made if len(made) < len(picture) else picture


def _set_apart(text: str, formulas: list[str]) -> str:
    """Markdown with a word in place of every formula, which Markdown would read as its own; ``formulas`` get MathML."""
    def replaced(found: re.Match) -> str:
        if found["code"]:
            return found[0]
        display = "block" if found["block"] else "inline"
        known = found[display].replace(r"\arg", r"\operatorname{arg}")  # which latex2mathml does not know
        formulas.append(f'<span class="formula {display}">{convert(known, display=display)}</span>')
        return _token(len(formulas) - 1)

    return MATHS.sub(replaced, text)


def _token(number: int) -> str:
    return f"xFORMULA{number}x"


def _boxed(table: str) -> str:
    """A table that scrolls inside its own box, by keyboard too."""
    return f'<div class="box" tabindex="0" role="region" aria-label="table">{table}</div>'
