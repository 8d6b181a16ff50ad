"""Networks and data of every make: what can be meant is taken and said, the caller's state is left as it was."""

import copy
import random
from collections import UserDict
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.functional import linear, normalize
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from toys import TEST, TRAIN, folded, hiding, images, noted, quarters, read, result, same_numbers, small, three

from unlearn_utils import Arrays, foreign
from unlearn_utils.arrays import undisturbed
from unlearn_utils.settings import BadInput, Probe


def refusal(*given, **options):
    with pytest.raises(BadInput) as refused:
        read(*given, **options)
    told = str(refused.value)
    assert "\n" not in told and told.endswith(".")
    return told


# --- the caller's state


@contextmanager
def double_precision():
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


STATES = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "no gradients": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another default device": lambda: torch.device("meta"),
    "another default type": double_precision,
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_the_callers_state_reaches_no_measurement(state):
    before, model = read(quarters()), quarters()
    with state():
        inside = read(model)
    assert before.rows.probe_forget[0] == 1 and same_numbers(before, inside)


def test_modes_hooks_weights_and_random_states_are_as_before(state_of, same):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), small()).train()
    model[0].eval()
    before, expected = state_of(model), None
    for _ in range(2):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        drawn = torch.rand(1).item(), random.random(), np.random.rand()
        assert expected in (None, drawn)
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        read(model, DataLoader(TensorDataset(*TRAIN), 16, shuffle=True))
        expected = torch.rand(1).item(), random.random(), np.random.rand()
    assert [m.training for m in model] == [False, True, True] and same(before, state_of(model))
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(BadInput):
        read(model, features="2.9")
    assert model[1].training and not any(m._forward_hooks for m in model.modules())


def test_weights_and_images_that_were_made_in_inference_mode_are_read():
    before = read(quarters())
    with torch.inference_mode():
        made = quarters(), tuple(part.clone() for part in TRAIN)
    assert same_numbers(before, read(*made)) and same_numbers(before, read(arrays_of(made[0]), TRAIN[1], TEST[1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_another_type_reads_ordinary_images(dtype):
    report = read(quarters().to(dtype))
    assert report.rows.output_forget[0] == report.rows.probe_forget[0] == 1 and report.rows.alignment_forget.notna()[0]


# --- the head


class Made(nn.Module):
    """A network of some parts, run by a function of (network, images)."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, pixel_values):
        return self.run(self, pixel_values)


def answer(form):
    """The quarters, whose logits come in some form."""
    return Made(lambda net, x: form(net.inner(x)), inner=quarters())


def shut_out(value):
    return lambda z: torch.cat([z[:, :3], torch.full_like(z[:, 3:], value)], 1)


def parts(**more):
    return {"body": nn.Sequential(*quarters()[:2], nn.Identity()), "head": quarters()[2]} | more


def averaged(net, x):  # as of a distilled ViT
    return (net.head(net.body(x)) + net.other(net.body(x))) / 2


def pooled(net, x):
    quarter = nn.functional.avg_pool2d(x, 4)
    return net.head(quarter.flatten(1)[:, :, None, None].expand(-1, -1, 2, 2)).mean((2, 3))


def turned_too(net, x):
    return net.head(net.body(x)), net.head(net.body(x.rot90(2, (2, 3))))


def convolution():
    head = nn.Conv2d(4, 4, 1)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4)[..., None, None])
    return head


HEADS = {
    "temperature": (lambda: answer(lambda z: z * 0.2), False),
    "softmax": (lambda: answer(lambda z: z.softmax(1)), True),
    "softmax in bfloat16": (lambda: answer(lambda z: z.softmax(1)).bfloat16(), True),
    "log-softmax": (lambda: nn.Sequential(*quarters(), nn.LogSoftmax(1)), True),
    "logit -1e9": (lambda: answer(shut_out(-1e9)), False),
    "logit -inf": (lambda: answer(shut_out(-torch.inf)), False),
    "-inf, then softmax": (lambda: answer(lambda z: shut_out(-torch.inf)(z).softmax(1)), False),
    "two averaged heads": (lambda: Made(averaged, **parts(other=nn.Linear(4, 4))), False),
    "F.linear": (lambda: Made(lambda net, x: linear(net.body(x), net.head.weight, net.head.bias), **parts()), True),
    "a bare weight": (
        lambda: Made(lambda net, x: net.body(x) @ net.w.T, body=quarters()[:2], w=nn.Parameter(torch.eye(4) + 0.1)),
        True,
    ),
    "another nn.Linear after it": (
        lambda: Made(lambda net, x: (net.head(net.body(x)), net.other(net.body(x))), **parts(other=nn.Linear(4, 7))),
        True,
    ),
    "weight norm": (lambda: nn.Sequential(*quarters()[:2], nn.utils.parametrizations.weight_norm(quarters()[2])), True),
    "a 1x1 convolution before the pooling": (lambda: Made(pooled, head=convolution()), True),
    "an object": (lambda: answer(lambda z: SimpleNamespace(logits=z, loss=None)), True),
    "a dictionary": (lambda: answer(lambda z: {"loss": z.sum(), "out": z}), True),
    "nested": (lambda: answer(lambda z: ((z, None), z[:, 0])), True),
    "features before the logits": (lambda: Made(lambda net, x: ((f := net.body(x)), net.head(f)), **parts()), True),
    "run on turned images, too": (lambda: Made(turned_too, **parts()), True),
    "nothing after it": (lambda: nn.Sequential(*quarters(), nn.Identity()), True),
}


@pytest.mark.parametrize("made, known", HEADS.values(), ids=HEADS)
def test_the_head_is_known_where_its_weights_make_the_output(made, known):
    torch.manual_seed(0)
    report = read(made())
    row = report.rows.iloc[0]
    assert row.probe_forget == 1 and row.ncc_forget == 1 and row.output_retain > 0.9
    assert np.isfinite(row.alignment_forget) == known != noted(report, "No linear head")


@pytest.mark.parametrize("form", [lambda z: z, lambda z: z.softmax(1)])
def test_an_earlier_layer_that_favours_the_same_class_is_not_taken_for_the_features(form):
    """Of a softmax, all that is far below the best looks alike; the network's last stage has one width."""
    net = Made(lambda net, x: form(net.head(net.body(x) + net.branch(net.body(x)))), **parts(branch=nn.Linear(4, 4)))
    with torch.no_grad():
        net.head.weight.mul_(100)
        net.branch.weight.copy_(torch.eye(4)[[1, 2, 3, 0]] / 2)
        net.branch.bias.zero_()
        wanted = net.body(TEST[0]) + net.branch(net.body(TEST[0]))
    np.testing.assert_allclose(read(net).arrays["mine"].test_features, wanted, atol=1e-5)


def test_the_head_is_read_where_it_made_the_logits_and_a_name_of_several_modules_is_refused():
    net, wanted = Made(turned_too, **parts()), arrays_of(quarters()).test_features
    for where in (None, "head"):
        np.testing.assert_array_equal(read(net, features=where).arrays["mine"].test_features, wanted)
    first, second = Made(None, fc=nn.Linear(4, 12)), Made(None, fc=nn.Linear(12, 4))
    two = nn.Sequential(*quarters()[:2], Made(lambda net, x: net.b.fc(net.a.fc(x)), a=first, b=second))
    assert "several modules of the name 'fc' (2.a.fc, 2.b.fc)" in refusal(two, features="fc")
    assert read(two, features="b.fc").arrays["mine"].test_features.shape == (160, 12)


def test_the_head_may_also_be_given_prototypes_in_any_number():
    def run(net, x):
        net.head(torch.ones(5, 4))
        return net.head(net.body(x))

    made = read(Made(run, **parts()), batch_size=25).arrays["mine"]  # the last of 80 images are five
    np.testing.assert_array_equal(made.train_features, arrays_of(quarters()).train_features)


def test_a_module_that_is_named_is_believed_and_a_function_too():
    inner = read(small(), features="2")  # the input of the first nn.Linear: the quarters
    assert (
        same_numbers(inner, read(small(), features=lambda model, x: model[1](model[0](x))))
        and inner.rows.ncc_forget[0] == 1
    )
    maps = read(nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)), features="1")
    assert maps.rows.alignment_forget.notna()[0]  # averaged maps are what the head reads
    for where in ("fc9", lambda model, x: x[:, 0, 0, 0]):
        assert "name the module" in refusal(small(), features=where)
    assert "features function" in refusal(small(), features=lambda model, x: x.nothing)
    assert "features names yours" in refusal(small(), features={"yours": "4"})


@pytest.mark.parametrize(
    "made, width",
    [
        (lambda: torchvision.models.resnet18(weights=None, num_classes=4), 512),
        (lambda: torchvision.models.squeezenet1_1(weights=None, num_classes=4), None),
        (lambda: timm.create_model("resnet10t", num_classes=4), 512),
        (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4), 192),
        (lambda: timm.create_model("test_convnext", num_classes=4), None),
    ],
)
def test_networks_of_libraries_are_read_at_the_input_of_their_head(made, width):
    torch.manual_seed(0)
    model, (x, _) = made(), images(2, 3, 32)
    given = foreign.Foreign("mine", model, None, x)
    with undisturbed(model):
        features, logits = given.look(x)
        assert torch.allclose(torch.from_numpy(logits), model(x), atol=1e-4)
        if not (linears := [m for m in model.modules() if isinstance(m, nn.Linear)]):  # a convolution, and then a ReLU
            assert not given.head and "features are the input of 'classifier.1'" in given.notes[0]
            return
        head = linears[-1]
        assert torch.allclose(
            linear(torch.from_numpy(features), head.weight, head.bias), torch.from_numpy(logits), atol=1e-4
        )
        assert given.head
    assert width in (None, features.shape[1])


# --- eager or not


def test_compiled_networks_are_read_as_the_ones_they_were_made_of():
    plain, one = read(quarters()), quarters()
    outer, part, inplace = torch.compile(one, backend="eager"), quarters(), quarters()
    part[2] = torch.compile(part[2], backend="eager")
    inplace.compile(backend="eager")
    for compiled in (outer, nn.Sequential(*part), inplace, nn.DataParallel(quarters())):
        with torch.no_grad():
            compiled(TRAIN[0])
        assert same_numbers(plain, read(compiled))
    assert same_numbers(plain, read(outer, features="2")) and same_numbers(plain, read(outer, features="_orig_mod.2"))


def test_of_a_scripted_network_one_true_sentence_leads_out():
    scripted = torch.jit.script(quarters().eval())
    for module in (scripted, torch.jit.freeze(scripted), nn.Sequential(scripted)):
        assert "TorchScript module" in refusal(module) and "TorchScript module" in refusal(module, features="2")
    assert read(scripted, features=lambda model, x: nn.functional.avg_pool2d(x, 4).flatten(1)).rows.probe_forget[0] == 1
    body = torch.jit.script(quarters()[:2])
    assert same_numbers(read(quarters()), read(nn.Sequential(body, quarters()[2])))


# --- input that cannot be meant, and what is said of it


@pytest.mark.parametrize("wrapped", [lambda net: net, nn.DataParallel, nn.Sequential, torch.compile])
def test_one_network_under_two_names_is_refused(wrapped):
    net = quarters()
    assert "one and the same" in refusal({"Original": net, "Retrain": wrapped(net)})


def test_the_same_weights_with_another_output_are_two_models():
    net = quarters()
    masked = Made(lambda made, x: shut_out(-torch.inf)(made.inner(x)), inner=net)
    assert read({"Original": net, "mine": masked}).rows.output_forget.tolist() == [1, 0]


def test_what_a_relu_was_given_is_not_taken_for_the_features():
    """The head does not see the fifth feature, so it makes the same logits of both."""
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4))
    with torch.no_grad():
        net[2].weight.copy_(torch.eye(5, 4)), net[2].bias.fill_(10)
        net[2].weight[4], net[2].bias[4] = -1, 0
        net[4].weight.copy_(torch.eye(4, 5)), net[4].bias.zero_()
    features = read({"mine": net}).arrays["mine"].test_features
    assert features.shape[1] == 5 and (features >= 0).all()


@pytest.mark.parametrize("value, dtype", [(-1e9, torch.float32), (-1e3, torch.bfloat16)])
def test_a_logit_far_below_the_others_does_not_move_the_place_of_the_features(value, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 4)).to(dtype)
    low = copy.deepcopy(net)
    low[4].bias.data[3] = value
    rows = read({"Original": net, "mine": low}).rows
    for name in ("probe_forget", "ncc_retain", "nc1", "nc2"):
        assert rows[name].nunique() == 1


@pytest.mark.parametrize(
    "made",
    [
        lambda: Made(lambda net, x: net.inner(nn.functional.dropout(x, 0.5, True)), inner=quarters()),
        lambda: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *quarters()),
    ],
)
def test_what_hangs_on_chance_or_on_the_batch_is_read_and_noted(made):
    assert noted(read(made()), "answers an image differently")
    assert not noted(read(quarters()), "answers an image differently")


def broken():
    model = quarters()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    "models, told",
    [
        ({"mine": "mine.pth"}, "model 'mine' is a str"),
        ({}, "at least one model"),
        ({"retrain": small(), "Retrain": small()}, "same name"),
        (broken(), "infinite or no numbers"),
        ({"a": small(), "b": nn.Sequential(nn.Flatten(), nn.Linear(64, 7))}, "'a' 4, 'b' 7"),
        (nn.Flatten(2), "must give logits (N, K)"),
        (nn.Flatten(), "runs no nn.Linear"),
        (small().to("meta"), "on the device 'meta'"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), "cannot read images (8, 1, 8, 8)"),
    ],
)
def test_models_that_cannot_be_read_are_refused(models, told):
    assert told in refusal(models)


def test_any_name_is_a_name():
    assert list(read({"x/" * 60 + "3": quarters(), 3: hiding()}).rows.model) == ["x/" * 60 + "3", "3"]


# --- forms of data


class Listed:
    """As a Hugging Face data set: __len__ and __getitem__, items are dictionaries, and no torch Dataset."""

    def __init__(self, part, form=lambda i, x, y: {"image": x, "label": int(y)}, **more):
        self.part, self.form = part, form
        self.__dict__.update(more)

    def __len__(self):
        return len(self.part[1])

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError
        return self.form(i, self.part[0][i], self.part[1][i])


class Stream(IterableDataset):
    def __init__(self, part):
        self.part = part

    def __iter__(self):
        return iter(zip(*self.part))


def set_of(form):
    return lambda part, **more: type("Set", (Listed, Dataset), {})(part, form, **more)


FORMS = {
    "tensors": lambda part: part,
    "arrays": lambda part: (part[0].numpy(), part[1].numpy()),
    "a list of labels": lambda part: [part[0], part[1].tolist()],
    "labels (N, 1)": lambda part: (part[0], part[1][:, None]),
    "labels as floats": lambda part: (part[0], part[1].double()),
    "a tuple of labels": lambda part: (part[0], tuple(part[1].tolist())),
    "lists of arrays": lambda part: (list(part[0]), list(part[1])),
    "one-hot labels": lambda part: (part[0], nn.functional.one_hot(part[1])),
    "a data set with one-hot labels": lambda part: TensorDataset(part[0], nn.functional.one_hot(part[1]).float()),
    "float64 images": lambda part: (part[0].double().numpy(), part[1].numpy().astype(np.uint8)),
    "a dictionary": lambda part: {"pixel_values": part[0], "labels": part[1]},
    "a data set": lambda part: TensorDataset(*part),
    "a loader": lambda part: DataLoader(TensorDataset(*part), 7),
    "a loader that shuffles and drops": lambda part: DataLoader(TensorDataset(*part), 32, shuffle=True, drop_last=True),
    "a sampler": lambda part: DataLoader(TensorDataset(*part), 9, sampler=SubsetRandomSampler(range(len(part[1])))),
    "a subset": lambda part: Subset(TensorDataset(*part), range(len(part[1]))),
    "no torch data set": Listed,
    "batches by index": lambda part: Listed(
        (part[0].split(9), part[1].split(9)), lambda i, x, y: {"image": x, "label": y}
    ),
    "columns without numbers": lambda part: Listed(
        part, lambda i, x, y: {"path": f"{i}.png", "image": x, "label": int(y), "caption": None, "box": [0.5] * (i % 3)}
    ),
    "nested": set_of(lambda i, x, y: {"inputs": (x, x.clone()), "target": {"label": int(y), "index": 1000 + i}}),
    "rows of lists": lambda part: Listed(part, lambda i, x, y: {"image": x.tolist(), "label": int(y)}),
    "MedMNIST": set_of(lambda i, x, y: (x, np.array([int(y)]))),
    "image, empty, label": set_of(lambda i, x, y: (x, torch.Tensor([]), int(y))),
    "index, image, label": set_of(lambda i, x, y: (1000 + i, x, int(y))),
    "image, label, index": set_of(lambda i, x, y: (x, int(y), i)),
    "batches of dictionaries": lambda part: [
        UserDict(image=x, label=y) for x, y in zip(part[0].split(9), part[1].split(9))
    ],
    "a list of samples": lambda part: list(zip(*part)),
    "a list of batches": lambda part: list(zip(part[0].split(9), part[1].split(9))),
    "a generator": lambda part: ((x, y) for x, y in zip(part[0].split(9), part[1].split(9))),
    "a generator of samples": lambda part: zip(*part),
    "a stream": Stream,
    "a loader of a stream": lambda part: DataLoader(Stream(part), 9),
    "batches from the data set": lambda part: DataLoader(
        TensorDataset(*part), batch_size=None, sampler=torch.arange(len(part[1])).split(9)
    ),
}


@pytest.fixture(scope="module")
def plain():
    return read(quarters(), probe=Probe(epochs=1), starts=1)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_data_reads_the_same(plain, form):
    report = read(quarters(), form(TRAIN), form(TEST), probe=Probe(epochs=1), starts=1)
    assert same_numbers(plain, report)
    assert noted(report, "shuffles or drops") == (form is FORMS["a loader that shuffles and drops"])


def half(part):
    return SubsetRandomSampler(range(len(part[1]) // 2))


@pytest.mark.parametrize(
    "choice", [lambda part: {"sampler": half(part)}, lambda part: {"batch_sampler": BatchSampler(half(part), 8, False)}]
)
def test_what_a_sampler_leaves_out_is_not_read(choice):
    report = read(quarters(), DataLoader(TensorDataset(*TRAIN), **choice(TRAIN)))
    assert sum(report.made["data"]["train"]["images"]) == 40 and noted(report, "train takes 40 of the 80 images")


class Endless(BatchSampler):
    def __iter__(self):
        while True:
            yield from super().__iter__()


@pytest.mark.parametrize(
    "batches",
    [
        Endless(RandomSampler(TRAIN[1]), 8, True),
        BatchSampler(WeightedRandomSampler(torch.ones(80), 80), 8, False),
        torch.randint(80, (10, 8)),
    ],
)
def test_batches_drawn_by_chance_leave_no_image_out(batches):
    report = read(quarters(), DataLoader(TensorDataset(*TRAIN), batch_sampler=batches))
    assert sum(report.made["data"]["train"]["images"]) == 80


def test_which_entry_holds_the_labels_is_found_and_said():
    fine = lambda part: TensorDataset(part[0], 10 * part[1] + 3, part[1])  # noqa: E731
    coarse = read(quarters(), fine(TRAIN), fine(TEST))
    assert coarse.rows.output_forget[0] == 1 and noted(coarse, "Labels are entry 3")
    two = lambda part: {"image": part[0], "coarse": part[1] // 2, "fine": part[1]}  # noqa: E731
    named = read(quarters(), two(TRAIN), two(TEST))
    assert named.rows.output_forget[0] == 1 and noted(named, "Labels are fine")


@pytest.mark.parametrize(
    "given, forget, names",
    [
        ({"classes": ["bird", "car", "cat", "dog"]}, "Dog", ["bird", "car", "cat", "dog"]),
        ({"classes": ["d", "c", "b", "D"]}, ["D"], ["d", "c", "b", "D"]),
        (
            {"classes": [("crane", "bird"), ("car",), ("crane",), ("dog",)]},
            "crane (2)",
            ["crane (0)", "car", "crane (2)", "dog"],
        ),
        ({"classes": list("abcdefg")}, "3", ["0", "1", "2", "3"]),
        ({"classes": 4}, 3.0, ["0", "1", "2", "3"]),
        ({"classes": np.array(list("abcd"))}, {"d"}, list("abcd")),
        ({"class_to_idx": {"d": 3, "c": 2, "b": 1, "a": 0}}, ["d", 3], list("abcd")),
        ({"info": {"label": {"0": "a", "1": "b", "2": "c", "3": "d"}}}, ["d"], list("abcd")),
        ({"features": {"image": None, "label": SimpleNamespace(names=list("abcd"))}}, ["d", 0], list("abcd")),
    ],
)
def test_names_are_a_convenience(given, forget, names):
    test = ConcatDataset([Subset(set_of(lambda i, x, y: (x, int(y)))(TEST, **given), range(160))])
    report = read(quarters(), Listed(TRAIN, **given), test, forget)
    assert report.classes == names and noted(report, "name 7 classes") == (
        str(given.get("classes")) == str([*"abcdefg"])
    )


def augmented(i, x, y):
    return x + torch.randn(()), int(y)


def fails(i, x, y):
    if i == 70:
        raise RuntimeError("unable to allocate shared memory (shm): Resource temporarily unavailable")
    return x, int(y)


def test_augmented_images_are_read_and_noted():
    assert noted(read(quarters(), set_of(augmented)(TRAIN)), "train is augmented")


@pytest.mark.parametrize(
    "options, told",
    [
        (dict(forget=list(range(40, 60))), "classes, not samples"),
        (dict(forget=[]), "classes, not samples"),
        (dict(forget="cow"), "[cow]"),
        (dict(starts=0), "starts is 0"),
        (dict(probe=3), "probe is 3"),
        (dict(train=(TRAIN[0], TRAIN[1][:9])), "give one label for each image"),
        (dict(train=(TRAIN[0], TRAIN[1] / 2)), "torch.float32"),
        (dict(test="images/"), "test is a str"),
        (dict(test=(TEST[0], TEST[1] + 1)), "test has the label 4"),
        (dict(test=3), "test is a int"),
        (dict(train=tuple(t[TRAIN[1] != 2] for t in TRAIN)), "train holds no image of class 2"),
        (dict(train=TRAIN[1]), "needs images"),
        (dict(train=iter([])), "train holds no image"),
        (dict(test=(TEST[0] / 0, TEST[1])), "infinite or no numbers"),
        (dict(train=set_of(fails)(TRAIN), batch_size=35), "num_workers=0"),
        (dict(train=Listed(TRAIN, classes=list("abcd")), test=Listed(TEST, classes=list("dcba"))), "in another order"),
        (
            dict(train=set_of(lambda i, x, y: (torchvision.transforms.functional.to_pil_image(x), int(y)))(TRAIN)),
            "must be tensors",
        ),
    ],
)
def test_data_that_cannot_be_used_are_refused_in_one_sentence(options, told):
    assert told in refusal(small(), **options)


def test_a_forget_set_that_does_not_fit_is_refused_before_the_pass():
    seen = []
    data = set_of(lambda i, x, y: (seen.append(i) or x, int(y)))(TRAIN)
    assert "forget is [cow]" in refusal(quarters(), data, forget="cow", batch_size=8) and len(seen) <= 25


# --- arrays


def arrays_of(model):
    with torch.no_grad():
        body = model[:-1]
        return Arrays(body(TRAIN[0]), body(TEST[0]).numpy(), model(TEST[0]), model[-1].weight, model[-1].bias.tolist())


def test_arrays_and_networks_give_the_same_numbers_alone_and_together():
    nets, arrays = three(), {name: arrays_of(net) for name, net in three().items()}
    plain = read(nets)
    assert same_numbers(plain, read(arrays, TRAIN[1], TEST[1].tolist()))
    assert same_numbers(plain, read(arrays, TensorDataset(TRAIN[1]), TEST[1]))
    mixed = read(arrays | {"Retrain": nets["Retrain"]}, DataLoader(TensorDataset(*TRAIN), 16, shuffle=True))
    assert same_numbers(plain, mixed) and plain.compare().frame.equals(mixed.compare().frame)


@pytest.mark.parametrize(
    "changed, told",
    [
        (dict(train_features=np.ones((80, 5))), "test_features has the shape (160, 4)"),
        (dict(weight=np.ones((5, 4))), "weight has the shape (5, 4)"),
        (dict(train_features=np.full((80, 4), np.nan)), "no numbers"),
        (dict(test_logits="logits"), "cannot be read as an array"),
        (dict(test_features=np.ones(4)), "test_features has the shape (4,)"),
        (dict(normalisation="raw"), "unit_length"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changed, told):
    with pytest.raises(BadInput) as refused:
        replace(arrays_of(quarters()), **changed)
    assert told in str(refused.value)


@pytest.mark.parametrize("order", [1, -1])
def test_with_labels_alone_a_model_whose_features_are_all_alike_shares_no_images(order):
    given = {name: arrays_of(net) for name, net in three().items()}
    given["dead"] = replace(given["hiding"], train_features=np.zeros((80, 4)), test_features=np.zeros((160, 4)))
    assert result(read(dict([*given.items()][::order]), TRAIN[1], TEST[1]), "UNL008") == "passed"


def test_a_weight_that_contradicts_the_logits_is_left_out():
    """Of the same features: weights in another order; logits after a softmax of another temperature are the head's."""
    given = arrays_of(quarters())
    odd, cmf = replace(given, weight=given.weight[[1, 2, 3, 0]]), replace(given, bias=None, centre=-9 * np.eye(4)[3])
    soft = replace(given, test_logits=torch.from_numpy(given.test_logits / 3).softmax(1))
    report = read({"odd": odd, "cmf": cmf, "soft": soft}, TRAIN[1], TEST[1])
    rows = report.rows.set_index("model")
    assert noted(report, "No linear head is known of odd, cmf,", "does not predict what the logits do")
    columns = ["alignment_forget", "margin_weight_forget", "bias_stability", "nc3"]
    assert rows.loc[["odd", "cmf"], columns].isna().all(axis=None) and rows.loc["soft", columns].notna().all()
    assert rows.probe_forget.eq(1).all() and "margin by bias, forget" in report.table.index


def test_arrays_in_another_number_than_labels_are_refused():
    assert "has 80 train features, but train has 79 labels" in refusal(arrays_of(quarters()), TRAIN[1][:79], TEST[1])


# --- CMF heads


def in_head(net, x):
    return normalize(normalize(net.encoder(x), dim=1) - net.CMFweights.mu, dim=1)


def official_model(temperature, ends_in_log_softmax):
    """As the official code has it: an encoder that ends in a log-softmax, unit length, centre, unit length, cosines."""
    last = [nn.LogSoftmax(1)] * ends_in_log_softmax
    net = Made(lambda net, x: in_head(net, x) @ net.CMFweights.weight.T * temperature, CMFweights=nn.Module())
    net.encoder = nn.Sequential(*quarters()[:2], nn.Linear(4, 6), nn.Identity(), *last)
    z = normalize(net.encoder(TRAIN[0]), dim=1).detach()
    means = torch.stack([z[TRAIN[1] == c].mean(0) for c in range(4)])
    net.CMFweights.register_buffer("mu", z.mean(0))
    net.CMFweights.register_buffer("weight", normalize(means - z.mean(0), dim=1))
    return net.eval()


@pytest.mark.parametrize(
    "temperature, ends, normalisation", [(1, True, "log_softmax"), (5, True, "log_softmax"), (1, False, "unit_length")]
)
def test_a_cmf_head_is_recognised_and_measured_in_its_normalisation_too(temperature, ends, normalisation):
    torch.manual_seed(0)
    model = official_model(temperature, ends)
    report = read({"Original": quarters(), "Retrain": folded(), "mine": model})
    by_hand = read({"mine": copy.deepcopy(model)}, features=in_head)
    row, official = report.rows.set_index("model").loc["mine"], by_hand.rows.iloc[0]
    assert report.arrays["mine"].normalisation == normalisation and np.isfinite(row.alignment_forget)
    for readout in ("probe", "ncc"):
        assert row[f"{readout}_in_head_forget"] == pytest.approx(official[f"{readout}_forget"], abs=1e-6)
    raw = read({"mine": copy.deepcopy(model)}, features="encoder.3").rows.iloc[0]
    assert row.ncc_forget == pytest.approx(raw.ncc_forget) and row.probe_forget == pytest.approx(raw.probe_forget)
    assert report.rows.probe_in_head_forget.notna().all()  # the references stand next to it, in the same normalisation
    assert "NCC, head's normalisation, forget (%)" in report.table.index
