"""The heads do what their docstrings say, and no gradient reaches a CMF head."""

import numpy as np
import pytest
import torch

from unlearn_utils.heads import NORMALISATIONS, ClassMeanHead, LinearHead, class_means, class_moments


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def log_softmax(rows):
    return rows - np.log(np.exp(rows).sum(1, keepdims=True))


TRANSFORMS = {"none": lambda f: f, "unit_length": unit, "log_softmax": lambda f: unit(log_softmax(f))}


@pytest.fixture
def sample(clusters):
    """Training features of four unbalanced classes, their labels, and other features to classify."""
    features, labels = clusters(4, 6, 10, 1.0)
    features, labels = features[:33].abs(), labels[:33]
    return features, labels, clusters(4, 6, 5, 2.0)[0]


def fitted(normalisation, features, labels):
    head = ClassMeanHead(6, 4, normalisation).double()
    head.refit(features, labels)
    return head


def test_class_means_are_the_means_of_the_samples_of_each_class_and_a_class_without_samples_is_named(sample):
    features, labels, _ = sample
    expected = [np.mean([f for f, y in zip(features.numpy(), labels) if y == c], axis=0) for c in range(4)]
    np.testing.assert_allclose(class_means(features, labels, 4), expected, atol=1e-12)
    with pytest.raises(ValueError, match="class 4"):
        class_means(features, labels, 5)


def test_class_moments_of_two_classes_by_hand():
    """Residuals (-1, 0), (1, 0), (0, -2), (0, 2) about the means (1, 0) and (5, 5)."""
    features = torch.tensor([[0.0, 0.0], [5.0, 3.0], [2.0, 0.0], [5.0, 7.0]])
    means, within = class_moments(features, torch.tensor([0, 1, 0, 1]), 2)
    assert means.tolist() == [[1, 0], [5, 5]] and within.tolist() == [[0.5, 0], [0, 2]]
    assert means.dtype == within.dtype == torch.float64


def test_linear_head_is_the_ordinary_classifier_and_embeds_nothing(sample):
    head = LinearHead(6, 4).double()
    expected = sample[0].numpy() @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(head(sample[0]).detach(), expected, atol=1e-12)
    assert torch.equal(head.embed(sample[0]), sample[0])


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_cmf_weight_embedding_and_logits_equal_algorithm_1(normalisation, sample):
    features, labels, others = (part.numpy() for part in sample)
    seen = TRANSFORMS[normalisation](features)
    means = np.stack([seen[labels == c].mean(0) for c in range(4)])
    centre = means.mean(0)
    weight = unit(means - centre)
    z = unit(TRANSFORMS[normalisation](others) - centre)

    head = fitted(normalisation, *sample[:2])
    np.testing.assert_allclose(head.weight, weight, atol=1e-12)
    np.testing.assert_allclose(head.embed(sample[2]), z, atol=1e-12)
    np.testing.assert_allclose(head(sample[2]), z @ weight.T, atol=1e-12)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_refitting_forgets_the_earlier_fit(normalisation, sample):
    features, labels, others = sample
    head = fitted(normalisation, others.abs() + 1, torch.arange(len(others)) % 4)
    before = head.weight.clone()
    head.refit(features, labels)
    assert not torch.equal(before, head.weight)
    assert torch.equal(head.weight, fitted(normalisation, features, labels).weight)
