"""A method's constants are checked before anything runs, however the method is written."""

import subprocess
import sys

import pytest

from unlearn_utils import methods
from unlearn_utils.settings import BadInput

POSTPONED = '''
from __future__ import annotations

from dataclasses import dataclass

from unlearn_utils.methods import Method, build, method


@method("mine", "Mine")
@dataclass(frozen=True)
class Mine(Method):
    strength: float = 1.0
    mode: str = "soft"


assert build("mine", {"strength": 2, "mode": "hard"}) == Mine(2, "hard")
build("mine", {"mode": 3})
'''


def test_a_method_may_postpone_its_annotations_and_a_text_is_no_number(tmp_path):
    (tmp_path / "mine.py").write_text(POSTPONED)
    ended = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True)
    assert ended.stderr.endswith("BadInput: method 'mine': the constant 'mode' is 3, but it must be of type str.\n")


@pytest.mark.parametrize("name, constant, value, said", [
    ("scrub", "max_epochs", -1, "-1, but it must be finite and at least 0"),
    ("unsir", "copies", -1, "-1, but it must be finite and at least 0"),
    ("unsir", "impair_lr", -1e-4, "-0.0001, but it must be finite and at least 0"),
    ("neggrad_plus", "ascent_clip", -0.5, "finite and at least 0"),
    ("scrub", "kl_weight", float("nan"), "nan, but it must be finite"),
    ("scrub", "temperature", float("inf"), "inf, but it must be finite and positive"),
    ("scrub", "temperature", 0.0, "0.0, but it must be finite and positive"),
    ("scrub", "temperature", 0, "finite and positive"),
    ("svd", "images", 0, "finite and positive"),
    ("svd", "alpha_retain", 0.0, "finite and positive"),
    ("unsir", "noise_images", 0, "finite and positive"),
    ("salun", "kept", 1.5, "1.5, but it is a fraction, at most 1"),
    ("scrub", "max_epochs", 1.0, "must be of type int"),
    ("scrub", "max_epochs", True, "must be of type int"),
    ("scrub", "temperature", True, "must be of type float"),
    ("scrub", "temperature", "4", "must be of type float"),
])
def test_a_constant_that_cannot_be_used_is_refused_by_name(name, constant, value, said):
    with pytest.raises(BadInput, match=f"method '{name}': the constant '{constant}' is .*{said}"):
        methods.build(name, {constant: value})


@pytest.mark.parametrize("name, constants", [
    ("scrub", {"max_epochs": 0, "ce_weight": 0, "temperature": 2}), ("neggrad_plus", {"ascent_clip": 0.0}),
    ("unsir", {"noise_steps": 0, "copies": 0}), ("salun", {"kept": 1}),
])
def test_zero_and_whole_numbers_pass_where_they_mean_something(name, constants):
    method = methods.build(name, constants)
    assert all(getattr(method, key) == value for key, value in constants.items())
