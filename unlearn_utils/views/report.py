"""The report: one file for a profile that opens by double click anywhere, and the index over profiles.

First the claims and the figures with their captions, then the notebooks, then where the numbers come from. Figures lie
in the file, formulas are MathML: nothing is loaded from elsewhere, and there is no script.
"""

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
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from pygments.formatters import HtmlFormatter

from ..paths import Outputs, write
from ..study import profiles
from .compare import as_html

HERE = Path(__file__).parent
COLOURS = 48  # of a figure in the report: as seen, a third of the bytes
FIRST = ("learning_curve", "dumbbell", "cmf", "attacks")  # figures on the first two screens
# Code of a cell is folded; nbconvert's other templates load scripts and styles from elsewhere.
CELL = """{%- extends 'basic/index.html.j2' -%}
{%- block input_group -%}<details class="code"><summary>Code</summary>{{ super() }}</details>{%- endblock -%}"""
BOX = '<div class="box" tabindex="0" role="region" aria-label="table">{}</div>'  # scrolls where the page is narrow


class Part(IPythonRenderer):
    """Markdown of a notebook as a part of the report: headings below the report's own, formulas as MathML."""

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        return f"<h{level + 1}>{text}</h{level + 1}>\n"

    def inline_math(self, body: str, display: str = "inline") -> str:
        return f'<span class="formula {display}">{convert(body.strip(), display=display)}</span>'

    def block_math(self, body: str) -> str:
        return self.inline_math(body, "block")


def write_report(outputs: Outputs, failed: dict[str, str]) -> Path:
    """Write ``report.html`` beside a profile's figures, of the notebooks that lie there, and the index of all reports.

    ``failed`` says by notebook what went wrong in this run: the report says so, too.
    """
    notebooks = sorted((outputs.path / "notebooks").glob("[0-9A]*.ipynb"))
    provenance = outputs.path / "provenance.json"
    content = {
        "title": profiles.load(outputs.profile).title,
        "failed": failed,
        "claims": _claims(outputs.path),
        "figures": [figure(path) for name in FIRST if (path := outputs.path / f"{name}.png").exists()],
        "parts": [part(path) for path in notebooks],
        "provenance": json.loads(provenance.read_text(encoding="utf-8"))["notebooks"] if provenance.exists() else {},
    }
    path = outputs.file("report.html")
    write(path, _filled("report.j2", content))
    if not outputs.differs:
        write_index(outputs.path.parent)
    return path


def write_index(folder: Path) -> None:
    """Write ``index.html``: the claims of every profile that has a report in this folder of figures."""
    names = [name for name in profiles.names() if (folder / name / "report.html").exists()]
    listed = [{"name": n, "title": profiles.load(n).title, "claims": _claims(folder / n)} for n in names]
    write(folder / "index.html", _filled("index.j2", {"title": "Reports", "listed": listed}))


def _filled(template: str, content: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    style = (HERE / "report.css").read_text(encoding="utf-8")
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    style += f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}"
    return environment.get_template(template).render(style=style, **content)


def _claims(folder: Path) -> str:
    """The table of claims as HTML; empty where notebook 05 has not been run."""
    path = folder / "claims.csv"
    return BOX.format(as_html(pd.read_csv(path), index=False, border=0)) if path.exists() else ""


def figure(path: Path) -> dict[str, str]:
    """A kept figure with its caption, which lies in the file."""
    caption, picture = Image.open(path).text.get("Description", ""), base64.b64encode(path.read_bytes()).decode()
    return {"name": path.stem.replace("_", " "), "caption": caption, "picture": smaller(picture)}


def part(path: Path) -> dict[str, str]:
    """A notebook as a part of the report: ``name``, ``title`` and ``body``. Converted alone, since cell ids repeat."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in (data := output.get("data", {})):
                data["image/png"] = smaller(data["image/png"])
                name = re.search(r'study\.save\(.*"(\w+)"', cell.source)
                output.metadata["image/png"] = {"alt": f"figure {name[1].replace('_', ' ')}" if name else "figure"}
    exporter = HTMLExporter(raw_template=CELL, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_filter("markdown2html", lambda text: MarkdownWithMath(renderer=Part(escape=False)).render(text))
    body, _ = exporter.from_notebook_node(notebook)
    body = re.sub(r' id="(?:cell-id=)?[^"]*"', "", body)  # the same ones in every notebook
    body = re.sub(r'href="(?:\./)?([0-9A]\w+)\.ipynb[^"]*"', r'href="#\1"', body)  # all of them are parts of this page
    body = re.sub(r"<style scoped[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<table.*?</table>", lambda found: BOX.format(found[0]), body, flags=re.DOTALL)
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = re.search("^# (.+)", words, re.MULTILINE)
    return {"name": path.stem, "title": title[1] if title else path.stem, "body": body}


def smaller(picture: str) -> str:
    """A PNG with few colours, base64 to base64; the picture itself where that would not be smaller."""
    file = BytesIO()
    image = Image.open(BytesIO(base64.b64decode(picture))).convert("RGB")  # figures have no transparent ground
    image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return min(picture, base64.b64encode(file.getvalue()).decode(), key=len)
