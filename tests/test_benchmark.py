"""The benchmark prints its ratios; it asserts no speed. Its plain loop sees the images that torchvision would show."""

import sys

import benchmark
import pytest
import torch

from unlearn_utils.data import replace
from unlearn_utils.settings import Views


def test_the_plain_loops_images_are_ours_where_there_is_no_chance(dataset):
    plain = replace(dataset, views=Views())
    x, y = zip(*(benchmark.PlainImages(plain)[i] for i in range(len(plain.train))))
    torch.testing.assert_close(torch.stack(x), plain.normalise(plain.train.pixels))
    assert list(y) == plain.train.labels.tolist()


def test_too_few_images_are_refused(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "digits", "--device", "cpu", "--images", "5"])
    with pytest.raises(SystemExit, match="50 training images are fewer than a batch of 128"):
        benchmark.main()
