"""Results to and from other machines, and the committed results of a profile."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..paths import Outputs
from ..settings import BadInput
from . import packs, run
from .cells import images_of, trained
from .study import REFERENCES, Study


def exchange(study: Study, options: Namespace) -> None:
    """What --bring, --merge, --export and --carry ask for. Raises BadInput."""
    name, reference = study.profile.name, packs.reference(study.profile.name)
    if options.bring:
        models = [method for method in REFERENCES if study.has(method)]
        roots = [trained(study.cell(*pair, method)) for pair in study.pairs for method in models]
        print(f"{packs.bring(Path(options.bring), roots)} models added to the cache.")
    if options.merge:
        merged = packs.read(reference, name) if reference.exists() else None
        for path in options.merge:
            pack = packs.read(Path(path), name)
            merged, said = packs.merge(merged, pack) if merged else (pack, f"{len(pack.records)} results.")
            print(f"{path}: {said}")
        packs.write(merged, _committed(name))
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
    pack, place = _collected(study), _committed(study.profile.name)
    if some and place.exists():
        pack, _ = packs.merge(pack, packs.read(place, study.profile.name))
    packs.write(pack, place)


def _collected(study: Study) -> packs.Pack:
    """The results that the executed notebooks of a study used, and the models behind them."""
    return packs.collect(study.profile.name, images_of(study.profile), run.used_by(study.outputs))


def _committed(name: str) -> Path:
    place = Outputs(name).path.parent
    return (place.parent if place.name == "local" else place) / name / packs.NAME
