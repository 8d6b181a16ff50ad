"""Watch: a training with it ends in the same weights, bit for bit, as without it."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from toys import PROBE, TEST, TRAIN, folded, quarters, read

from unlearn_utils import Watch
from unlearn_utils.settings import BadInput


def trained(watching, state_of, generator=False, autocast=False, compiled=False, stream=False):
    """A short training in which everything is random: order, dropout, batch norm, NumPy's and Python's noise."""
    references = {"original": quarters(), "retrain": folded()}
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 4)
    )
    model, optimiser = (
        torch.compile(net, backend="eager") if compiled else net,
        torch.optim.SGD(net.parameters(), 0.1, momentum=0.9),
    )
    loader = DataLoader(
        TensorDataset(*TRAIN), 16, shuffle=True, generator=torch.Generator().manual_seed(3) if generator else None
    )
    test = zip(TEST[0].split(40), TEST[1].split(40)) if stream else TEST
    watch = Watch(loader, test, [3], **references, every=4, probe=PROBE) if watching else None
    step, modes = 0, []
    for _ in range(3):
        for x, y in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = cross_entropy(model(x + 0.1 * float(np.random.rand() + random.random())), y)
                optimiser.zero_grad()
                loss.backward()
                if watch:  # between backward and step, where the gradients wait
                    watch(model, step)
            optimiser.step()
            modes.append(all(part.training for part in net.modules()))
            step += 1
    return state_of(net), watch, modes


@pytest.mark.parametrize("how", [{}, {"generator": True}, {"autocast": True}, {"compiled": True}, {"stream": True}])
def test_a_training_with_it_is_the_one_without_it(how, state_of, same):
    plain, _, _ = trained(False, state_of, **how)
    watched, watch, modes = trained(True, state_of, **how)
    assert same(plain, watched) and all(modes)
    assert list(watch.frame.step) == [0, 4, 8, 12] and watch.frame.notna().all(axis=None)
    assert 0 < watch.share < 1 and "4 readings" in repr(watch)


def test_its_numbers_are_those_of_evaluate():
    watch = Watch(TRAIN, TEST, [3], original=quarters(), retrain=folded(), probe=PROBE)
    watch(quarters()), watch(folded())  # without a step calls are counted: 0 and 1
    rows = read({"Original": quarters(), "Retrain": folded()}, starts=1).rows.set_index("model")
    for name in ("output_forget", "probe_retain", "ncc_forget"):
        assert watch.frame[name].tolist() == [rows[name]["Original"]]
        assert {model: level[name] for model, level in watch.levels.items()} == rows[name].to_dict()
    watch.read(folded(), 7)
    assert watch.frame.ncc_forget.tolist() == rows.ncc_forget.tolist() and watch.frame.step.tolist() == [0, 7]


def test_the_picture_shows_curves_and_levels():
    watch = Watch(TRAIN, TEST, [3], retrain=folded(), probe=PROBE)
    watch.read(quarters(), 0), watch.read(folded(), 10)
    lines = watch.plot().axes[0].lines
    assert len(lines) == 6 and lines[0].get_xdata().tolist() == [0, 10] and lines[0].get_ydata().tolist() == [100, 0]
    assert lines[1].get_linestyle() == "--" and set(lines[1].get_ydata()) == {0}


@pytest.mark.parametrize("every", [0, 2.5, None])
def test_a_number_of_steps_is_a_whole_one(every):
    with pytest.raises(BadInput, match="every is"):
        Watch(TRAIN, TEST, [3], every=every)


def test_a_model_that_became_nan_has_a_row_of_nan_and_the_loop_goes_on(capsys):
    watch, broken = Watch(TRAIN, TEST, [3], retrain=folded(), probe=PROBE), quarters()
    with torch.no_grad():
        broken[2].weight.fill_(torch.nan)
    for step, model in enumerate((quarters(), broken, broken, quarters())):
        watch.read(model, step)
    assert watch.frame.probe_forget.isna().tolist() == [False, True, True, False] and set(watch.levels) == {"Retrain"}
    with pytest.raises(BadInput, match="model 'Retrain' gives features or logits that are"):
        Watch(TRAIN, TEST, [3], retrain=broken, probe=PROBE).read(quarters(), 0)
    assert capsys.readouterr().out.count("Watch at step 1: model 'model' gives features or logits that are") == 1
    with pytest.raises(BadInput, match="model 'model' is a NoneType"):
        watch(None, 50)
