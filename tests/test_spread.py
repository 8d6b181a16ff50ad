"""What a ± is made of."""

import itertools

import numpy as np
import pandas as pd
import pytest

from unlearn_utils.views import spread
from unlearn_utils.views.intervals import ALPHA


def rows_of(values: dict, column="probe_forget", method="random_label", model="Random Label") -> pd.DataFrame:
    """``values[(class, seed)]`` as rows."""
    return pd.DataFrame([
        {"model": model, "method": method, "variant": "linear", "forget": str(c), "seed": s, column: v}
        for (c, s), v in values.items()
    ])


def test_a_table_that_is_class_plus_seed_has_no_rest():
    classes, seeds = [0.1, 0.4, 0.7], [0.0, 0.02]
    rows = rows_of({(i, j): a + b for (i, a), (j, b) in itertools.product(enumerate(classes), enumerate(seeds))})
    found = spread.split(rows, ["probe_forget"]).loc[("Random Label", "probe_forget")]
    assert found.over_classes == pytest.approx(0.3) and found.over_seeds == pytest.approx(np.std(seeds, ddof=1))
    assert found.rest == pytest.approx(0, abs=1e-9) and (found.classes, found.seeds) == (3, 2)


def test_the_parts_of_drawn_numbers_are_found_again():
    draw = np.random.default_rng(0)
    of_class, of_seed = draw.normal(0, 3, 200), draw.normal(0, 1, 200)
    table = pd.DataFrame(of_class[:, None] + of_seed + draw.normal(0, 2, (200, 200)))
    found = spread.components(table)
    assert found == pytest.approx({"over_classes": 3, "over_seeds": 1, "rest": 2}, rel=0.15)


def test_one_seed_cannot_be_split_and_a_set_without_all_seeds_does_not_count():
    one = spread.split(rows_of({(0, 0): 0.1, (1, 0): 0.2}), ["probe_forget"])
    assert one.over_classes.isna().all()
    part = spread.split(rows_of({(0, 0): 0.1, (0, 1): 0.1, (1, 0): 0.2, (1, 1): 0.2, (2, 0): 9.0}), ["probe_forget"])
    assert part.classes.item() == 2 and part.over_classes.item() == pytest.approx(np.std([0.1, 0.2], ddof=1))


def test_a_difference_to_the_paper_is_held_against_the_spread_over_sets():
    near = rows_of({(c, 0): 0.9249 + shift for c, shift in enumerate((-0.02, -0.01, 0.0, 0.01, 0.02))})  # paper: 92.49
    line = spread.explained(near, "cifar10").set_index("measure").loc["probe_forget"]
    assert line.paper == pytest.approx(0.9249) and line.difference == pytest.approx(0) and line.within == "yes"
    # t(4) = 2.776; s = 0.01581; five of the paper's ten classes: sqrt((1 - 5/10) / 5) = 0.3162
    assert ALPHA == 0.05 and line.high - line.paper == pytest.approx(2.776 * 0.015811 * 0.31623, rel=1e-3)
    far = near.assign(probe_forget=near.probe_forget - 0.03)
    assert spread.explained(far, "cifar10").within.tolist() == ["no"]
    assert spread.explained(far[:2], "cifar10").within.tolist() == [""]
    same = spread.explained(near.assign(probe_forget=1.0), "cifar10")  # no spread: nothing is known of chance
    assert same.within.tolist() == [""]
    other = spread.explained(near.assign(probe_forget=0.8 + 0.001 * near.forget.astype(float)), "cifar10")
    assert other.within.tolist() == ["no"]


def test_with_one_seed_a_second_retrain_tells_what_a_seed_changes():
    first = rows_of({(c, 0): 0.5 for c in range(5)}, method="retrain", model="Retrain")
    again = rows_of({(c, 0): 0.52 + 0.01 * (c - 2) for c in range(5)}, method="retrain_again", model="Retrain, second seed")
    said = spread.said(pd.concat([first, again]), ("probe_forget",))
    # t(4) = 2.776; s = 0.01581: 2.776 * 1.581 / sqrt(5) = 1.96
    assert said.endswith("known of Retrain alone; its second seed less its first, in points: Linear probe 2.0 [0.0, 4.0].")
    assert spread.said(first, ("probe_forget",)).endswith("what another seed changes is not known.")


def test_where_only_signs_compare_no_number_is_within_or_not():
    rows = rows_of({(c, 0): 0.8 + shift for c, shift in enumerate((-0.02, -0.01, 0.0, 0.01, 0.02))})
    line = spread.explained(rows, "fashion_mnist").iloc[0]
    assert line.within == "" and np.isnan([line.low, line.high]).all() and line.difference == pytest.approx(0.8 - 0.9249)


def test_models_with_the_originals_features_do_not_count_again(monkeypatch):
    monkeypatch.setattr(spread, "by_seed", lambda rows: "")
    classes, cells = (-0.1, 0.0, 0.1), list(itertools.product(range(3), range(2)))
    moved = rows_of({(c, s): 0.5 + classes[c] for c, s in cells})
    still = [rows_of({(c, s): 0.5 + classes[c] / 10 for c, s in cells}, method=m, model=m) for m in ("original", "svd", "prune")]
    said = spread.said(pd.concat([moved, *still]), ("probe_forget",))  # standard deviations: 10 and 1 points
    assert "median of 2 models with own features: Linear probe 5.5, 0.0, 0.0" in said


@pytest.mark.parametrize("values, within", [((0.01, 0.02, 0.3), "no"), ((0.004, 0.001, 0.02), "yes"), ((0.0, 0.0, 0.0), "")])
def test_no_choice_of_classes_makes_a_mean_that_the_papers_ten_cannot_have(values, within):
    rows = rows_of({(c, 0): value for c, value in enumerate(values)}, "output_forget", "unsir", "UNSIR")  # paper: 0.48
    line = spread.explained(rows, "cifar10").set_index("measure").loc["output_forget"]
    assert line.paper == pytest.approx(0.0048) and line.high <= 10 * 0.0048 / 3 + 1e-9 and line.within == within
