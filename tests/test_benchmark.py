"""The benchmark asserts no speed; the images of its plain loop are ours."""

import benchmark
import torch

from unlearn_utils.data import replace
from unlearn_utils.settings import Views


def test_the_plain_loops_images_are_ours_where_there_is_no_chance(dataset):
    plain = replace(dataset, views=Views())
    x, y = zip(*(benchmark.PlainImages(plain)[i] for i in range(len(plain.train))))
    torch.testing.assert_close(torch.stack(x), plain.normalise(plain.train.pixels))
    assert list(y) == plain.train.labels.tolist()
