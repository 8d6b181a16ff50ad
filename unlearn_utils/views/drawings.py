"""Drawings: how far a class mean and its weight vector turned in unlearning, and what the theory predicts."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..settings import BadInput
from .style import FORGET, RETAIN, canvas, finish

ARROW = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
BEFORE = ARROW | {"linewidth": 1, "linestyle": (0, (2, 1.5)), "alpha": 0.6, "mutation_scale": 7}
AFTER = ARROW | {"linewidth": 1.8, "mutation_scale": 9}


def arrows(vectors: dict[str, tuple]) -> Figure:
    """Weight vector and centred class mean of the forget class, by model, the Original's two dashed in every panel.

    ``vectors`` hold (weight vector (d,), class mean (d,)) by name, "Original" among them and the others made from it.
    An arrow stands at the angle by which it turned in all d dimensions, on the side where the angle between the two is
    drawn best: a projection would hide a vector that left the plane. Ours.
    """
    if "Original" not in vectors:
        raise BadInput(f"the vectors of 'Original' are needed, but given are {', '.join(vectors)}.")
    before, down = vectors["Original"], -(-len(vectors) // 2)
    start = np.array([90 - _angle(*before), 90])  # degrees: the Original's class mean points up
    figure, axes = canvas(2.1 * down, down, 2, sharex=True, sharey=True, subplot_kw={"aspect": "equal"})
    points, tips = [], []
    for axis, (name, pair) in zip(axes.flat, vectors.items()):
        between, turns = _angle(*pair), np.array([_angle(new, old) for new, old in zip(pair, before)])
        sides = [start + turns * side for side in ((-1, 1), (1, 1), (-1, -1), (1, -1))]
        at = min(sides, key=lambda ends: abs(abs((ends[1] - ends[0] + 180) % 360 - 180) - between))
        parts = zip(("weight vector", "class mean"), ("black", FORGET), start, at, turns, (0.12, 0.0))
        for text, colour, old, new, turn, y in parts:
            axis.annotate("", _at(old), (0, 0), arrowprops=BEFORE | {"color": colour}, zorder=2)
            axis.annotate("", _at(new), (0, 0), arrowprops=AFTER | {"color": colour}, zorder=3)
            tips += [_at(old), _at(new)]
            text += f" turned {turn:.0f}°" * (name != "Original")
            axis.text(0.5, y, text, transform=axis.transAxes, ha="center", va="center", size=7.5, color=colour)
        axis.set_title(f"{name}\nangle between the two: {between:.0f}°", size=7.5)
        points.append({"model": name, "between": between, "weight_turn": turns[0], "mean_turn": turns[1]})
    for axis in axes.flat:
        axis.set(xlim=(-1.1, 1.1), ylim=(min(0, *(y for _, y in tips)) - 0.6, 1.1))  # the lines of text stand below
        axis.set_axis_off()
    caption = "Weight vector (black) and class mean (orange) of the forget class, at their angles to the Original's"
    caption += " (dashed). Lengths are not to scale."
    return finish(figure, pd.DataFrame(points), caption)


def theory_gamma(gammas, accuracies, bounds: tuple[float, float]) -> Figure:
    """(retain, forget) accuracy (n, 2), fractions, against the retain loss's weight; ``bounds`` are 1/K and (K-1)/K."""
    points = pd.DataFrame(100 * np.asarray(accuracies), columns=["retain", "forget"])
    figure, ((axis,),) = canvas(1.8)
    axis.axvspan(*bounds, color="#e9e9e9", linewidth=0)
    for name, colour, text, y in (("retain", RETAIN, "retain classes", 92), ("forget", FORGET, "forget class", 4)):
        axis.plot(gammas, points[name], color=colour)
        axis.text(sum(bounds) / 2, y, text, color=colour, ha="center", size=7.5)
    axis.set(xlabel="weight of the retain loss, γ", ylabel="accuracy (%)", xlim=(0, 1), ylim=(-3, 103))
    axis.set_xticks([0, bounds[0], 0.5, bounds[1], 1], ["0", "1/K", "0.5", "(K−1)/K", "1"])
    caption = f"Theory, without images, {1 / bounds[0]:.0f} collapsed classes: accuracy of the closed-form minimiser as"
    caption += " a function of γ, the weight of the retain loss. Shaded: the predicted interval, from 1/K to (K−1)/K."
    points.insert(0, "gamma", gammas)
    return finish(figure, points, caption)


def _angle(one, other) -> float:
    """Degrees between two vectors."""
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    return float(np.degrees(np.arccos(np.clip(one @ other / np.linalg.norm(one) / np.linalg.norm(other), -1, 1))))


def _at(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
