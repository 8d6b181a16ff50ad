"""Drawings: what unlearning does to a class mean and to its weight vector, as an idea, as measured, and as derived."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..settings import BadInput
from .style import FORGET, GREY, RETAIN, canvas, end_labels, finish

CLOUD = np.random.default_rng(3).normal(scale=0.13, size=(30, 2))
BEFORE = "#767676"
LAST = 100  # gradient steps that the theory's path is drawn for: later, rounding errors part the retain classes


def arrows(vectors: dict[str, tuple]) -> Figure:
    """Weight vector and centred class mean of the forget class, by model, in the plane of the Original's two vectors.

    ``vectors`` hold (weight vector (d,), class mean (d,)) under a model's name, "Original" among them. Every vector is
    brought to length 1 and then seen at a right angle to the plane, so an arrow that turned out of it is short; the
    angles written are those in all d dimensions. Raises BadInput where there is no Original. Ours.
    """
    if "Original" not in vectors:
        raise BadInput("arrows compares with the Original, so one of the models must be called 'Original'.")
    units = {name: [_unit(v) for v in pair] for name, pair in vectors.items()}
    weight, mean = units["Original"]
    plane = np.stack([_unit(weight - (weight @ mean) * mean), mean])  # (2, d): the Original's class mean points up
    figure, (axes,) = canvas(1.75, 1, len(units))
    points = []
    for axis, (name, pair) in zip(axes, units.items()):
        for vector, old, colour in zip(pair, units["Original"], ("black", FORGET)):
            _arrow(axis, plane @ old, colour, dashed=True)
            _arrow(axis, plane @ vector, colour)
        turns = [_degrees(vector, old) for vector, old in zip(pair, units["Original"])]
        axis.set_title(f"{name}\nangle {_degrees(*pair):.0f}°", size=7.5)
        if name != "Original":
            axis.text(0, -0.42, f"weights {turns[0]:.0f}°", ha="center", size=7)
            axis.text(0, -0.62, f"mean {turns[1]:.0f}°", ha="center", size=7, color=FORGET)
        axis.set(xlim=(-0.6, 0.7), ylim=(-0.65, 1.1), aspect="equal")
        axis.set_axis_off()
        points.append({"model": name, "angle": _degrees(*pair), "weight_turn": turns[0], "mean_turn": turns[1]})
    caption = ("Class weight vector (black) and class mean (orange) of the forget class, of length 1, seen in the plane of the "
               "Original's two (dashed). Below each, by how many degrees the two turned from the Original's; an arrow that left "
               "the plane is short.")
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
    caption = ("A drawing and not a measurement: dots are features (orange: forget class, blue: retain classes), the black arrow "
               "is the class weight vector of the forget class, dashed before unlearning; the cross is the global mean.")
    return finish(figure, pd.DataFrame({"drawing": [draw.__name__.strip("_") for draw in drawings]}), caption)


def _weights_leave(axis) -> None:
    axis.set_title("The paper's theory:\nweights leave the class mean")
    axis.scatter(*(CLOUD + _at(90)).T, s=7, color=FORGET, linewidths=0, alpha=0.75)
    _arrow(axis, _at(80, 0.85), "black", dashed=True)
    _arrow(axis, _at(-80, 0.85), "black")
    axis.annotate("", _at(-60, 0.55), _at(60, 0.55), arrowprops={"arrowstyle": "->", "color": BEFORE, "linewidth": 0.8,
                                                               "connectionstyle": "arc3,rad=-0.45"})


def _mean_leaves(axis) -> None:
    axis.set_title("Measured in Random Label:\nthe class mean leaves the weights")
    axis.scatter(*(CLOUD + _at(90)).T, s=7, facecolors="none", edgecolors=BEFORE, linewidths=0.5)
    axis.scatter(*(CLOUD + _at(20, 0.55)).T, s=7, color=FORGET, linewidths=0, alpha=0.75)
    _arrow(axis, _at(90, 0.85), "black", dashed=True)
    _arrow(axis, _at(105, 0.85), "black")
    axis.annotate("", _at(30, 0.72), _at(78, 0.95), arrowprops={"arrowstyle": "->", "color": FORGET, "linewidth": 1.2,
                                                              "connectionstyle": "arc3,rad=-0.3"})


def theory_gamma(gammas, accuracies, bounds: tuple[float, float]) -> Figure:
    """(retain, forget) accuracy (n, 2), fractions, against the weight of the retain loss; ``bounds`` are 1/K and (K-1)/K."""
    figure, ((axis,),) = canvas(1.8)
    axis.axvspan(*bounds, color="#e9e9e9", linewidth=0)
    retain, forget = 100 * np.asarray(accuracies).T
    axis.plot(gammas, retain, color=RETAIN)
    axis.plot(gammas, forget, color=FORGET)
    axis.text(sum(bounds) / 2, 92, "retain classes", color=RETAIN, ha="center", size=7.5)
    axis.text(sum(bounds) / 2, 4, "forget class", color=FORGET, ha="center", size=7.5)
    axis.set(xlabel="weight of the retain loss, γ", ylabel="accuracy (%)", xlim=(0, 1), ylim=(-3, 103))
    axis.set_xticks([0, bounds[0], 0.5, bounds[1], 1], ["0", "1/K", "0.5", "(K−1)/K", "1"])
    caption = (f"Theory, without images, K = {1 / bounds[0]:.0f} collapsed classes: accuracy of the minimiser against the weight of "
               f"the retain loss. Shaded: the predicted interval, from 1/K to (K−1)/K.")
    return finish(figure, pd.DataFrame({"gamma": gammas, "retain": retain, "forget": forget}), caption)


def theory_path(path: list, means, forget: int = 0) -> Figure:
    """Cosine of class weight vector and class mean while gradient descent unlearns one class: W (K, d) after every step."""
    weights, means = np.stack([np.asarray(weight) for weight in path[:LAST + 1]]), np.asarray(means)
    cosine = (weights * means).sum(2) / np.linalg.norm(weights, axis=2) / np.linalg.norm(means, axis=1)  # (steps, K)
    figure, ((axis,),) = canvas(1.8)
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.plot(np.delete(cosine, forget, axis=1), color=RETAIN)
    axis.plot(cosine[:, forget], color=FORGET)
    axis.set(xlim=(0, len(cosine) - 1), ylim=(-1.05, 1.05), xlabel="gradient step", ylabel="cosine of weight\nvector and class mean")
    end_labels(axis, [(np.delete(cosine[-1], forget).mean(), "retain classes", RETAIN),
                      (cosine[-1, forget], "forget class", FORGET)], 7.5)
    caption = (f"A numerical example of the theory, without images: {len(means)} collapsed classes, cross-entropy, classifier alone. "
               f"The forget class's weight vector turns against its class mean; those of the retain classes stay aligned.")
    points = pd.DataFrame(cosine, columns=[f"class {c}" for c in range(len(means))]).rename_axis("step").reset_index()
    return finish(figure, points, caption)


def _unit(vector) -> np.ndarray:
    vector = np.asarray(vector, dtype=float)
    return vector / np.linalg.norm(vector)


def _degrees(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(one @ other, -1, 1))))


def _at(degrees: float, length: float = 1.0) -> np.ndarray:
    return length * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def _arrow(axis, tip: np.ndarray, colour: str, dashed: bool = False) -> None:
    axis.annotate("", xy=tip, xytext=(0, 0), zorder=3 - dashed, arrowprops={
        "arrowstyle": "-|>", "color": colour, "linewidth": 1 if dashed else 1.8, "shrinkA": 0, "shrinkB": 0,
        "alpha": 0.6 if dashed else 1, "linestyle": (0, (2, 1.5)) if dashed else "-", "mutation_scale": 7 if dashed else 9})
