"""Results to and from other machines, and the committed results of a profile."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..settings import BadInput
from . import packs, run
from .cells import images_of, trained
from .study import REFERENCES, Study


def merge(profile: str, files: list[str]) -> None:
    """Add the results of files to the committed ones of a profile, without any image. Raises BadInput."""
    reference = packs.reference(profile)
    merged = packs.read(reference, profile) if reference.exists() else None
    for path in files:
        pack = packs.read(Path(path), profile)
        merged, said = packs.merge(merged, pack) if merged else (pack, f"{len(pack.records)} results.")
        print(f"{path}: {said}")
    packs.write(merged, packs.place(profile))


def exchange(study: Study, options: Namespace) -> None:
    """What --bring, --export and --carry ask for. Raises BadInput."""
    if options.bring:
        models = [*((method, "linear") for method in REFERENCES), ("original", "cmf")]
        roots = [trained(study.cell(*pair, *model)) for pair in study.pairs for model in models if study.has(*model)]
        print(f"{packs.bring(Path(options.bring), roots)} models added to the cache.")
    if options.export:
        pack = _collected(study)
        packs.write(pack, Path(options.export))
        print(f"{len(pack.records)} results in {options.export}")
    if options.carry:
        if not (count := packs.carry(run.used_by(study.outputs), Path(options.carry))):
            raise BadInput("no model of this study is cached here, so --carry has nothing to copy; run it first.")
        print(f"{count} models in {options.carry}")


def refresh(study: Study, some: bool) -> None:
    """Write the committed results; where only some notebooks were executed, those of the others stay."""
    pack, place = _collected(study), packs.place(study.profile.name)
    if some and place.exists():
        pack, _ = packs.merge(pack, packs.read(place, study.profile.name))
    packs.write(pack, place)


def _collected(study: Study) -> packs.Pack:
    """The results that the executed notebooks of a study used, and the models behind them."""
    return packs.collect(study.profile.name, images_of(study.profile), run.used_by(study.outputs))
