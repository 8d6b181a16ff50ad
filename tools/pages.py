"""Fill RESULTS.md and the table of the README with numbers from the committed results: ``python tools/pages.py``.

People write the sentences, in ``tools/RESULTS.md.j2`` and in the README; this fills in ``{{ numbers }}``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jinja2
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from unlearn_utils import METHODS, Study, compare  # noqa: E402
from unlearn_utils.views import tables  # noqa: E402
from unlearn_utils.views.compare import one_per_method  # noqa: E402

PROFILES = {  # by the column's heading
    "cifar10_slim": "CIFAR-10, ResNet-18 of width 16",
    "cifar10_pretrained": "CIFAR-10, ImageNet backbone",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "digits",
}
BLOCK = re.compile(r"(<!-- claims: written by tools/pages.py -->\n).*?(<!-- end -->)", re.DOTALL)


class Numbers:
    """The committed results of one profile, as the template asks for them."""

    def __init__(self, profile: str):
        self.study = Study(profile, results="committed")
        has, listed = self.study.has, [m for m, cls in METHODS.items() if cls.role == "method"]
        variants = ("linear", "tuned", "classifier", "cmf", "cmf_budget")
        models = [f"{m}.{v}" for m in listed for v in variants if has(m, v) and (v != "cmf_budget" or has(m, "cmf"))]
        self.rows = self.study.measure(models)
        self.few = self.study.attack(["random_label"], "few_shot")
        self.n = tables.n_of(self.rows)
        self.title = self.study.profile.title
        names = [" and ".join(self.study.classes[int(c)] for c in f.split()) for f in self.rows.forget.unique()]
        self.classes = ", ".join(names)

    def claims(self) -> pd.Series:
        return tables.claims(self.rows, self.few).numbers.iloc[:, -1]

    def value(self, model: str, column: str) -> str:
        """Mean over forget sets, in % for accuracies."""
        scale, digits = (1, 0 if "turn" in column else 2) if tables.PLAIN.match(column) else (100, 1)
        return f"{scale * self.rows[self.rows.model == model].groupby('forget')[column].mean().mean():.{digits}f}"

    def minus(self, model: str, reference: str, column: str) -> str:
        """A difference in points with its interval, bold where significant."""
        if reference in ("retrain", "original"):
            own = one_per_method(self.rows)
            family = own if model in set(own.model) else pd.concat([own, self.rows[self.rows.model == model]])
            found = compare(family, reference, [column])
        else:
            found = compare(self.rows, {model: reference}, [column])
        return bold(found.text(next(found.frame[found.frame.model == model].itertuples())))

    def table(self) -> str:
        own = self.rows[self.rows.variant.isin(["linear", "tuned"])]
        return markdown(
            tables.means(
                own,
                ["output_retain", "output_forget", "probe_forget", "ncc_forget"],
                compare(one_per_method(own), "retrain", ["probe_forget"]),
            ).text
        )

    def sham(self) -> str:
        """Each method from the Original and from Retrain, minus Retrain, and the difference of the two."""
        labels = [METHODS[m].label for m in ("random_label", "salun", "neggrad_plus", "scrub", "unsir")]
        of = Study(self.study.profile.name, forget="single", seeds=[0], results="committed")
        rows = of.measure([m for m in METHODS if METHODS[m].label in labels], variant=["linear", "sham"])
        comparisons = {
            "from the Original": compare(rows[~rows.variant.eq("sham")]),
            "from Retrain": compare(rows[~rows.model.isin(labels)]),
            "difference": compare(rows, {name: f"{name} on Retrain" for name in labels}),
        }
        columns = {}
        for column, readout in (("probe_forget", "Probe"), ("ncc_forget", "NCC")):
            for name, found in comparisons.items():
                lines = found.frame[found.frame.column == column].itertuples()
                text = {line.model.removesuffix(" on Retrain"): found.text(line) for line in lines}
                columns[f"{readout}, {name}"] = [text[label] for label in labels]
        return markdown(pd.DataFrame(columns, pd.Index(labels, name="method")))

    def mask(self, column: str) -> str:
        """SalUn with a random mask minus SalUn, one seed."""
        of = Study(self.study.profile.name, forget="single", seeds=[0], results="committed")
        rows = of.measure(["salun", "salun_random_mask"], references=False)
        found = compare(rows, {"SalUn, random mask": "SalUn"}, [column])
        return bold(found.text(next(found.frame.itertuples())))

    def paper(self) -> str:
        numbers = tables.next_to_paper(self.rows, self.study.profile.name).numbers.reset_index()
        numbers["here"] = numbers.here.map("{:.1f}".format)
        numbers["paper"] = numbers.paper.map("{:.2f}".format)
        return markdown(numbers.set_index("model")[["measurement", "here", "paper"]])


def bold(text: str) -> str:
    return re.sub(r"</?b>", "**", text)


def markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    table = table.reset_index()
    lines = [table.columns.tolist(), ["---"] * table.shape[1], *table.values.tolist()]
    return "\n".join(f"| {' | '.join(bold(str(cell)) for cell in line)} |" for line in lines)


def main() -> None:
    found = {name: Numbers(name) for name in PROFILES}
    claims = pd.DataFrame(
        {
            f"{title} ({of.rows.forget.nunique()})": of.claims()
            for (name, title), of in zip(PROFILES.items(), found.values(), strict=True)
        }
    )
    claims.insert(0, "measured", list(tables.CLAIMS.values()))
    claims.index.name = "claim (forget sets)"
    readme = ROOT / "README.md"
    text = BLOCK.sub(lambda match: match[1] + markdown(claims) + "\n" + match[2], readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")
    template = jinja2.Template(
        (ROOT / "tools" / "RESULTS.md.j2").read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined
    )
    (ROOT / "RESULTS.md").write_text(template.render(p=found, claims=markdown(claims)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
