"""Drawings: what unlearning does to a class mean and to its weight vector, as an idea, as measured, and as derived."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..settings import BadInput
from .style import FORGET, GREY, RETAIN, canvas, end_labels, finish

CLOUD = np.random.default_rng(3).normal(scale=0.13, size=(30, 2))
LAST = 100  # gradient steps that the theory's path is drawn for: later, rounding errors part the retain classes


def arrows(vectors: dict[str, tuple]) -> Figure:
    """Weight vector and centred class mean of the forget class, by model, the Original's two dashed in every panel.

    ``vectors`` hold (weight vector (d,), class mean (d,)) by name, "Original" among them and the others made from it.
    An arrow stands at the angle by which it turned in all d dimensions, on the side where the angle between the two is
    drawn best: a projection would hide a vector that left the plane. Raises BadInput where there is no Original. Ours.
    """
    if "Original" not in vectors:
        raise BadInput("arrows compares with the Original, so one of the models must be called 'Original'.")
    before, down = vectors["Original"], -(-len(vectors) // 2)
    start = np.array([90 - _angle(*before), 90])  # degrees: the Original's class mean points up
    figure, axes = canvas(1.65 * down, down, 2, sharex=True, sharey=True)
    points = []
    for axis in axes.flat:
        axis.set(aspect="equal")
        axis.set_axis_off()
    for axis, (name, pair) in zip(axes.flat, vectors.items()):
        between, turns = _angle(*pair), np.array([_angle(new, old) for new, old in zip(pair, before)])
        sides = [start + turns * side for side in ((-1, 1), (1, 1), (-1, -1), (1, -1))]
        at = min(sides, key=lambda ends: abs(abs((ends[1] - ends[0] + 180) % 360 - 180) - between))
        texts = ("weight vector", "class mean")
        for old, new, turn, text, colour, y in zip(start, at, turns, texts, ("black", FORGET), (-6, -15)):
            _arrow(axis, _at(old), colour, dashed=True)
            _arrow(axis, _at(new), colour)
            axis.plot(*np.transpose([(0, 0), _at(old), _at(new)]), alpha=0)  # what the limits of the axes hold
            text += f" turned {turn:.0f}°" * (name != "Original")
            axis.annotate(
                text,
                (0.5, 0),
                (0, y),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="center",
                va="center",
                size=7.5,
                color=colour,
            )
        axis.set_title(f"{name}\n{between:.0f}° apart", size=7.5)
        points.append({"model": name, "between": between, "weight_turn": turns[0], "mean_turn": turns[1]})
    caption = (
        "Weight vector (black) and class mean (orange) of the forget class at the angles by which they turned "
        "from the Original's (dashed). Lengths are not to scale; the angle between the two is written above."
    )
    return finish(figure, pd.DataFrame(points), caption)


def turning_apart() -> Figure:
    """The paper's theory: the weight vector turns away from the class mean, and the cluster stays where it was."""
    return _drawn(_weights_leave)


def schematics() -> Figure:
    """The paper's theory next to what was measured in Random Label: which of the two leaves the other."""
    return _drawn(_weights_leave, _mean_leaves)


def _drawn(*drawings) -> Figure:
    figure, (axes,) = canvas(2.0, 1, len(drawings))
    for axis, draw in zip(axes, drawings):
        for degrees in (205, 335):
            axis.scatter(*(CLOUD + _at(degrees)).T, s=7, color=RETAIN, linewidths=0, alpha=0.75)
        axis.plot(0, 0, "+", color="black", markersize=6, zorder=5)
        draw(axis)
        axis.title.set_size(7.5)
        axis.set(xlim=(-1.4, 1.4), ylim=(-1.05, 1.3), aspect="equal")
        axis.set_axis_off()
    caption = (
        "A drawing, not a measurement: features of the forget class (orange) and of retain classes (blue), the "
        "forget class's weight vector (black, dashed before unlearning), and the global mean (cross)."
    )
    return finish(figure, pd.DataFrame({"drawing": [draw.__name__.strip("_") for draw in drawings]}), caption)


def _weights_leave(axis) -> None:
    axis.set_title("The paper's theory:\nweights leave the class mean")
    axis.scatter(*(CLOUD + _at(90)).T, s=7, color=FORGET, linewidths=0, alpha=0.75)
    _arrow(axis, _at(80, 0.85), "black", dashed=True)
    _arrow(axis, _at(-80, 0.85), "black")
    _bend(axis, _at(60, 0.55), _at(-60, 0.55), GREY)


def _mean_leaves(axis) -> None:
    axis.set_title("Measured in Random Label:\nthe mean leaves the weights")
    axis.scatter(*(CLOUD + _at(90)).T, s=7, facecolors="none", edgecolors=GREY, linewidths=0.5)
    axis.scatter(*(CLOUD + _at(20, 0.55)).T, s=7, color=FORGET, linewidths=0, alpha=0.75)
    _arrow(axis, _at(90, 0.85), "black", dashed=True)
    _arrow(axis, _at(105, 0.85), "black")
    _bend(axis, _at(78, 0.95), _at(30, 0.72), FORGET)


def theory_gamma(gammas, accuracies, bounds: tuple[float, float]) -> Figure:
    """(retain, forget) accuracy (n, 2), fractions, against the retain loss's weight; ``bounds`` are 1/K and (K-1)/K."""
    figure, ((axis,),) = canvas(1.8)
    axis.axvspan(*bounds, color="#e9e9e9", linewidth=0)
    retain, forget = 100 * np.asarray(accuracies).T
    axis.plot(gammas, retain, color=RETAIN)
    axis.plot(gammas, forget, color=FORGET)
    axis.text(sum(bounds) / 2, 92, "retain classes", color=RETAIN, ha="center", size=7.5)
    axis.text(sum(bounds) / 2, 4, "forget class", color=FORGET, ha="center", size=7.5)
    axis.set(xlabel="weight of the retain loss, γ", ylabel="accuracy (%)", xlim=(0, 1), ylim=(-3, 103))
    axis.set_xticks([0, bounds[0], 0.5, bounds[1], 1], ["0", "1/K", "0.5", "(K−1)/K", "1"])
    caption = (
        f"Theory, without images, {1 / bounds[0]:.0f} collapsed classes: accuracy of the minimiser against the "
        f"weight of the retain loss. Shaded: the predicted interval, from 1/K to (K−1)/K."
    )
    return finish(figure, pd.DataFrame({"gamma": gammas, "retain": retain, "forget": forget}), caption)


def theory_path(path: list, means, forget: int = 0) -> Figure:
    """Cosine of weight vectors and class means (K, d); ``path`` holds W (K, d) after every step of unlearning."""
    weights, means = np.stack([np.asarray(weight) for weight in path[: LAST + 1]]), np.asarray(means)
    cosine = (weights * means).sum(2) / np.linalg.norm(weights, axis=2) / np.linalg.norm(means, axis=1)  # (steps, K)
    retain = np.delete(cosine, forget, axis=1)
    figure, ((axis,),) = canvas(1.8)
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.plot(retain, color=RETAIN)
    axis.plot(cosine[:, forget], color=FORGET)
    axis.set(xlim=(0, len(cosine) - 1), ylim=(-1.05, 1.05), xlabel="gradient step")
    axis.set_ylabel("cosine of weight\nvector and class mean")
    labels = [(retain[-1].mean(), "retain classes", RETAIN), (cosine[-1, forget], "forget class", FORGET)]
    end_labels(axis, labels, 7.5)
    caption = (
        f"Theory, without images: cosine between weight vector and class mean of {len(means)} collapsed classes "
        f"while descent on the retain classes and ascent on the forget class change the classifier alone."
    )
    points = pd.DataFrame(cosine, columns=[f"class {c}" for c in range(len(means))]).rename_axis("step").reset_index()
    return finish(figure, points, caption)


def _angle(one, other) -> float:
    """Degrees between two vectors."""
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    return float(np.degrees(np.arccos(np.clip(one @ other / np.linalg.norm(one) / np.linalg.norm(other), -1, 1))))


def _at(degrees: float, length: float = 1.0) -> np.ndarray:
    return length * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def _arrow(axis, tip: np.ndarray, colour: str, dashed: bool = False) -> None:
    axis.annotate(
        "",
        xy=tip,
        xytext=(0, 0),
        zorder=3 - dashed,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 1 if dashed else 1.8,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 7 if dashed else 9,
            "alpha": 0.6 if dashed else 1,
            "linestyle": (0, (2, 1.5)) if dashed else "-",
        },
    )


def _bend(axis, start: np.ndarray, end: np.ndarray, colour: str) -> None:
    axis.annotate(
        "",
        end,
        start,
        arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1, "connectionstyle": "arc3,rad=-0.4"},
    )
