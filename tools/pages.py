"""Fill RESULTS.md and the table of the README with numbers from the committed results: ``python tools/pages.py``.

People write the sentences, in ``tools/RESULTS.md.j2`` and in the README; this fills in ``{{ numbers }}``.
"""

import re
import sys
from pathlib import Path

import jinja2
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from unlearn_utils import METHODS, Study, compare  # noqa: E402
from unlearn_utils.views import plots, tables  # noqa: E402
from unlearn_utils.views.compare import Comparison, head, one_per_method  # noqa: E402

PROFILES = {  # by the column's heading
    "cifar10_slim": "CIFAR-10, ResNet-18 of width 16",
    "cifar10_pretrained": "CIFAR-10, ImageNet backbone",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "digits",
}
CONTROLS = [cls.label for cls in METHODS.values() if cls.role != "method"]  # and references
BLOCK = re.compile(r"(<!-- claims: written by tools/pages.py -->\n).*?(<!-- end -->)", re.DOTALL)


class Numbers:
    """The committed results of one profile, as the template asks for them."""

    def __init__(self, profile: str):
        self.study = Study(profile, results="committed")
        self.single = Study(profile, forget="single", seeds=[0], results="committed")
        has, methods = self.study.has, [name for name, cls in METHODS.items() if cls.role == "method"]
        variants = ("linear", "tuned", "classifier", "cmf", "cmf_budget")
        self.rows = self.study.measure([f"{m}.{v}" for m in methods for v in variants if has(m, v)])
        self.n = tables.n_of(self.rows)
        names = [" and ".join(self.study.classes[int(c)] for c in f.split()) for f in self.rows.forget.unique()]
        self.classes = ", ".join(names)

    def claims(self) -> pd.Series:
        methods = [name for name in plots.PAPER if self.study.has(name)]
        return tables.claims(self.rows, self.study.attack(methods)).text.iloc[:, -1]

    def value(self, model: str, column: str) -> str:
        """Mean over forget sets, in % for accuracies and in degrees for angles."""
        mean = self.rows[self.rows.model == model].groupby("forget")[column].mean().mean()
        return f"{mean:.0f}" if "turn" in column else f"{100 * mean:.1f}"

    def minus(self, model: str, reference: str, column: str) -> str:
        """A difference in points with its interval, bold where significant."""
        if reference not in ("retrain", "original"):
            kind = reference.removeprefix(model.removesuffix(" + CMF"))
            return bold(self._by_cmf(kind, column).texts(column)[model])
        family = one_per_method(self.rows)
        if model not in set(family.model):
            family = pd.concat([family, self.rows[self.rows.model == model]])
        return bold(compare(family, reference, [column]).texts(column)[model])

    def _by_cmf(self, kind: str, column: str) -> Comparison:
        """One family: every method with a CMF head minus its linear model of one kind, as " (tuned)"."""
        pairs = {f"{METHODS[name].label} + CMF": f"{METHODS[name].label}{kind}" for name in plots.PAPER}
        known = set(self.rows.model)
        return compare(self.rows, {one: of for one, of in pairs.items() if {one, of} <= known}, [column])

    def fall_with_cmf(self, kind: str, column: str) -> str:
        """The models with CMF that are significantly below their linear model of one kind."""
        lines = self._by_cmf(kind, column).frame
        return ", ".join(lines.model[lines.significant & (lines.difference < 0)]) or "none"

    def not_above_retrain(self, column: str) -> str:
        """The methods that are not significantly above Retrain."""
        lines = compare(one_per_method(self.rows), "retrain", [column]).frame
        above = lines.significant & (lines.difference > 0)
        return ", ".join(lines.model[~lines.model.isin(CONTROLS) & ~above]) or "none"

    def table(self) -> str:
        own = self.rows[self.rows.variant.isin(["linear", "tuned"])]
        over = compare(one_per_method(own), "retrain", ["probe_forget"])
        return markdown(tables.means(own, tables.COLUMNS, over).text)

    def changed_without_one(self) -> str:
        """Which differences, from Retrain by probe and NCC and by CMF, change significance without one class."""

        def verdicts(rows: pd.DataFrame) -> pd.Series:
            own = one_per_method(rows[rows.variant.isin(["linear", "tuned"])])
            cmf = {label: label.removesuffix(" + CMF") for label in rows[rows.variant == "cmf"].model.unique()}
            found = (compare(own, "retrain", ["probe_forget", "ncc_forget"]), compare(rows, cmf, ["probe_forget"]))
            lines = pd.concat([one.frame for one in found])
            lines = lines[~lines.model.isin(CONTROLS)]
            readouts = lines.column.map({"probe_forget": "probe", "ncc_forget": "NCC"})
            return lines.set_index(lines.model + " by " + readouts).significant

        before, changed = verdicts(self.rows), {}
        for forget in self.rows.forget.unique():
            after = verdicts(self.rows[self.rows.forget != forget])
            for of in before.index[before != after]:
                changed.setdefault(of, []).append(self.study.classes[int(forget)])
        told = ", ".join(f"{of} without {' or '.join(classes)}" for of, classes in changed.items())
        return f"{len(changed) or 'none'} of {len(before)}" + f" ({told})" * bool(changed)

    def sham(self) -> str:
        """Each method from the Original and from Retrain, minus Retrain, and the difference of the two."""
        rows = self.single.measure(plots.PAPER, variant=["linear", "sham"])
        labels = [METHODS[name].label for name in plots.PAPER]
        comparisons = {
            "from the Original": compare(rows[~rows.variant.eq("sham")]),
            "from Retrain": compare(rows[~rows.model.isin(labels)]),
            "difference": compare(rows, {name: f"{name} on Retrain" for name in labels}),
        }
        found = {
            f"{readout}, {name}": one.texts(column).rename(lambda model: model.removesuffix(" on Retrain"))
            for column, readout in (("probe_forget", "Probe"), ("ncc_forget", "NCC"))
            for name, one in comparisons.items()
        }
        return markdown(pd.DataFrame(found, pd.Index(labels, name="method")))

    def sham_of(self, forget: str) -> str:
        """Of one class: probe and NCC of the references, and of Random Label from Retrain and the Original, in %."""
        models = ["original", "retrain", "random", "random_label.sham", "random_label"]
        rows = Study(self.study.profile.name, [forget], [0], results="committed").measure(models, references=False)
        found = {"probe": rows.probe_forget, "NCC": rows.ncc_forget}
        return "; ".join(f"{name} " + ", ".join(f"{100 * value:.1f}" for value in of) for name, of in found.items())

    def mask(self, column: str, model: str = "SalUn, random mask") -> str:
        """SalUn with a random mask, or Random Label, minus SalUn, one seed, as A1 compares them."""
        rows = self.single.measure(["salun", "salun_random_mask", "random_label"], references=False)
        minus = {"SalUn, random mask": "SalUn", "Random Label": "SalUn"}
        return bold(compare(rows, minus, [column]).texts(column)[model])

    def probes(self) -> str:
        """Forget accuracy by six probes, one seed, of the models of A1's table."""
        models = ["original", "retrain", "random", "random_label", "salun", "neggrad_plus"]
        kinds = ["probe", "logistic", "ridge", "neighbours", "mlp", "binary"]
        columns = [f"{kind}_forget" for kind in kinds]
        found = compare(self.single.measure(models, readouts=kinds, references=False), columns=columns)
        by = {label: of.set_index("column") for label, of in found.frame.groupby("model", sort=False)}
        untrained, original, method = (METHODS[name].label for name in ("random", "original", "random_label"))
        table = pd.DataFrame({"Retrain": by[method].reference_value, untrained: by[untrained].value}).round(1)
        for label in (original, method):
            table[f"{label} minus Retrain"] = [found.texts(column)[label] for column in columns]
        return markdown(table.rename(head).rename_axis("probe"))

    def paper(self) -> str:
        numbers = tables.next_to_paper(self.rows, self.study.profile.name).numbers[["here", "paper"]]
        shown = {"here": numbers.here.map("{:.1f}".format), "paper": numbers.paper.map("{:.2f}".format)}
        return markdown(pd.DataFrame(shown).reset_index("measurement"))


def bold(text: str) -> str:
    return re.sub("</?b>", "**", text)


def markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    table = table.reset_index()
    lines = [table.columns, ["---"] * table.shape[1], *table.to_numpy()]
    return "\n".join(f"| {' | '.join(bold(str(cell)) for cell in line)} |" for line in lines)


def main() -> None:
    found = {name: Numbers(name) for name in PROFILES}
    claims = {f"{PROFILES[name]} ({of.rows.forget.nunique()})": of.claims() for name, of in found.items()}
    claims = markdown(pd.DataFrame({"measured": tables.CLAIMS} | claims).rename_axis("claim (forget sets)"))
    readme = ROOT / "README.md"
    text = BLOCK.sub(lambda match: f"{match[1]}{claims}\n{match[2]}", readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")
    template = (ROOT / "tools" / "RESULTS.md.j2").read_text(encoding="utf-8")
    filled = jinja2.Template(template, undefined=jinja2.StrictUndefined).render(p=found, claims=claims)
    (ROOT / "RESULTS.md").write_text(f"{filled}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
