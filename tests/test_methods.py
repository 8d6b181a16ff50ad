"""Every unlearning method takes the steps that its equation asks for, and changes nothing else."""

import copy
import itertools
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from unlearn_utils import methods, models
from unlearn_utils.data import Images
from unlearn_utils.heads import ClassMeanHead, LinearHead
from unlearn_utils.methods import random_label
from unlearn_utils.representation import features_of
from unlearn_utils.settings import BadInput, Recipe
from unlearn_utils.training import Run, train

CLASSES, INPUTS, WIDTH, BATCH = 3, 4, 5, 3


class DoubleModel(models.Model):
    """Without the cast to float32, so that steps can be compared to 1e-10."""

    def features(self, x):
        return self.encoder(x)


def double_model(kind, seed):
    torch.manual_seed(seed)
    head = LinearHead(WIDTH, CLASSES) if kind == "linear" else ClassMeanHead(WIDTH, CLASSES, "none")
    model = DoubleModel(nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, WIDTH), nn.Tanh()), head, "float32").double()
    if kind == "cmf":
        head.refit(torch.randn(30, WIDTH, dtype=torch.float64), torch.arange(30) % CLASSES)
    return model


class FixedRun:
    """The interface of Run with batches in a fixed order: nine retain and four forget images, three a batch."""

    def __init__(self, model, teacher, forget_classes, recipe):
        random = torch.Generator().manual_seed(1)
        self.recipe, self.begun = recipe, None
        kept = [c for c in range(CLASSES) if c not in forget_classes]
        self.model, self.teacher, self.forget_classes, self.generator = model, teacher, forget_classes, random
        self.retain = self._images([kept[i % len(kept)] for i in range(9)], random)
        self.forget = self._images([forget_classes[i % len(forget_classes)] for i in range(4)], random)
        self.everything = Images(
            *(torch.cat([getattr(self.retain, k), getattr(self.forget, k)]) for k in ("pixels", "labels"))
        )

    def _images(self, labels, random):
        # Large inputs give gradients that the clipping has something to clip of.
        x = 3 * torch.randn(len(labels), INPUTS, 1, 1, generator=random, dtype=torch.float64)
        return Images(x, torch.tensor(labels))

    def batches(self, images):
        return zip(images.pixels.split(BATCH), images.labels.split(BATCH))

    def endless_batches(self, images):
        return itertools.cycle(self.batches(images))


class NumpyNet:
    """The same network with its derivative written out."""

    def __init__(self, model):
        tensors = {key: value.detach().numpy().copy() for key, value in model.state_dict().items()}
        self.parameters = [tensors["encoder.1.weight"], tensors["encoder.1.bias"]]
        self.linear = "head.bias" in tensors
        if self.linear:
            self.parameters += [tensors["head.weight"], tensors["head.bias"]]
        else:
            self.fixed_weight, self.centre = tensors["head.weight"], tensors["head.centre"]

    def forward(self, x):
        self.x = x.reshape(len(x), -1)
        self.f = np.tanh(self.x @ self.parameters[0].T + self.parameters[1])
        if self.linear:
            return self.f @ self.parameters[2].T + self.parameters[3]
        self.length = np.linalg.norm(self.f - self.centre, axis=1, keepdims=True)
        self.z = (self.f - self.centre) / self.length
        return self.z @ self.fixed_weight.T

    def backward(self, d_logits):
        """Gradient of every parameter, from that of the logits of the last forward pass."""
        if self.linear:
            of_head = [d_logits.T @ self.f, d_logits.sum(0)]
            d_f = d_logits @ self.parameters[2]
        else:
            of_head = []
            d_z = d_logits @ self.fixed_weight
            d_f = (d_z - self.z * (self.z * d_z).sum(1, keepdims=True)) / self.length
        d_a = d_f * (1 - self.f**2)
        return [d_a.T @ self.x, d_a.sum(0), *of_head]


def softmax(a):
    e = np.exp(a - a.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def d_cross_entropy(logits, labels):
    return (softmax(logits) - np.eye(CLASSES)[labels]) / len(labels)


def d_divergence(logits, teacher_logits, temperature):
    """Of T^2 KL(teacher || student) with softened softmaxes: T (q - p) / n."""
    return temperature * (softmax(logits / temperature) - softmax(teacher_logits / temperature)) / len(logits)


def clipped(gradients, largest):
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    assert norm > largest, "this test needs a gradient that is clipped"
    return [g * largest / (norm + 1e-6) for g in gradients]  # torch's 1e-6


def added(a, b):
    return [x + y for x, y in zip(a, b)]


def batches(images, labels=None):
    x, y = images.pixels.numpy(), (images.labels if labels is None else labels).numpy()
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]


def cross_entropy_steps(net, pairs):
    for x, y in pairs:
        yield net.backward(d_cross_entropy(net.forward(x), y))


def descend_on_salient_weights(net, teacher, run, recipe):
    """Random Label, its gradient zero on the half of the weights with the smaller sum of |gradient of a batch|.

    Batches of three images and of one, each with its summed loss: neither the gradient of all forget images nor
    that of batch means ranks the weights alike.
    """
    total = [np.zeros_like(p) for p in net.parameters]
    for x, y in batches(run.forget):
        gradient = net.backward(len(x) * d_cross_entropy(net.forward(x), y))
        total = [t + np.abs(g) for t, g in zip(total, gradient)]
    ranked = np.sort(np.concatenate([t.ravel() for t in total]))
    masks = [t >= ranked[-int(0.5 * len(ranked))] for t in total]
    for gradient in relabel(net, teacher, run, recipe):
        masked = [g * mask for g, mask in zip(gradient, masks)]
        yield clipped(masked, recipe.clip) if recipe.clip else masked


def imitate_without_the_forget_classes(net, teacher, run, recipe):
    for x, _ in batches(run.everything):
        target = teacher.forward(x)
        target[:, list(run.forget_classes)] = -np.inf
        yield net.backward((softmax(net.forward(x)) - softmax(target)) / len(x))


def descend_on(part):
    return lambda net, teacher, run, recipe: cross_entropy_steps(net, batches(getattr(run, part)))


def relabel(net, teacher, run, recipe):
    """Only class 2 is retained in this case, so the random label is 2."""
    return cross_entropy_steps(net, batches(run.everything, torch.full((13,), 2)))


def ascend_and_descend(net, teacher, run, recipe):
    """Three retain and two forget batches an epoch: the second epoch goes on with the second forget batch."""
    scale, ascent_clip = recipe.constants.get("ascent_scale", 1.0), recipe.constants.get("ascent_clip", 1.0)
    forget = batches(run.forget)
    for step, (x, y) in enumerate(recipe.epochs * batches(run.retain)):
        x_f, y_f = forget[step % len(forget)]
        ascent = net.backward(-scale * d_cross_entropy(net.forward(x_f), y_f))
        if ascent_clip:
            ascent = clipped(ascent, ascent_clip)
        both = added(ascent, net.backward(d_cross_entropy(net.forward(x), y)))
        yield clipped(both, recipe.clip) if recipe.clip else both


def distil(net, teacher, run, recipe):
    for epoch in range(recipe.epochs):
        if epoch < 1:
            for x, _ in batches(run.forget):
                yield net.backward(-d_divergence(net.forward(x), teacher.forward(x), 4.0))
        for x, y in batches(run.retain):
            logits = net.forward(x)
            yield net.backward(
                0.99 * d_cross_entropy(logits, y) + 0.001 * d_divergence(logits, teacher.forward(x), 4.0)
            )


def steps_of(run, method):
    """The parameters before the first step and after each."""
    taken, note = [], lambda step: taken.append([p.detach().numpy().copy() for p in run.model.parameters()])
    train(run.model, partial(method.losses, run), method.phases(run.recipe), on_step=note)
    return taken


# name, steps, forget classes, settings besides the common ones
CASES = {
    "original": ("original", descend_on("everything"), (0,), {}),
    "retrain": ("retrain", descend_on("retain"), (0,), {}),
    "finetune": ("finetune", descend_on("retain"), (0,), {}),
    "random_label": ("random_label", relabel, (0, 1), {}),
    "neggrad_plus": ("neggrad_plus", ascend_and_descend, (0,), {"constants": {"ascent_clip": 0.05}, "epochs": 2}),
    "neggrad_plus with the constants for CMF": (
        "neggrad_plus",
        ascend_and_descend,
        (0,),
        {"constants": {"ascent_scale": 0.5, "ascent_clip": 0.0}, "clip": 0.05},
    ),
    "salun": ("salun", descend_on_salient_weights, (0, 1), {"clip": 0.05}),
    "distilled_head": ("distilled_head", imitate_without_the_forget_classes, (0,), {}),
    "scrub": ("scrub", distil, (0,), {"constants": {"max_epochs": 1}, "nesterov": False, "epochs": 2}),
}


@pytest.mark.parametrize("head", ["linear", "cmf"])
@pytest.mark.parametrize("case", CASES)
def test_steps_equal_the_equation_with_momentum_and_weight_decay_written_out(case, head):
    name, steps, forget, settings = CASES[case]
    recipe = Recipe(**{"epochs": 1, "lr": 0.3, "weight_decay": 0.01, **settings})
    model, teacher = double_model(head, 0), double_model(head, 1)
    run = FixedRun(model, teacher, forget, recipe)
    net, teacher_net = NumpyNet(model), NumpyNet(teacher)
    method = methods.build(name, recipe.constants)
    run.begun = method.begin(run)

    taken = steps_of(run, method)

    velocity, expected = None, [[p.copy() for p in net.parameters]]
    for gradients in steps(net, teacher_net, run, recipe):
        gradients = [g + 0.01 * p for g, p in zip(gradients, net.parameters)]
        velocity = gradients if velocity is None else [0.9 * v + g for v, g in zip(velocity, gradients)]
        moves = [g + 0.9 * v for g, v in zip(gradients, velocity)] if recipe.nesterov else velocity
        net.parameters = [p - 0.3 * m for p, m in zip(net.parameters, moves)]
        expected.append(net.parameters)

    assert len(taken) == len(expected) >= 3
    for ours, reference in zip(taken, expected):
        for a, b in zip(ours, reference, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


ALL_THAT_TRAIN = sorted(name for name, method in methods.METHODS.items() if not method.closed_form)
SMALL = {"unsir": {"noise_images": 4, "copies": 2}}  # constants that make a method quick


def real_run(model, dataset, forget=(1,), **settings):
    recipe = Recipe(**{"epochs": 2, "lr": 0.05, "batch_size": 16, **settings})
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    return Run(model, teacher, dataset, forget, recipe, torch.Generator().manual_seed(0))


def train_with(name, run, **hooks):
    method = methods.build(name, run.recipe.constants or SMALL.get(name, {}))
    run.begun = method.begin(run)
    train(run.model, partial(method.losses, run), method.phases(run.recipe), **hooks)


@pytest.mark.parametrize("name", ALL_THAT_TRAIN)
def test_a_frozen_encoder_and_its_batch_norm_stay_bit_for_bit_while_the_head_moves(
    name, resnet, dataset, state_of, same
):
    resnet.freeze_encoder()
    encoder, head, run = state_of(resnet.encoder), state_of(resnet.head), real_run(resnet, dataset)
    teacher = state_of(run.teacher)
    train_with(name, run)
    assert same(teacher, state_of(run.teacher)) and not run.teacher.training
    assert same(encoder, state_of(resnet.encoder))
    assert not same(head, state_of(resnet.head))


@pytest.mark.parametrize("name", ALL_THAT_TRAIN)
def test_a_cmf_head_stays_bit_for_bit_while_the_encoder_moves(name, resnet, dataset, state_of, same):
    models.use_class_mean_head(resnet, "none")
    resnet.head.refit(features_of(resnet, dataset, dataset.train), dataset.train.labels)
    encoder, head = state_of(resnet.encoder), state_of(resnet.head)
    unchanged = []
    train_with(name, real_run(resnet, dataset), on_step=lambda _: unchanged.append(same(head, state_of(resnet.head))))
    assert all(unchanged)
    assert not same(encoder, state_of(resnet.encoder))


def test_random_labels_are_uniform_over_the_retain_classes_and_never_a_forget_class(monkeypatch, resnet, dataset):
    seen, drawn = [], []
    monkeypatch.setattr(random_label, "cross_entropy", lambda logits, y: drawn.append(y) or logits.sum())
    run = real_run(resnet, dataset, forget=(1,), batch_size=48)
    run.model = lambda x: torch.zeros(len(x), 4)
    run.batches = lambda images: seen.append(images.labels) or [(images.labels, images.labels)]
    for epoch in range(250):
        list(methods.build("random_label", {}).losses(run, epoch))
    true, given = torch.cat(seen), torch.cat(drawn)
    assert torch.equal(given[true != 1], true[true != 1])
    counts = torch.bincount(given[true == 1], minlength=4)
    assert counts[1] == 0
    expected = counts.sum() / 3
    assert ((counts[[0, 2, 3]] - expected) ** 2 / expected).sum() < 13.8  # the 0.999 quantile of chi square with 2 df


# --- UNSIR


@pytest.mark.parametrize("constants, impair", [({}, 0.02), ({"impair_lr": 0.003}, 0.003)])
def test_unsir_takes_the_steps_of_adam_on_noise_and_retain_images_and_then_on_retain_images_alone(constants, impair):
    recipe = Recipe(epochs=1, lr=0.01, batch_size=30)  # the whole data in one batch: order does not matter
    model = double_model("linear", 0)
    run = FixedRun(model, None, (0,), recipe)
    method = methods.build("unsir", {"noise_images": 2, "copies": 3, "noise_steps": 2, **constants})
    run.begun = method.begin(run)
    (x, y), repair = run.begun
    assert y.tolist() == sorted(run.retain.labels.tolist()) + [0] * 6
    assert torch.equal(x[9:11], x[11:13]) and torch.equal(x[9:11], x[13:15])

    net, taken = NumpyNet(model), steps_of(run, method)
    for data, rate, after in ((run.begun[0], impair, taken[1]), (repair, 0.01, taken[2])):
        images, labels = (part.numpy() for part in data)
        gradients = net.backward(d_cross_entropy(net.forward(images), labels))
        # The first step of Adam: m / (sqrt(v) + eps) with m = g and v = g^2 once the bias is corrected.
        net.parameters = [p - rate * g / (np.abs(g) + 1e-8) for p, g in zip(net.parameters, gradients)]
        for ours, reference in zip(after, net.parameters, strict=True):
            np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize("head", ["linear", "cmf"])
def test_a_step_on_unsirs_noise_is_adam_on_certainty_and_penalty(head):
    model = double_model(head, 0)
    run = FixedRun(model, None, (0,), None)
    like = run.retain.pixels[:2]
    begin = {"noise_images": 2, "noise_steps": 0}
    run.generator.manual_seed(1)
    x0 = methods.build("unsir", begin).noise(run, 0, like)
    run.generator.manual_seed(1)
    x1 = methods.build("unsir", begin | {"noise_steps": 1}).noise(run, 0, like)
    x = x0.clone().requires_grad_()
    logits = model(x)
    certainty = logits[:, 0] - (0 if head == "cmf" else logits.exp().sum(1).log())
    (certainty.mean() + 0.1 * (x**2).sum((1, 2, 3)).mean()).backward()
    expected = x0 - 0.1 * x.grad / (x.grad.abs() + 1e-8)
    torch.testing.assert_close(x1, expected, rtol=0, atol=1e-10)


# --- SalUn


@pytest.mark.parametrize("name", ["salun", "salun_random_mask"])
def test_salun_moves_exactly_the_chosen_half_of_the_weights_where_nothing_decays(name, resnet, dataset):
    run = real_run(resnet, dataset, weight_decay=0.0)
    before = [p.detach().clone() for p in resnet.parameters()]
    train_with(name, run)
    masks = torch.cat([mask.flatten() for mask in run.begun])
    assert masks.sum() == len(masks) // 2
    for parameter, old, mask in zip(resnet.parameters(), before, run.begun):
        assert torch.equal(parameter[mask == 0], old[mask == 0])
    moved = sum((p != old).sum() for p, old in zip(resnet.parameters(), before))
    assert moved > 0.9 * masks.sum()


def test_a_random_mask_keeps_half_of_every_layer_and_agrees_with_saliency_by_chance(resnet, dataset):
    run = real_run(resnet, dataset)
    salient, drawn = (methods.build(name, {}).begin(run) for name in ("salun", "salun_random_mask"))
    large = [mask for mask in drawn if mask.numel() > 200]  # the share of a small one scatters
    assert large and all(abs(mask.mean() - 0.5) < 0.15 for mask in large)
    both, kept = (sum(part.sum() for part in parts) for parts in ([a * b for a, b in zip(drawn, salient)], salient))
    assert abs(both / kept - 0.5) < 0.05


def test_with_a_frozen_encoder_salun_keeps_the_head_whole_and_is_random_label_to_the_last_bit(resnet, dataset, same):
    after = {}
    for name in ("salun", "random_label"):
        model = copy.deepcopy(resnet)
        model.freeze_encoder()
        run, method = real_run(model, dataset), methods.build(name, {})
        run.begun = method.begin(run)
        run.generator.manual_seed(0)  # the mask has drawn batches
        train(model, partial(method.losses, run), method.phases(run.recipe))
        after[name] = model.state_dict()
    assert same(after["salun"], after["random_label"])


# --- closed forms


@pytest.mark.parametrize("name, of_weight, of_bias", [
    ("prune", lambda w: 0 * w, lambda b: 0 * b),
    ("bias_shift", lambda w: w, lambda b: b - 2),
])  # fmt: skip
def test_a_change_of_the_head_alone_is_that_of_the_forget_classes_and_of_no_other(
    name, of_weight, of_bias, resnet, dataset
):
    weight, bias = resnet.head.weight.detach().clone(), resnet.head.bias.detach().clone()
    constants = {"shift": 2} if name == "bias_shift" else {}
    train_with(name, real_run(resnet, dataset, forget=(1, 3), epochs=0, constants=constants))
    weight[[1, 3]], bias[[1, 3]] = of_weight(weight[[1, 3]]), of_bias(bias[[1, 3]])
    assert torch.equal(resnet.head.weight, weight) and torch.equal(resnet.head.bias, bias)


def test_bias_shift_by_rule_is_the_smallest_that_hides_all_forget_training_images(resnet, dataset):
    forget = (1, 3)
    train_with("original", real_run(resnet, dataset, forget=(), epochs=15))
    before = resnet.head.bias.detach().clone()
    images = dataset.train.pixels[torch.isin(dataset.train.labels, torch.tensor(forget))]

    def read():
        with torch.no_grad():
            return resnet(dataset.normalise(images)).argmax(1).tolist()

    assert set(read()) == set(forget)
    train_with("bias_shift", real_run(resnet, dataset, forget=forget, epochs=0))
    assert not set(read()) & set(forget)
    shift = (before - resnet.head.bias.detach())[list(forget)]
    assert shift.tolist() == pytest.approx([shift[0].item()] * len(forget), abs=1e-5) and shift[0] > 1
    with torch.no_grad():
        resnet.head.bias[list(forget)] += 0.002
    assert set(read()) & set(forget), "a smaller shift would have been enough"


def test_svd_equals_its_formula_with_numpy(resnet, dataset):
    """Of 14 images each of three retain classes gives four, and the forget class all of its twelve."""
    weight = resnet.head.weight.detach().double().numpy()
    features = features_of(resnet, dataset, dataset.train).double().numpy()
    labels, spaces = dataset.train.labels.numpy(), []
    for classes, count, alpha in (((0, 2, 3), 4, 100.0), ((1,), 12, 3.0)):
        chosen = np.concatenate([features[labels == c][:count] for c in classes])
        values, vectors = np.linalg.eigh(chosen.T @ chosen)
        s = values / values.sum()
        spaces.append(vectors @ np.diag(alpha * s / ((alpha - 1) * s + 1)) @ vectors.T)
    retain, forget = spaces
    p = np.eye(len(retain)) - (forget - forget @ retain)
    train_with("svd", real_run(resnet, dataset, forget=(1,), epochs=0, constants={"images": 14}))
    np.testing.assert_allclose(resnet.head.weight.detach().numpy(), weight @ p.T, atol=1e-5)


def test_svd_draws_its_forget_images_at_random_and_retains_no_forget_class(resnet, dataset, monkeypatch):
    seen, read = [], Run.features
    monkeypatch.setattr(Run, "features", lambda run, images: seen.append(images) or read(run, images))
    train_with("svd", real_run(resnet, dataset, forget=(1, 3), epochs=0, constants={"images": 10}))
    retain, forget = seen
    assert retain.labels.tolist() == [0] * 5 + [2] * 5
    drawn = {x.numpy().tobytes() for x in forget.pixels}
    assert len(forget) == len(drawn) == 10 and set(forget.labels.tolist()) == {1, 3}
    first = torch.cat([torch.where(dataset.train.labels == c)[0][:5] for c in (1, 3)])
    assert drawn != {x.numpy().tobytes() for x in dataset.train.pixels[first]}


@pytest.mark.parametrize("forget", [(1,), (0, 3)])
def test_pour_p_removes_exactly_the_span_of_the_forget_directions(forget, resnet, dataset):
    features = features_of(resnet, dataset, dataset.train)
    means = torch.stack([features[dataset.train.labels == c].mean(0) for c in range(4)])
    directions = (means - means.mean(0))[list(forget)]
    train_with("pour_p", real_run(resnet, dataset, forget=forget, epochs=0))
    p = resnet.projection
    torch.testing.assert_close(p, p.T)
    torch.testing.assert_close(p @ p, p, rtol=0, atol=1e-5)
    assert (p @ directions.T).abs().max() < 1e-5
    assert torch.linalg.matrix_rank(p) == len(p) - len(forget)
    torch.testing.assert_close(features_of(resnet, dataset, dataset.train), features @ p, rtol=0, atol=1e-5)


# --- what every method is for


@pytest.mark.parametrize("name", [name for name in ALL_THAT_TRAIN if methods.METHODS[name].role != "reference"])
def test_the_forget_classes_are_lost_at_the_output_and_the_others_are_kept(name, resnet, dataset):
    def right():
        return resnet(dataset.normalise(dataset.test.pixels)).argmax(1) == dataset.test.labels

    train_with("original", real_run(resnet, dataset, forget=(), epochs=15))
    assert right().float().mean() > 0.95
    rate = {"unsir": 0.03, "neggrad_plus": 0.03, "scrub": 0.02}.get(name, 0.05)
    constants = {"noise_images": 12, "copies": 2} if name == "unsir" else {}
    train_with(name, real_run(resnet, dataset, forget=(1, 2), epochs=10, constants=constants, lr=rate))
    forgotten = torch.isin(dataset.test.labels, torch.tensor([1, 2]))
    assert right()[forgotten].float().mean() < 0.5 < 0.85 < right()[~forgotten].float().mean()


# --- constants and names


@pytest.mark.parametrize("name, constants, said", [
    ("salum", {}, "no method 'salum'; choose one of .*neggrad_plus"),
    ("neggrad_plus", {"ascent_scal": 0.5}, "no key 'ascent_scal'; allowed are ascent_clip, ascent_scale"),
    ("scrub", {"kl_weight": float("nan")}, "kl_weight is nan"),
    ("scrub", {"temperature": 0}, "temperature is 0, but it must be at least 1e-06"),
    ("scrub", {"max_epochs": True}, "max_epochs is True, but it must be a whole number"),
])  # fmt: skip
def test_a_constant_that_cannot_be_used_is_refused_by_name(name, constants, said):
    with pytest.raises(BadInput, match=said):
        methods.build(name, constants)


def test_what_a_method_cannot_do_is_refused_with_the_reason():
    for name, variant, recipe, said in (
        ("svd", "cmf", Recipe(epochs=0, lr=0.0), "'svd' cannot be used with 'cmf', only with linear, tuned"),
        ("prune", "linear", Recipe(epochs=3, lr=0.1), "'prune' is a closed form"),
        ("salun", "cmf", Recipe(epochs=0, lr=0.0), "'salun' trains: its recipe .'cmf'. needs epochs and lr"),
    ):
        with pytest.raises(BadInput, match=said):
            methods.check(name, variant, recipe)


def test_a_method_of_ones_own_may_postpone_its_annotations_and_says_no_more_than_it_must(monkeypatch):
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))

    @methods.method("mine", "Mine", citation="nobody 2026")
    @dataclass(frozen=True)
    class Mine(methods.Method):
        strength: "float" = 1.0

    assert methods.build("mine", {"strength": 2}) == Mine(2.0)
    assert (Mine.citation, Mine.role, Mine.recipe_of, Mine.closed_form) == ("nobody 2026", "method", "mine", True)
    with pytest.raises(BadInput, match="no key 'cite'; allowed are citation"):
        methods.method("yours", "Yours", cite="nobody")(Mine)
    with pytest.raises(BadInput, match="label 'SCRUB' of another method"):
        methods.method("scrubby", "SCRUB")(Mine)
