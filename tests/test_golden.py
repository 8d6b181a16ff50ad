"""Numbers of a real run: the digits at full length, three forget classes, as the reference machine measured them.

A processor acts like a seed, so the tolerances are those between an AMD and an Intel machine over three classes.
"""

import pytest

from unlearn_utils.study import rows
from unlearn_utils.study.studies import Study

MODELS = [("original", "linear"), ("retrain", "linear"), ("random_label", "linear"), ("random", "linear")]
# (output, probe, NCC) of retain and forget classes, in per cent.
GOLDEN = {
    "original": {"output": (99.2, 99.1), "probe": (99.1, 99.5), "ncc": (99.1, 99.5)},
    "retrain": {"output": (99.0, 0.0), "probe": (98.0, 99.1), "ncc": (97.2, 73.3)},
    "random_label": {"output": (98.9, 0.0), "probe": (98.8, 99.5), "ncc": (96.9, 100.0)},
    "random": {"output": (7.5, 20.2), "probe": (54.6, 70.7), "ncc": (56.6, 69.3)},
}
POINTS = {"retain": 1.5, "forget": 6.0}  # a forget class has some 70 test images
# One class of Retrain, and how few images it leaves to chance, moves these the most.
WIDER = {("retrain", "probe", "forget"): 12.0, ("retrain", "ncc", "forget"): 15.0}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_HOME", str(tmp_path_factory.mktemp("golden")))
        study = Study.of("digits", forget_sets=[[0], [1], [2]], device="cpu", jobs=2)
        return rows.measurements(study, MODELS).get().groupby("method").mean(numeric_only=True) * 100


@pytest.mark.parametrize("method", GOLDEN)
def test_the_digits_give_the_numbers_of_the_reference(method, measured):
    for readout, expected in GOLDEN[method].items():
        for side, value in zip(("retain", "forget"), expected):
            points = WIDER.get((method, readout, side), POINTS[side])
            assert measured.loc[method, f"{readout}_{side}"] == pytest.approx(value, abs=points), (readout, side)


def test_random_label_hides_and_retrain_does_not(measured):
    assert measured.loc["random_label", "output_forget"] < 5 < measured.loc["random_label", "ncc_forget"] - 85
    assert measured.loc["retrain", "ncc_forget"] < measured.loc["random_label", "ncc_forget"] - 10
    assert measured.loc["random_label", "alignment_forget"] < measured.loc["original", "alignment_forget"] - 30
