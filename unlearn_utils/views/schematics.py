"""What unlearning does to a class mean and to its row in the classifier: three drawings, and the angle as measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ..theory import simplex_etf, unlearned_weight
from .style import FORGET, RETAIN, SMALL, canvas, finish, mark, rule

AROUND = {"neighbour a": 215, "neighbour b": 325, "forgotten": 90}  # degrees: three classes of a simplex, seen from above
ROW, BEFORE = "black", "#767676"
CLOUD = np.random.default_rng(3).normal(scale=0.13, size=(30, 2))


def turning_apart() -> Figure:
    """The classifier's row turns away from the class mean, as in the theory: the output forgets, the cluster stays."""
    return _alone(_turning_apart)


def tied() -> Figure:
    """Class-mean features: the row is the mean, so to turn the one is to turn the other."""
    return _alone(_tied)


def to_the_centre() -> Figure:
    """Random Label with class-mean features: the mean, and with it the cluster, walks to the centre of all classes."""
    return _alone(_to_the_centre)


def schematics() -> Figure:
    """The three side by side, 9 cm wide."""
    figure, axes = canvas(1.62, 1, 3)
    for axis, draw in zip(axes, (_turning_apart, _tied, _to_the_centre)):
        draw(axis)
    return _explained(figure, 2)


def arrows(angles: dict[str, float], source: str = "") -> Figure:
    """Measured, not drawn from an idea: by which angle (radians) class mean and classifier row stand apart, by model."""
    figure, axes = canvas(1.15, 1, len(angles), squeeze=False)
    for axis, (name, angle) in zip(axes[0], angles.items()):
        _arrow(axis, np.degrees(angle), 1, FORGET)
        _arrow(axis, 0, 1, ROW)
        axis.set(xlim=(-0.7, 1.1), ylim=(-0.15, 1.1), aspect="equal")
        axis.set_title(f"{name}\n{np.degrees(angle):.0f}°", fontsize=SMALL)
        axis.set_axis_off()
    handles = [rule("mean of the forgotten class", FORGET), rule("its row in the classifier", ROW)]
    points = pd.DataFrame({"model": list(angles), "degrees": np.degrees(list(angles.values()))})
    note = "Each panel is turned so that the row lies flat; at 90° the two are orthogonal."
    return finish(figure, f"{source} {note}".strip(), handles, 2, points)


def theory_gamma(gammas, accuracies, span: tuple[float, float], gamma: float = 0.5, source: str = "") -> Figure:
    """Means and rows of three classes that have collapsed, one of them unlearned with weight ``gamma`` on the rest; and
    (retain, forget) accuracy (n, 2), fractions, against that weight, the interval that theory predicts shaded."""
    figure, (left, right) = canvas(1.75, 1, 2, width_ratios=(1, 1.35))
    means = simplex_etf(3, 2, torch.Generator().manual_seed(0)).numpy()
    turn = np.pi / 2 - np.arctan2(*means[0][::-1])  # the forget class at the top
    means = means @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    rows = unlearned_weight(torch.from_numpy(means.copy()), 0, gamma).numpy()
    for mean, row, colour in zip(means, rows, (FORGET, RETAIN, RETAIN)):
        left.plot(*mean, "o", color=colour, markersize=7)
        left.annotate("", xy=row, xytext=(0, 0), arrowprops={
            "arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0})
    left.plot(0, 0, "+", color="black", markersize=6, markeredgewidth=1)
    left.set(title="three classes, drawn", xlim=(-1.15, 1.15), ylim=(-0.85, 1.2), aspect="equal")
    left.set_axis_off()
    right.axvspan(*span, color="#e3e3e3", linewidth=0)
    for values, colour, dash in zip(100 * np.asarray(accuracies).T, (RETAIN, FORGET), ("-", (0, (5, 1)))):
        right.plot(gammas, values, color=colour, linestyle=dash)
    right.set(xlabel="weight of the retain loss", ylabel="accuracy (%)")
    handles = [mark(FORGET, "o", "forget class"), mark(RETAIN, "o", "retain classes")]
    note = f"Left: class means (dots) and their rows (arrows) at weight {gamma:g}. Right: shaded, the predicted interval."
    points = pd.DataFrame({"gamma": gammas, "retain": accuracies[:, 0], "forget": accuracies[:, 1]})
    return finish(figure, f"{source} {note}".strip(), handles, points=points)


def _alone(draw) -> Figure:
    figure, axis = canvas(1.9)
    draw(axis)
    return _explained(figure, 2)


def _explained(figure: Figure, columns: int) -> Figure:
    handles = [mark(FORGET, "o", "forgotten class, its mean"), mark(RETAIN, "o", "retained classes"),
               rule("its row in the classifier", ROW), rule("before unlearning", BEFORE, (0, (2, 1.5)))]
    return finish(figure, "A drawing, not a measurement: features seen from above, the centre of all classes as a cross.",
                  handles, columns)


def _turning_apart(axis) -> None:
    _stage(axis, "Linear head:\nrow and mean part")
    _cloud(axis, 90, FORGET)
    _arrow(axis, 90, 0.78, FORGET)
    _arrow(axis, 80, 0.95, BEFORE, dashed=True)
    _arrow(axis, -80, 0.85, ROW)
    _turn(axis, 80, -80)
    axis.text(0, -1.16, "the features keep\nthe class", ha="center", va="center", size=7)


def _tied(axis) -> None:
    _stage(axis, "CMF head:\nthe row is the mean")
    _cloud(axis, 90, FORGET)
    _arrow(axis, 90, 0.78, FORGET, width=4.5)
    _arrow(axis, 90, 0.78, ROW)
    axis.text(0, -1.16, "row and features\nmove together", ha="center", va="center", size=7)


def _to_the_centre(axis) -> None:
    _stage(axis, "Random Label\nwith a CMF head")
    _cloud(axis, 90, BEFORE, filled=False)
    axis.scatter(*(1.6 * CLOUD).T, s=7, color=FORGET, linewidths=0, alpha=0.75)
    axis.annotate("", xy=(0, 0.12), xytext=(0, 0.72), arrowprops={"arrowstyle": "-|>", "color": FORGET, "linewidth": 1.8,
                                                               "shrinkA": 0, "shrinkB": 0})
    axis.text(0, -1.16, "the mean walks\nto the centre", ha="center", va="center", size=7)


def _stage(axis, title: str) -> None:
    for degrees in (205, 335):
        _cloud(axis, degrees, RETAIN)
    axis.plot(0, 0, "+", color="black", markersize=6, markeredgewidth=1, zorder=5)
    axis.set(title=title, xlim=(-1.3, 1.3), ylim=(-1.4, 1.35), aspect="equal")
    axis.title.set_size(7.5)
    axis.set_axis_off()


def _at(degrees: float, length: float = 1.0) -> np.ndarray:
    return length * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def _cloud(axis, degrees: float, colour: str, filled: bool = True) -> None:
    axis.scatter(*(CLOUD + _at(degrees)).T, s=7, facecolors=colour if filled else "none", edgecolors=colour,
                 linewidths=0 if filled else 0.5, alpha=0.75)


def _arrow(axis, degrees: float, length: float, colour: str, width: float = 1.5, dashed: bool = False) -> None:
    axis.annotate("", xy=_at(degrees, length), xytext=(0, 0), zorder=4 if colour == ROW else 3, arrowprops={
        "arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0,
        "linestyle": (0, (2, 1.5)) if dashed else "-", "mutation_scale": 9 if width < 3 else 14})


def _turn(axis, start: float, end: float) -> None:
    axis.annotate("", xy=_at(end + 8, 0.6), xytext=_at(start - 8, 0.6), arrowprops={
        "arrowstyle": "->", "color": BEFORE, "linewidth": 0.8, "connectionstyle": "arc3,rad=-0.45"})
