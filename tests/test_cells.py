"""Cells: what a model starts from, what of it is trained, and how its weights are found again."""

import pytest
import torch
from PIL import Image

from unlearn_utils.settings import BadInput
from unlearn_utils.study import sweep
from unlearn_utils.study.cells import Cell, dataset_of, load_features, load_model, look_again, prepare, trained
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.study import Study

ONE = Machine(("cpu",), 1)


def test_images_that_change_on_the_disk_are_noticed_at_the_next_sweep(home, tmp_path):
    for part in ("train", "test"):
        for c, name in enumerate("abcd"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            Image.new("L", (8, 8), 60 * c).save(tmp_path / "pictures" / part / name / "1.png")

    def key() -> str:
        look_again()
        given = {"data.source": "folder", "data.folder": str(tmp_path / "pictures")}
        given |= {"data.image_size": 8, "data.channels": 1}
        study = Study("image_folder", [[0]], [0], given, device="cpu")
        return trained(study.cell(0, (0,), "random_label")).key

    before = key()
    assert key() == before
    Image.new("L", (8, 8), 7).save(tmp_path / "pictures" / "train" / "a" / "2.png")
    assert key() != before


def test_a_projected_model_is_found_again_with_its_projection(study):
    cell = study.cell(0, (0, 3), "pour_p")
    sweep.run([trained(cell)], ONE)
    model = load_model(cell, "cpu")
    assert torch.linalg.matrix_rank(model.projection) == len(model.projection) - 2


def test_a_cmf_cell_starts_from_the_cmf_original_and_ends_with_the_means_of_its_features(ran):
    cell = ran.cell(0, (0,), "scrub", "cmf")
    assert cell.start == Cell(ran.profile, 0, (), "original", "cmf") and cell.start.start == Cell(
        ran.profile, 0, (), "original"
    )
    model, features = load_model(cell, "cpu"), load_features(cell, "cpu")
    weight = model.head.weight.clone()
    model.head.refit(features.train, dataset_of(ran.profile).train.labels)
    assert torch.equal(model.head.weight, weight)


def test_a_sham_starts_from_retrain_and_only_what_unlearns_has_one(ran):
    cell, retrain = (ran.cell(0, (0,), *model) for model in (("random_label", "sham"), ("retrain", "linear")))
    assert cell.start == retrain and trained(cell).asked["start"] == trained(retrain).question
    sweep.run([trained(cell)], ONE)
    run, _ = prepare(cell, "cpu")
    start = load_model(retrain, "cpu")
    assert torch.equal(run.model.head.weight, start.head.weight) and run.forget_classes == (0,)
    assert not torch.equal(load_model(cell, "cpu").head.weight, start.head.weight)
    with pytest.raises(BadInput, match="trained from scratch"):
        print(ran.cell(0, (), "original", "sham").start)


@pytest.mark.parametrize(
    "variant, frozen, zeroed",
    [("linear", False, False), ("classifier", True, False), ("zeroed_classifier", True, True)],
)
def test_a_variant_begins_with_what_it_freezes_and_zeroes_and_keeps_the_original_as_teacher(
    variant, frozen, zeroed, ran
):
    run, _ = prepare(ran.cell(0, (0,), "random_label", variant), "cpu")
    original = load_model(ran.cell(0, (), "original"), "cpu")
    assert any(p.requires_grad for p in run.model.encoder.parameters()) != frozen
    assert (not run.model.head.weight.any()) == zeroed and torch.equal(run.teacher.head.weight, original.head.weight)
    assert all(
        torch.equal(p, q) for p, q in zip(run.model.encoder.parameters(), original.encoder.parameters(), strict=True)
    )
