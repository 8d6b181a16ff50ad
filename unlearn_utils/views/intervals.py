"""Intervals over forget sets: Student's t, Fieller's for a ratio, and Holm's correction as a level.

Under five values there is no interval: the values stand for themselves, and all of them have to agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

FEWEST = 5  # values for an interval: with three, t is 4.3, and the bounds leave what is possible
FEWEST_SIGNS = 3  # values that may decide by their signs alone
ALPHA = 0.05

NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` forget sets (seeds are averaged first) and its bounds; NaN under five values."""

    mean: float
    low: float
    high: float
    n: int
    values: tuple[float, ...] = ()

    @staticmethod
    def of(values: pd.Series, level: float = 1 - ALPHA) -> Interval:
        """Student's t interval of the mean."""
        listed = tuple(float(value) for value in values.dropna())
        n, mean = len(listed), float(np.mean(listed)) if listed else NAN
        if n < FEWEST:
            return Interval(mean, NAN, NAN, n, listed)
        half = stats.t.ppf((1 + level) / 2, n - 1) * np.std(listed, ddof=1) / math.sqrt(n)
        return Interval(mean, mean - half, mean + half, n, listed)

    def share(self) -> Interval:
        """Of an accuracy: no bound lies below 0 or above 1."""
        low, high = np.clip((self.low, self.high), 0, 1).tolist()
        return replace(self, low=low, high=high)

    def above(self, threshold: float = 0.0) -> bool:
        """Whether the interval, or every one of at least three values, lies above ``threshold``."""
        if self.n < FEWEST:
            return self.n >= FEWEST_SIGNS and all(value > threshold for value in self.values)
        return self.low > threshold

    def below(self, threshold: float = 0.0) -> bool:
        if self.n < FEWEST:
            return self.n >= FEWEST_SIGNS and all(value < threshold for value in self.values)
        return self.high < threshold

    def percent(self) -> str:
        return self.text(100, 1)

    def text(self, scale: float = 1, digits: int = 2) -> str:
        """13.6 [6.4, 20.7]; under five values 16.6 (23.0, 5.2, 21.6)."""
        mean, low, high, *values = (number(scale * v, digits) for v in (self.mean, self.low, self.high, *self.values))
        if self.n < 2:
            return mean if self.n else "–"
        return f"{mean} ({', '.join(values)})" if self.n < FEWEST else f"{mean} [{low}, {high}]"

    @property
    def std(self) -> float:
        """Standard deviation (ddof 1); equal values, like those of one network counted for every set, have none."""
        return float(np.std(self.values, ddof=1)) if len(set(np.round(self.values, 9))) > 1 else NAN

    def spread(self, scale: float = 1, digits: int = 2) -> str:
        """92.5 ± 1.2"""
        return " ± ".join(number(scale * value, digits) for value in (self.mean, self.std) if value == value) or "–"


def number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}" if value == value else "–"  # + 0.0: no minus sign before a zero


def ratio(above: pd.Series, below: pd.Series, level: float = 1 - ALPHA) -> Interval:
    """Fieller's interval of mean(above) / mean(below), paired over forget sets; unbounded where mean(below) may be 0.

    It is the test of ``above - r * below`` turned round, so it excludes 0 just where the interval of ``above``
    does; a jackknife of so few sets does not, and its bounds stay narrow where the denominator is weak.
    Under five values each set gives its own ratio (NaN, which agrees with nothing, where ``below`` is not positive).
    """
    pairs = pd.concat([above, below], axis=1, join="inner").dropna().to_numpy()
    n, (a, b) = len(pairs), pairs.mean(axis=0) if len(pairs) else (NAN, NAN)
    mean = a / b if b > 0 else NAN
    if n < FEWEST:
        return Interval(mean, NAN, NAN, n, tuple(float(x / y) if y > 0 else NAN for x, y in pairs))
    (va, c), (_, vb) = stats.t.ppf((1 + level) / 2, n - 1) ** 2 * np.cov(pairs.T) / n
    square, linear, constant = b * b - vb, a * b - c, a * a - va
    if square <= 0:
        return Interval(mean, -math.inf, math.inf, n)
    half = math.sqrt(max(linear**2 - square * constant, 0.0))
    return Interval(mean, (linear - half) / square, (linear + half) / square, n)


def p_value(values: pd.Series, threshold: float = 0.0) -> float:
    """Two-sided p of the t-test that the mean is ``threshold``; NaN under five values."""
    apart = values.dropna() - threshold
    if len(apart) < FEWEST:
        return NAN
    error = apart.std(ddof=1) / math.sqrt(len(apart))
    if error == 0:
        return float(apart.mean() == 0)
    return float(2 * stats.t.sf(abs(apart.mean()) / error, len(apart) - 1))


def holm(p: list[float]) -> list[tuple[float, float]]:
    """(adjusted p, level) of each test of one family.

    The level is that of the step at which Holm's procedure accepts or rejects the test: the interval at this
    level excludes the null value just where the adjusted p is under 5 %. So what is printed is what is judged.
    """
    p = [1.0 if math.isnan(value) else value for value in p]
    found, largest, stopped, level = {}, 0.0, False, 1 - ALPHA
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        left = len(p) - rank
        largest = max(largest, min(1.0, left * p[i]))
        if not stopped:
            level, stopped = 1 - ALPHA / left, p[i] > ALPHA / left
        found[i] = (largest, level)
    return [found[i] for i in range(len(p))]
