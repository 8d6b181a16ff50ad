"""What the paper's profiles take from the official code, against the numbers as they stand there."""

from dataclasses import astuple, replace

import pytest
import torch

from unlearn_utils import methods
from unlearn_utils.settings import Probe
from unlearn_utils.study import profiles, tune
from unlearn_utils.training import learning_rate

RESNETS = ("cifar10", "cifar100", "tiny_imagenet")
VITS = ("cifar10_vit", "cifar100_vit", "tiny_imagenet_vit")


def under(name):
    """The profile as it is, with the printed table, and with the scripts."""
    printed = "table5" if name in VITS else "table4"
    return [profiles.load(name, {"recipes": which}) for which in ("", printed, "scripts")]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("cifar10", [(100, 3, 900), (1000, 30, 900), (100, 3, 900)]),
        ("cifar100", [(1000, 30, 990)] * 3),
        ("tiny_imagenet", [(30, 10, 999)] * 3),
    ],
)
def test_svd_has_the_papers_alphas_and_images(name, expected):
    for profile, values in zip(under(name), expected):
        assert astuple(methods.build("svd", profile.recipe("svd", "linear").constants)) == values


@pytest.mark.parametrize("method", ["original", "retrain"])
@pytest.mark.parametrize("name", VITS)
def test_a_vits_rate_warms_up_and_falls_along_the_official_cosine(name, method):
    """The official schedule, made of PyTorch's own; at 3e-4: 6.0e-5, ..., 3.0e-4, ..., 3.8e-5."""
    peak = 1e-4 if name == "tiny_imagenet_vit" else 3e-4
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: min(1.0, (epoch + 1) / 5))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 5, eta_min=1e-5)
    official, schedule = [], torch.optim.lr_scheduler.SequentialLR(optimiser, [warmup, cosine], milestones=[5])
    for _ in range(10):
        official.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    if peak == 3e-4:
        assert [official[epoch] for epoch in (0, 4, 9)] == pytest.approx([6.0e-5, 3.0e-4, 3.8e-5], rel=0.01)
    for profile in under(name):
        recipe = profile.recipe(method, "linear")
        assert recipe.epochs == 10
        assert [learning_rate(recipe, epoch) for epoch in range(10)] == pytest.approx(official, rel=1e-9)


def test_neggrad_plus_with_cmf_on_tiny_imagenet_takes_three_epochs_of_one_class_and_of_several():
    for profile in under("tiny_imagenet"):
        recipes = [profile.recipe("neggrad_plus", "cmf", several) for several in (False, True)]
        assert [(recipe.epochs, recipe.lr, recipe.clip) for recipe in recipes] == [(3, 3e-5, 1.0)] * 2


@pytest.mark.parametrize("method", ["random_label", "salun"])
def test_relabelling_with_cmf_starts_from_the_tables_rate_on_cifar10(method):
    rates = [[profile.recipe(method, "cmf", several).lr for several in (False, True)] for profile in under("cifar10")]
    single = {"random_label": 1e-4, "salun": 2e-4}[method]
    assert rates == [[2e-3, 2e-3], [2e-3, 2e-3], [single, 2e-3]]


# repair and impair rates of the linear and the CMF head, with the scripts and with the table's one rate
UNSIR = {
    "cifar10": ([(5e-5, 1e-4), (5e-5, 1e-4)], [(5e-5, 5e-5), (5e-5, 5e-5)]),
    "cifar100": ([(3e-5, 2e-4), (5e-5, 2e-4)], [(3e-5, 3e-5), (5e-5, 5e-5)]),
    "tiny_imagenet": ([(2e-5, 2e-4), (2e-5, 2e-4)], [(2e-5, 2e-5), (2e-5, 2e-5)]),
}


def unsir_rates(recipe):
    impair, repair = methods.build("unsir", recipe.constants).phases(recipe)
    return repair.lr, impair.lr


@pytest.mark.parametrize("name", RESNETS)
def test_unsirs_two_rates_are_the_papers_to_the_last_digit(name):
    scripts, table = UNSIR[name]
    for profile, expected in zip(under(name), (scripts, table, scripts)):
        assert [unsir_rates(profile.recipe("unsir", variant)) for variant in ("linear", "cmf")] == expected


def test_unsir_trained_on_the_classifier_alone_impairs_at_1e_4_on_cifar10():
    assert unsir_rates(profiles.load("cifar10").recipe("unsir", "zeroed_classifier")) == (2e-3, 1e-4)


@pytest.mark.parametrize("name", ["digits", "cifar10_slim"])
def test_what_is_searched_and_the_search_impair_at_twice_the_rate_of_repair(name):
    tried = tune.candidates(profiles.load(name)).query("method == 'unsir'").itertuples()
    searched = [replace(profiles.load(name).recipe("unsir", row.variant), lr=row.value) for row in tried]
    recipes = profiles.load(name).recipes["unsir"]
    own = [recipes["tuned"]] if name == "cifar10_slim" else list(recipes.values())  # whose other rates are the scripts'
    assert len({recipe.lr for recipe in searched}) >= 4
    for recipe in searched + own:
        repair, impair = unsir_rates(recipe)
        assert impair == 2 * repair == 2 * recipe.lr


@pytest.mark.parametrize("name", RESNETS + VITS)
def test_features_and_probe_are_read_as_by_the_official_code(name):
    profile = profiles.load(name)
    tiny = name.startswith("tiny")
    assert profile.data.readout_view == "augmented"
    assert profile.data.normalisation == ("imagenet" if tiny or name in VITS else "cifar10")
    assert profile.probe == Probe(
        epochs=20 if name in ("cifar10", "cifar10_vit") else 150,
        lr=0.01,
        momentum=0.9,
        batch_size=128,
        validation=0.1,
        patience=40,
        schedule="cosine" if tiny else "constant",
    )
