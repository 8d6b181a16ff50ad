"""The run of a method as pictures: a figure of three steps, and an interactive view of all of them.

The view is one script without a library, ``frames.js``. A saved notebook keeps the figure and the view's data, no
script; the report makes the view of them again.
"""

from __future__ import annotations

import base64
import html
import json
import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ..settings import READOUTS
from ..study.steps import MIME
from . import style
from .intervals import number

HERE = Path(__file__).parent
# Forget class, its two neighbours, any other class: what an image is read as. The mark is what it is.
COLOURS, MARKERS = (style.FORGET, "#0b3c6f", "#4a9bd4", "#7a7a7a"), ("o", "^", "s")
BESIDE = {"original": "Original", "retrain": "Retrain", "random": "Untrained network"}


@dataclass(frozen=True, repr=False)
class Frames:
    """What ``frames`` makes; a notebook shows the view where scripts run, else the figure."""

    data: dict[str, Any]  # JSON: what frames.js draws

    def __repr__(self) -> str:
        return f"{self.data['model']} forgets {self.data['forget']} in {len(self.data['readings'])} pictures"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        picture = png(self.figure())
        return {"text/html": page(self.data, picture), "image/png": picture, MIME: self.data}

    def share(self, reading: dict[str, Any], readout: str) -> float:
        """Share of the shown images of the forget class that a readout reads right, per cent."""
        own = self.data["classes"][0]
        read = [c for c, label in zip(reading[readout], self.data["labels"]) if label == own]
        return 100 * read.count(own) / len(read)

    @property
    def drawn(self) -> list[dict[str, Any]]:
        """The readings of the figure: first, middle and last."""
        readings = self.data["readings"]
        return [readings[i] for i in sorted({0, len(readings) // 2, len(readings) - 1})]

    def points(self) -> pd.DataFrame:
        """What the figure shows: an image and step a row, classes by name."""
        name, labels = self.data["names"].__getitem__, self.data["labels"]
        return pd.DataFrame([
            {"step": reading["step"], "image": i, "class": name(labels[i]), "x": x, "y": y}
            | {readout: name(reading[readout][i]) for readout in READOUTS}
            for reading in self.drawn for i, (x, y) in enumerate(reading["points"])
        ])

    def figure(self) -> Figure:
        """The first, the middle and the last step; a row per readout, whose reading is the colour."""
        labels, classes, of_forget = np.array(self.data["labels"]), self.data["classes"], self.data["forget"]
        figure = Figure(figsize=(style.WIDTH, 3.6), layout="constrained")  # not pyplot's, which a notebook shows by itself
        axes = figure.subplots(3, len(self.drawn), sharex=True, sharey=True, squeeze=False)
        for row, readout in zip(axes, READOUTS):
            row[0].set_ylabel(READOUTS[readout])
            for axis, reading in zip(row, self.drawn):
                read_as = np.array([self._colour(c) for c in reading[readout]])
                for c, marker in zip(classes, MARKERS):
                    of = labels == c
                    places = np.array(reading["points"])[of]
                    axis.scatter(*places.T, c=read_as[of], marker=marker, s=7, linewidths=0, alpha=0.8)
                axis.set_title(f"{of_forget}: {self.share(reading, readout):.0f} % right", fontsize=style.SMALL, pad=2)
                axis.set(xticks=[], yticks=[])
        for axis, reading in zip(axes[-1], self.drawn):
            axis.set_xlabel(f"step {reading['step']}")
        names = [*(self.data["names"][c] for c in classes), "another class"]
        handles = [style.mark(colour, marker, name) for colour, marker, name in zip(COLOURS, (*MARKERS, "."), names)]
        source = (f"{self.data['profile']}: {self.data['model']} forgets {of_forget}, {len(labels)} test images, seed "
                  f"{self.data['seed']}. The marker is what an image is, the colour what it is read as by the readout "
                  "of the row. The plane of three class means of the Original.")
        return style.finish(figure, source, handles, columns=4, points=self.points())

    def _colour(self, read_as: int) -> str:
        shown = self.data["classes"]
        return COLOURS[shown.index(read_as)] if read_as in shown else COLOURS[-1]

    def reading(self) -> str:
        """What the three readouts say of the forget class before, at the end, and when each has lost half."""
        said, last = [], self.data["readings"][-1]
        for readout, name in READOUTS.items():
            shares = [self.share(reading, readout) for reading in self.data["readings"]]
            fallen = [r["step"] for r, share in zip(self.data["readings"], shares) if share <= shares[0] / 2]
            when = f"halved by step {fallen[0]}" if fallen else "never halved"
            said.append(f"{name} {number(shares[0], 1)} to {number(shares[-1], 1)} ({when})")
        beside = "; ".join(f"{name} {', '.join(number(v, 1) for v in values)}" for name, values in self.data["beside"])
        drawn = self.data["labels"].count(self.data["classes"][0])
        return (f"{self.data['model']}, from step 0 to {last['step']}, the {drawn} drawn images of class {self.data['forget']} "
                f"read right in per cent: {'; '.join(said)}. Beside it, over all test images and in the same order: "
                f"{beside or 'nothing was measured'}.")


def frames(shown: dict[str, Any], rows: pd.DataFrame) -> Frames:
    """The pictures of ``steps``; ``rows`` are measurements with Original, Retrain and untrained network of that pair."""
    own = rows[(rows.seed == shown["seed"]) & (rows.forget == " ".join(map(str, shown["forget_set"])))]
    found = {name: own[(own.method == method) & (own.variant == "linear")] for method, name in BESIDE.items()}
    columns = [f"{readout}_forget" for readout in READOUTS]
    beside = [  # lists, not tables: a saved notebook sorts the names of a table
        [name, [round(100 * float(value), 1) for value in of[columns].iloc[0]]]
        for name, of in found.items() if len(of) and of[columns].notna().all(axis=None)  # what diverged has none
    ]
    drawn = {"beside": beside, "readouts": list(map(list, READOUTS.items())), "colours": list(COLOURS)}
    return Frames({name: value for name, value in shown.items() if name not in ("pixels", "seconds")}
                  | drawn | {"sprite": sprite(shown["pixels"])})


def sprite(pixels: list | None, across: int = 20) -> dict[str, Any] | None:
    """Images (n, channels, side, side), 0 to 255, side by side in one picture: its data URI, ``side`` and ``across``."""
    if pixels is None:
        return None
    images = np.array(pixels, dtype=np.uint8).transpose(0, 2, 3, 1)
    side, down = images.shape[1], math.ceil(len(images) / across)
    sheet = np.zeros((down * side, across * side, images.shape[3]), np.uint8)
    for i, image in enumerate(images):
        y, x = side * (i // across), side * (i % across)
        sheet[y : y + side, x : x + side] = image
    file = BytesIO()
    Image.fromarray(sheet.squeeze()).save(file, "PNG", optimize=True)
    return {"uri": _uri(base64.b64encode(file.getvalue()).decode()), "side": side, "across": across}


def png(figure: Figure) -> str:
    """A figure as the base64 text that notebooks hold."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode()


def page(data: dict[str, Any], picture: str) -> str:
    """The interactive view as a piece of HTML that needs nothing else; the picture stands there until the script runs."""
    css, script = ((HERE / f"frames.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    inert = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no class name ends the script
    alt = html.escape(f"{data['model']} forgets {data['forget']}: first, middle and last step", quote=True)
    return (f'<figure class="frames"><style>{css}</style><img src="{_uri(picture)}" alt="{alt}">'
            f'<script type="application/json">{inert}</script></figure><script>{script}</script>')


def _uri(picture: str) -> str:
    return f"data:image/png;base64,{picture}"
