"""Features are those of the test view, or, of training images alone, of one training view each."""

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from unlearn_utils import models
from unlearn_utils.heads import LinearHead
from unlearn_utils.representation import extract, features_of


@pytest.fixture
def eye():
    """A model whose features are the pixels that it sees."""
    return models.Model(nn.Flatten(), LinearHead(64, 4), "float32")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def crops(dataset, image):
    """The nine normalised images that a crop of an image padded by one pixel can show."""
    padded = v2.functional.pad(image, [1] * 4)
    shown = [v2.functional.crop(padded, top, left, 8, 8) for top in range(3) for left in range(3)]
    return dataset.normalise(torch.stack(shown)).flatten(1)


def test_without_a_generator_every_image_is_seen_in_the_test_view(eye, dataset):
    features = extract(eye, dataset)
    for part in ("train", "test"):
        assert torch.equal(getattr(features, part), dataset.normalise(getattr(dataset, part).pixels).flatten(1))


def test_with_a_generator_each_training_image_is_seen_in_a_crop_of_its_own_and_test_images_as_ever(eye, dataset):
    features = extract(eye, dataset, generator(0))
    assert torch.equal(features.test, extract(eye, dataset).test)
    chosen = [
        (crops(dataset, image) == seen).all(1).nonzero()[0, 0].item()
        for image, seen in zip(dataset.train.pixels, features.train)
    ]  # the order of the images is kept
    assert len(set(chosen)) > 5 and chosen.count(4) < 24  # the fourth is the whole image


def test_the_view_depends_on_the_generator_alone(eye, dataset):
    first, again, other = (features_of(eye, dataset, dataset.train, augmented=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_augmented_reading_leaves_batch_norm_alone_and_the_model_in_eval_mode(resnet, dataset, state_of, same):
    before = state_of(resnet.train())
    features_of(resnet, dataset, dataset.train, augmented=generator(0))
    assert same(before, state_of(resnet)) and not resnet.training
