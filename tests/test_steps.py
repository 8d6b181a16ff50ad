"""A run in pictures: the frame is one and is what it says, the run is the cell's own, and its readings are the study's."""

import json

import pytest
import torch

from unlearn_utils.heads import class_means
from unlearn_utils.metrics import in_plane, nearest, plane_of
from unlearn_utils.representation import output_predictions
from unlearn_utils.settings import BadInput
from unlearn_utils.study.cells import load_features, load_model
from unlearn_utils.study.readouts import look
from unlearn_utils.study.steps import Steps, steps, thinned

MEANS = torch.tensor([[3.0, 1.0, 0.0, 2.0], [1.0, 0.0, 5.0, 2.0], [0.0, 4.0, 1.0, -1.0]])


def test_the_plane_keeps_the_distances_of_its_three_means_in_units_of_the_first_two():
    seen = in_plane(MEANS, *plane_of(MEANS))
    assert torch.allclose(torch.pdist(seen), torch.pdist(MEANS.double()) / (MEANS[0] - MEANS[1]).norm())


def test_the_first_mean_lies_on_the_first_axis_and_the_second_on_the_side_of_the_second():
    seen = in_plane(MEANS, *plane_of(MEANS))
    assert torch.allclose(seen.mean(0), torch.zeros(2).double(), atol=1e-6)
    assert seen[0, 0] > 0 and seen[0, 1].abs() < 1e-6 and seen[1, 1] > 0


def test_what_leaves_the_plane_at_a_right_angle_is_seen_where_it_left(rng):
    origin, axes = plane_of(MEANS)
    away = torch.linalg.svd(axes.T, full_matrices=True).Vh[2:].T @ torch.randn(2, 5, dtype=torch.float64, generator=rng)
    assert torch.allclose(in_plane(origin + axes @ torch.ones(2).double() + away.T, origin, axes),
                          in_plane(origin + axes @ torch.ones(2).double(), origin, axes).expand(5, 2))


def test_means_on_one_line_or_one_point_give_finite_places():
    for means in (torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), torch.ones(3, 4)):
        assert in_plane(means, *plane_of(means)).isfinite().all()


@pytest.fixture
def shown(ran) -> tuple:
    task = Steps(ran.cell(0, (0,), "random_label"), images=24, steps=3)
    return task, ran.run([task])[task.key]


def test_the_last_picture_is_the_stored_model_and_the_first_the_original(ran, shown):
    task, result = shown
    assert len(result["readings"]) == 3 and result["readings"][0]["step"] == 0
    for reading, cell in ((result["readings"][0], ran.cell(0, (), "original")), (result["readings"][-1], task.cell)):
        at, features = look(cell, "cpu"), load_features(cell, "cpu")
        chosen = features.test[result["images"]]
        assert reading["output"] == output_predictions(load_model(cell, "cpu"), chosen).tolist()
        assert reading["ncc"] == nearest(features.train, at.train_labels, chosen, at.classes)[0].tolist()


def test_the_classes_are_the_forgotten_one_and_the_two_nearest_to_it_in_the_original(ran, shown):
    _, result = shown
    at = look(ran.cell(0, (), "original"), "cpu")
    means = class_means(at.features.train, at.train_labels, at.classes)
    distances = (means - means[0]).norm(dim=1)
    assert result["classes"] == distances.argsort()[:3].tolist() and result["classes"][0] == 0
    assert at.test_labels[result["images"]].tolist() == result["labels"] == [c for c in result["classes"] for _ in range(8)]
    first = torch.tensor(result["readings"][0]["means"])
    assert (first[0] - first[1]).norm() == pytest.approx(1, abs=0.002)


def test_every_image_has_a_place_and_three_readings_at_every_step(ran, shown):
    for reading in shown[1]["readings"]:
        assert {len(reading[name]) for name in ("points", "output", "probe", "ncc")} == {24}
        assert all(round(value, 3) == value for point in reading["points"] for value in point)


def test_what_a_notebook_gets_is_plain_json_and_holds_digits_to_look_at(ran):
    given = steps(ran, "random_label").get()
    assert json.loads(json.dumps(given)) == given
    assert len(given["pixels"]) == len(given["labels"]) and given["forget"] == "0" and given["model"] == "Random Label"


def test_other_images_than_digits_and_fashion_are_not_handed_out(ran, monkeypatch):
    monkeypatch.setattr("unlearn_utils.study.steps.THUMBNAILS", ("fashion_mnist",))
    assert steps(ran, "random_label").get()["pixels"] is None


def test_a_run_that_failed_gives_nothing_and_one_without_steps_is_refused(ran):
    assert steps(ran, "random_label").made({}) is None
    with pytest.raises(BadInput, match="'pour_p' has no unlearning steps"):
        steps(ran, "pour_p")


@pytest.mark.parametrize("count, kept", [(3, [0, 1, 2]), (13, [0, 4, 8, 12]), (4, [0, 1, 2, 3]), (5, [0, 1, 3, 4])])
def test_at_most_so_many_readings_are_kept_and_the_first_and_last_among_them(count, kept):
    assert thinned(list(range(count)), 4) == kept
