"""Writes RESULTS.md, and every block of the README that stands between two marks, from ``figures/`` and pyproject.toml.

    python tools/results_page.py           # for maintainers, after ./run_all.sh --refresh-reference

No number of either is typed: a test writes both again and finds nothing changed.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import nbformat
import pandas as pd

from unlearn_utils.methods import METHODS
from unlearn_utils.study import packs, profiles
from unlearn_utils.views import claims, evidence, findings, head_sentences, sentences, spread, tables
from unlearn_utils.views.intervals import FEWEST

ROOT = Path(__file__).parent.parent
SHOWN = "cifar10_slim"  # the profile that leads the README
MARK, END = "<!-- {}: written by tools/results_page.py -->", "<!-- end -->"
COLAB = "https://colab.research.google.com"


def repository() -> str:
    """The repository's address, which stands in pyproject.toml and nowhere else by hand."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def markdown(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(profile: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows, card) of a profile whose measurements lie in ``figures``."""
    folder = ROOT / "figures" / profile
    rows = pd.read_csv(folder / "measurements.csv", dtype={"forget": str})
    return rows, pd.read_csv(folder / "scorecard.csv").fillna({"reason": ""})


def origin(profile: str) -> str:
    """On what, over how much, and with what the numbers were made."""
    return f"{profiles.load(profile).title}; {tables.over(measured(profile)[0])}; {'; '.join(made_with(profile))}."


def made_with(profile: str) -> list[str]:
    """The versions and machines that its results were computed with."""
    notes = json.loads((ROOT / "figures" / profile / "provenance.json").read_text(encoding="utf-8"))["notebooks"]
    return notes["05_scorecard"]["results computed with"]


def cost(profile: str) -> str:
    """How much was computed, in how long, at which commits, and which models were not."""
    pack, left = ROOT / "figures" / profile / packs.NAME, profiles.load(profile).left_out
    if not pack.exists():
        return ""
    records = packs.read(pack).records.values()
    commits = Counter(record["made_with"]["commit"] for record in records).most_common()
    made = ", ".join(f"{name.removesuffix('+')}{' with changes of its own' * name.endswith('+')} ({count})" for name, count in commits)
    out = f" Not computed: {', '.join(f'`{pattern}`' for pattern in left)}." if left else ""
    return f" {len(records)} results in {hours(profile):.1f} hours of one process, at commit {made}.{out}"


def hours(profile: str) -> float:
    """What the results of a pack took, in hours of one process each on its core or GPU."""
    return sum(record["seconds"] for record in packs.read(ROOT / "figures" / profile / packs.NAME).records.values()) / 3600


def searched(profile: str) -> list[str]:
    """On which forget classes the rates were searched, whether these are reported, too, and what such a rate is."""
    own, names = profiles.load(profile), packs.read_images(ROOT / "figures" / profile / packs.NAME).classes
    sets = own.tuning.get("forget_sets", [])
    if not sets:
        return []
    told = ", ".join(" and ".join(names[c] for c in forget) for forget in sets)
    also = sum(tuple(forget) in {pair[1] for pair in own.pairs()} for forget in sets)
    return [f"Searched rates: on held-out training images, with {told} forgotten ({also} of {len(sets)} among the forget sets "
            f"here). The lowest output that costs at most {100 * own.tuning['tolerance']:.0f} points wins, so these are strong "
            "settings; a weaker one that forgets, too, may leave more in the features (`tuning.csv`)."]


def beside_the_paper(profile: str, rows: pd.DataFrame) -> list[str]:
    """The published numbers on the forget class beside this run's, and what classes and seeds explain of the rest."""
    if not tables.comparable(profile):
        return [f"- {spread.said(rows)}", "- Its images or its network are not the paper's, so only signs compare; the published values "
                f"stand beside its own in `figures/{profile}/beside_the_paper.csv`.", ""]
    table = spread.explained(rows, profile, profiles.load(profile).network.weights != "none")
    forget = table[table.measure.str.endswith("_forget")]
    said = [f"- {sentences.explained(table)}", f"- {spread.said(rows)}"]
    if not len(forget):
        return [*said, ""]
    shown = pd.DataFrame({
        "model": forget.model, "readout": [tables.LABELS[name.removesuffix("_forget")] for name in forget.measure],
        **{name: [f"{100 * value:.{digits}f}" for value in forget[name]]
           for name, digits in {"here": 1, "paper": 2, "difference": 1}.items()},
        "paper, these classes": ["–" if not word else f"{100 * low:.1f} to {100 * high:.1f}"
                                 for low, high, word in zip(forget.low, forget.high, forget.within)],
        "within": forget.within.replace("", "–")})
    return [*said, "", "Forget accuracy in per cent, of every published number that this run has, too. *Paper, these classes*: where "
            "the paper's own mean over just these classes would lie, if its classes spread as these do (Student's t, 95 %) and none "
            "is below 0 or above 100 %. The retain classes' numbers: `beside_the_paper.csv`.", "",
            markdown(shown), ""]


def collapse(profile: str) -> str:
    """How near the models are to the neural collapse that the theory assumes."""
    nc1 = pd.read_csv(ROOT / "figures" / profile / "neural_collapse.csv", index_col="model")["nc1 mean"]
    said = ", ".join(f"{name} {nc1[name]:.2f}" for name in ("Original", "Retrain", "Untrained network") if name in nc1)
    return f"NC1, which the theory of notebook 02 assumes to be 0: {said}."


def tied_outputs(rows: pd.DataFrame) -> list[str]:
    """What the CMF models' own outputs still read: unlike the other claims, "CMF removes more" asks for no output that forgets."""
    read = 100 * rows.groupby(["method", "variant", "model"], sort=False).output_forget.mean()
    tied = [key for key in read.index if key[1] == "cmf" and key[0] != "original"]
    references = [key for key in read.index if key[:2] in (evidence.ORIGINAL, evidence.RETRAIN, evidence.RANDOM)]
    listed = ", ".join(f"{key[2]} {read[key]:.1f}" for key in references + tied)
    return [f"What the output of a model with CMF still names right of the forget class, beside the references, in per cent: "
            f"{listed}."] if tied else []


def one_image(profile: str) -> list[str]:
    """What a new head reads of the forget class when it was fitted to one image per class."""
    read = 100 * pd.read_csv(ROOT / "figures" / profile / "attack_one_shot.csv", index_col="model")["forget_accuracy mean"]
    shown = [name for name in ("Original", "Retrain", "Untrained network", "Random Label", "Random Label + CMF") if name in read]
    return [f"A new head, fitted to one image per class, reads of the forget class, in per cent: "
            f"{', '.join(f'{name} {read[name]:.1f}' for name in shown)}."]


def fine_tuned(profile: str) -> list[str]:
    """What fine-tuning brings back beyond Retrain's, after its last step: Random Label's, between the references."""
    table = 100 * pd.read_csv(ROOT / "figures" / profile / "attack_gaps.csv", index_col="model")
    names = {attack: name.removeprefix("fine-tuning ") for attack, name in sentences.ATTACKS.items() if attack != "few_shot"}
    shown = [name for name in ("Original", "Untrained network", "Random Label") if name in table.index]
    said = [f"{name}: {', '.join(f'{model} {gaps[model]:.1f}' for model in shown)}" for attack, name in names.items()
            for gaps in [table.get(f"{attack}_difference mean")] if gaps is not None]
    return [f"What fine-tuning reads of the forget class after the last step, less what it reads in Retrain, in points, "
            f"{'; '.join(said)}."] if said else []


def backbone(profile: str, rows: pd.DataFrame) -> list[str]:
    """What the references of a pretrained backbone are, and what they read; nothing of one trained from scratch."""
    said = sentences.untouched(profiles.load(profile).network)
    return [*said, findings.backbone(rows)] if said else []


def of_profile(profile: str) -> str:
    rows, card = measured(profile)
    readings = [collapse(profile), sentences.room(rows), *backbone(profile, rows), sentences.hiding(card),
                *findings.price(rows, card), *searched(profile),
                sentences.misaligned(card), head_sentences.turns(rows), head_sentences.as_in_retrain(rows),
                sentences.classifier_only(card), sentences.honest(card), *tied_outputs(rows),
                sentences.geometry(rows, profiles.load(profile).cmf_geometry), sentences.centre(rows), *one_image(profile),
                *fine_tuned(profile), findings.differing(card), sentences.inconclusive(card)]
    screen = claims.one_screen(card).reset_index()
    return "\n".join([f"## {profile}", "", origin(profile) + cost(profile), "", markdown(screen), "",
                      *(f"- {reading}" for reading in readings), *beside_the_paper(profile, rows)])


def results(names: list[str]) -> str:
    cards = {name: measured(name)[1] for name in names}
    apart = [name for name in profiles.names() if name not in names and name != "image_folder"]
    alike = ", ".join(f"`{name}`" for name in names if tables.comparable(name))
    head = ["# What was and was not reproduced", "",
            "Written by `tools/results_page.py` from `figures/`. The paper's numbers for ResNet-18 on CIFAR-10 are quoted second hand "
            "from public reproductions, those for its ViT, which stand beside a pretrained backbone, from a table in the official "
            "code; we have not seen the printed ones. The claims are judged by signs, since a profile's network or images are other "
            f"ones; only of {alike} the values are compared, too: its images are the paper's, its network and training are "
            "not. A probe's number belongs to its recipe, which stands in each profile: notebook 01 fits another one by hand, on the same features, and prints both.",
            "", claims.CAPTION, "",
            markdown(claims.claims_by_profile(cards).reset_index(names="claim")), "", "What the runs show:",
            "", markdown(claims.claims_by_profile(cards, "shows").reset_index(names="claim")), "",
            f"Not run, so nothing is known of them here: {', '.join(apart) or 'no profile'}.", ""]
    sentences_of = [f"- **{claim.name}** ({claim.place}): {claim.sentence}" for claim in claims.CLAIMS.values()]
    sources = [f"- {inspect.getmodule(method).__doc__.strip()}" for method in METHODS.values()
               if method.role in ("method", "extension")]
    return "\n".join([*head, "## The claims", "", *sentences_of, "", "## The methods", "", *sources, "",
                      *(of_profile(name) for name in names)])


# ---- the blocks of the README ----

def picture(names: list[str]) -> str:
    rows, _ = measured(SHOWN)
    return (f"![One row per method: what output, nearest class centre and probe read of the forgotten class]"
            f"(figures/{SHOWN}/dumbbell.png)\n\n*{profiles.load(SHOWN).title}; {tables.over(rows)}: {forgotten(SHOWN, rows)}. The "
            f"Original has {100 * accuracy(SHOWN, rows):.1f} % test accuracy. Of the forgotten class probe and nearest class centre "
            f"read {findings.beside(rows)}.*")


def forgotten(profile: str, rows: pd.DataFrame) -> str:
    """The names of the forget classes."""
    names = packs.read_images(ROOT / "figures" / profile / packs.NAME).classes
    return ", ".join(" and ".join(names[int(c)] for c in forget.split()) for forget in rows.forget.unique())


def accuracy(profile: str, rows: pd.DataFrame) -> float:
    """Test accuracy of the Original, all classes."""
    test, of = packs.read_images(ROOT / "figures" / profile / packs.NAME).test, rows[rows.method == "original"].iloc[0]
    share = sum(test[int(c)] for c in of.forget.split()) / sum(test)
    return (1 - share) * of.output_retain + share * of.output_forget


def six(names: list[str]) -> str:
    rows, card = measured(SHOWN)
    listed = [f"{i}. **{found.title}.** {found.sentence} [{found.notebook[:2]}](figures/{SHOWN}/notebooks/{found.notebook}.ipynb)"
              for i, found in enumerate(findings.findings(rows, card), 1)]
    return "\n".join(listed)


def claims_table(names: list[str]) -> str:
    tallies = {f"{name} ({measured(name)[0].forget.nunique()})": findings.tallies(measured(name)[1])
               for name in names}
    lines = [{"claim": claim.name, **{name: found.get(claim.name, "–") for name, found in tallies.items()}}
             for claim in evidence.CLAIMS.values()]
    return ("How many comparisons with a reference show the claim / the contrary / cannot tell (forget sets, of "
            f"curves fewer; under {FEWEST} of them all have to agree). [RESULTS.md](RESULTS.md#the-claims) says each claim in a sentence. A "
            f"*class-mean-features* (CMF) head has the class means as its rows.\n\n{markdown(pd.DataFrame(lines))}\n\n{of_hours(names)}"
            f"{of_seeds(names)}")


def of_hours(names: list[str]) -> str:
    """What the results cost, on what, and what was left out of them."""
    def told(name: str) -> str:
        left = ", ".join(f"`{pattern}`" for pattern in profiles.load(name).left_out)
        return f"{name} {hours(name):.1f}" + f" (without {left})" * bool(left)

    return f"Hours of one process ({'; '.join(sorted({made for name in names for made in made_with(name)}))}): {', '.join(map(told, names))}."


def of_seeds(names: list[str]) -> str:
    """What another training seed changes, on the profiles that were run with several."""
    several = {name: rows for name in names for rows, _ in [measured(name)] if rows.seed.nunique() > 1}
    return "".join(f"\n\n*{name}.* {spread.said(rows)}" for name, rows in several.items())


def notebooks(names: list[str]) -> str:
    place = repository().removeprefix("https://github.com/")
    listed = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        badge = f" [![Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{place}/blob/main/notebooks/{path.name})"
        listed.append(f"[{path.stem[:2]} {title}](notebooks/{path.name}){badge * (not place.startswith('OWNER/'))}")
    return " ·\n".join(listed)


BLOCKS = {"picture": picture, "findings": six, "claims": claims_table, "notebooks": notebooks}


def readme(text: str, names: list[str]) -> str:
    """The README with every block written anew. Raises ValueError where one of them has no place."""
    for name, block in BLOCKS.items():
        parts = re.split(f"({re.escape(MARK.format(name))}\n).*?({re.escape(END)})", text, flags=re.DOTALL)
        if len(parts) != 4:
            raise ValueError(f"the README has no place for {name}: a line '{MARK.format(name)}', then a line '{END}'.")
        text = f"{parts[0]}{parts[1]}{block(names)}\n{parts[2]}{parts[3]}"
    return text


def main(root: Path = ROOT) -> int:
    names = sorted((path.parent.name for path in (ROOT / "figures").glob("*/measurements.csv") if "+" not in str(path)),
                   key=lambda name: (name != SHOWN, name))
    (root / "RESULTS.md").write_text(results(names).rstrip() + "\n", encoding="utf-8")
    (root / "README.md").write_text(readme((ROOT / "README.md").read_text(encoding="utf-8"), names), encoding="utf-8")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
