"""An interrupted training goes on with the numbers of one that was not cut."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from unlearn_utils.settings import Recipe
from unlearn_utils.training import Checkpoint, train

RECIPE = Recipe(epochs=5, lr=0.05, batch_size=16, schedule="cosine", warmup_epochs=1)


class Cut(Exception):
    pass


@pytest.fixture
def training(dataset, tmp_path):
    """training(model, last epoch or None) -> history; the run ends by force after that epoch was saved."""

    def run(model, cut_after=None, path=tmp_path / "checkpoint.pt"):
        generator, history = torch.Generator().manual_seed(3), []

        def losses(epoch):
            if epoch == cut_after:
                raise Cut
            for x, y in dataset.batches(dataset.train, RECIPE.batch_size, generator):
                yield cross_entropy(model(x), y)

        checkpoint = Checkpoint(path, generator, history, seconds=0)
        train(model, losses, [RECIPE], on_epoch=lambda epoch, loss: history.append([epoch, loss]), checkpoint=checkpoint)
        return history

    return run


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(training, resnet, tmp_path, state_of, same):
    fresh = state_of(resnet)
    expected_history = training(resnet, path=tmp_path / "other.pt")
    expected = state_of(resnet)
    resnet.load_state_dict(fresh)
    with pytest.raises(Cut):
        training(resnet, cut_after=3)
    resnet.load_state_dict(fresh)  # what a new process starts from
    history = training(resnet)
    assert same(state_of(resnet), expected)
    assert history[1:] == expected_history[1:] and [epoch for epoch, _ in history] == [0, 1, 2, 3, 4, 5]


def test_a_checkpoint_that_finds_no_room_is_not_left_half_written(training, resnet, tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        training(resnet)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_means_that_the_training_starts_anew(training, resnet, tmp_path, state_of, same):
    fresh = state_of(resnet)
    training(resnet, path=tmp_path / "other.pt")
    expected = state_of(resnet)
    resnet.load_state_dict(fresh)
    with pytest.raises(Cut):
        training(resnet, cut_after=3)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(kept[: len(kept) // 2])
    resnet.load_state_dict(fresh)
    training(resnet)
    assert same(state_of(resnet), expected)
