"""An interrupted training goes on with the numbers of one that was not cut; a loop without losses is refused."""

from functools import partial
from pathlib import Path

import pytest
import torch
from small import cell, profile
from torch.nn.functional import cross_entropy

from unlearn_utils.methods.references import Original
from unlearn_utils.settings import BadInput, Recipe
from unlearn_utils.study import cells
from unlearn_utils.study.cells import trained
from unlearn_utils.study.store import Store
from unlearn_utils.training import Checkpoint, learning_rate, train

RECIPE = Recipe(epochs=5, lr=0.05, batch_size=16, schedule="cosine", warmup_epochs=1)


class Cut(Exception):
    pass


@pytest.fixture
def training(dataset, tmp_path):
    """training(model, last epoch or None) -> history, moments; the run ends by force after that epoch was saved."""

    def run(model, cut_after=None, path=tmp_path / "checkpoint.pt"):
        generator, history, moments = torch.Generator().manual_seed(3), [], {}

        def losses(epoch):
            if epoch == cut_after:
                raise Cut
            for x, y in dataset.batches(dataset.train, RECIPE.batch_size, generator):
                yield cross_entropy(model(x), y)

        def note(epoch, loss):
            history.append([epoch, loss])
            moments[str(epoch)] = model.head.weight.detach().clone()

        train(
            model, losses, [RECIPE], on_epoch=note, checkpoint=Checkpoint(path, generator, history, moments, seconds=0)
        )
        return history, moments

    return run


@pytest.fixture
def cut(training, resnet, tmp_path, state_of):
    """A training that was cut after three epochs, and what one without a cut ends at."""
    fresh = state_of(resnet)
    history, moments = training(resnet, path=tmp_path / "other.pt")
    expected = state_of(resnet), history, moments
    resnet.load_state_dict(fresh)
    with pytest.raises(Cut):
        training(resnet, cut_after=3)
    resnet.load_state_dict(fresh)  # what a new process starts from
    return expected


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(cut, training, resnet, state_of, same, capsys):
    state, expected_history, expected_moments = cut
    history, moments = training(resnet)
    assert same(state_of(resnet), state) and same(moments, expected_moments)
    assert history[1:] == expected_history[1:] and [epoch for epoch, _ in history] == [0, 1, 2, 3, 4, 5]
    assert capsys.readouterr().out == ""


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def of_a_gpu(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    torch.save(state | {"device": "cuda", "generator": torch.zeros(16, dtype=torch.uint8)}, file)


@pytest.mark.parametrize("harm", [of_a_gpu, half])
def test_a_checkpoint_of_another_device_or_a_damaged_one_starts_anew_with_one_line(
    harm, cut, training, resnet, tmp_path, state_of, same, capsys
):
    harm(tmp_path / "checkpoint.pt")
    history, moments = training(resnet)
    assert "the unfinished training checkpoint is damaged or of another device" in capsys.readouterr().out
    assert same(state_of(resnet), cut[0]) and same(moments, cut[2]) and len(history) == 6


def test_an_interrupted_cell_goes_on_where_it_was_and_ends_at_the_same_result(home, monkeypatch, same):
    task, begun, losses = trained(cell(profile({}), "original")), [], Original.losses
    once = task.compute("cpu")
    monkeypatch.setattr(cells, "Checkpoint", partial(Checkpoint, seconds=0))

    def cut(self, run, epoch):
        begun.append(epoch)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return losses(self, run, epoch)

    monkeypatch.setattr(Original, "losses", cut)
    with pytest.raises(KeyboardInterrupt):
        task.compute("cpu")
    assert Store().unfinished(task.spec).exists()
    again = task.compute("cpu")
    assert begun == [0, 1, 2, 2]  # the epochs that were done are not done again
    assert repr(again[0]) == repr(once[0]) and not Store().unfinished(task.spec).exists()
    assert all(same(again[1][name], once[1][name]) for name in ("weights", "moments"))


def test_the_learning_rate_warms_up_and_falls_along_a_cosine_or_in_steps():
    recipe = Recipe(epochs=12, lr=1.0, schedule="cosine", warmup_epochs=2, min_lr=0.1)
    rates = [learning_rate(recipe, epoch) for epoch in (0, 1, 2, 7, 12)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    assert learning_rate(Recipe(epochs=3, lr=0.2), 2) == 0.2
    stepped = Recipe(epochs=9, lr=1.0, schedule="step")
    assert [learning_rate(stepped, epoch) for epoch in (2, 3, 6)] == pytest.approx([1.0, 0.2, 0.04])


def test_an_epoch_without_a_loss_is_refused_in_one_sentence(resnet):
    with pytest.raises(BadInput, match="yields no loss in an epoch"):
        train(resnet, lambda epoch: iter(()), [RECIPE])
