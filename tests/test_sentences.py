"""Readings written from numbers: for each, rows that support it and rows that refute it."""

import math

import pandas as pd
import pytest
from test_claims import SETS, cmf_rows, curves, frame, label, model

from unlearn_utils.views import claims, findings, head_sentences, sentences


def card(rows):
    return claims.scorecard(rows)


def readings(**attacks):
    """Per attack: forget accuracy of Random Label, Retrain at 0.5; the first step is a start."""
    return pd.DataFrame([
        {"model": name, "method": method, "variant": "linear", "seed": 0, "forget": forget, "attack": attack, "x": x,
         "draw": 0, "forget_accuracy": (value if method == "random_label" else 0.5) + 0.001 * i * x}
        for attack, value in attacks.items() for i, forget in enumerate(SETS) for x in (0, 1, 2)
        for name, method in (("Random Label", "random_label"), ("Retrain", "retrain"))
    ])


def test_the_output_collapses_within_the_first_epoch_or_not():
    assert "at 10.0 % (from 90.0 %): it collapsed" in sentences.collapse(curves(0.1, 0.8))
    assert "at 70.0 % (from 90.0 %): it did not collapse" in sentences.collapse(curves(0.7, 0.8))


def test_which_readouts_can_tell():
    rows = frame()
    assert "the probe 40.0 [" in sentences.room(rows) and "the probe and NCC can tell" in sentences.room(rows)
    rows.loc[rows.method == "retrain", "probe_forget"] = 0.88
    assert "above 0, NCC can tell" in sentences.room(rows)
    rows.loc[rows.method == "retrain", "ncc_forget"] = 0.88
    assert "no readout can tell" in sentences.room(rows)


def test_which_methods_hide():
    assert sentences.hiding(card(label(probe=0.88))) == "By the probe hidden: Random Label. By NCC removed: Random Label."
    assert sentences.hiding(card(label(ncc=0.88))) == "By the probe removed: Random Label. By NCC hidden: Random Label."


def test_the_head_is_misaligned_or_not():
    said = sentences.misaligned(card(label(aligned=0.5)))
    assert "half of the 0.20 of the distilled head, whose features did not move: holds: Random Label" in said
    assert "does not hold: Random Label" in sentences.misaligned(card(label(aligned=0.9)))


@pytest.mark.parametrize("diverged", ["original", "retrain", "random_label", "distilled_head"])
def test_no_sentence_says_nan_of_what_diverged(diverged):
    rows = pd.concat([cmf_rows(), label()[lambda part: part.method == "distilled_head"]])
    rows = rows.drop_duplicates(["model", "forget"]).assign(ncc_alarms=0.1, refitted_forget=0.5, centre_distance_forget=0.5)
    numbers = [column for column in rows if column not in ("model", "method", "variant", "seed", "forget")]
    rows.loc[rows.method == diverged, numbers] = math.nan
    judged = card(rows)
    said = [sentences.room(rows), sentences.hiding(judged), sentences.misaligned(judged), sentences.centre(rows),
            sentences.apart(rows, "ncc_forget", "NCC"), sentences.attractor(rows), sentences.refitted(rows),
            sentences.honest(judged), sentences.unfit(rows), sentences.classifier_only(judged),
            findings.beside(rows), *judged["this run"]]
    assert "nan" not in " ".join(said)


def test_the_classifier_alone_is_enough_or_not():
    good, dear = (frame(model("M", "random_label", "classifier", retain=retain)) for retain in (0.9, 0.7))
    assert sentences.classifier_only(card(good)) == (
        "Changing only the classifier, from the trained head, is enough for 1 of 1 methods.")
    zeroed = pd.DataFrame([*good.to_dict("records"), *model("M, zeroed", "random_label", "zeroed_classifier")])
    assert sentences.classifier_only(card(zeroed)).endswith("nearly built in: 1 of 1.")
    assert "0 of 1" in sentences.classifier_only(card(dear)) and "for M (output" in sentences.classifier_only(card(dear))


def test_a_group_may_outlive_its_members():
    def rows(any_):
        return frame(model("POUR-P", "pour_p", probe=0.32, probe_any=any_))

    assert "POUR-P (own class 32.0 %, any 92.0 %)" in sentences.several(rows(0.92))
    assert "No method merges" in sentences.several(rows(0.33))
    assert "was not measured" in sentences.several(frame(model("POUR-P", "pour_p")))


def test_with_cmf_the_output_is_honest_or_not():
    assert "(holds: Random Label + CMF)" in sentences.honest(card(cmf_rows()))
    said = sentences.honest(card(cmf_rows(output=0.1, retain=0.84)))
    assert "(does not hold: Random Label + CMF)? Random Label + CMF below NCC by 30.0" in said
    assert "cost over 5 points of retain accuracy, or may: Random Label + CMF" in said
    assert "retain" not in sentences.honest(card(cmf_rows()))


def test_the_centre_stands_beside_its_references():
    def said(distance):
        rows = cmf_rows()
        rows["centre_distance_forget"] = rows.method.map({"original": 1.0, "retrain": 0.5}).fillna(0.55)
        rows.loc[rows.variant == "cmf", "centre_distance_forget"] = distance
        return sentences.centre(rows)

    assert "Original 1.00, Retrain 0.50, Random Label 0.55, Random Label + CMF 0.04: nearer than in Retrain by 0.46" in said(0.04)
    assert "nearer than in Retrain by 0.20" in said(0.3) and "not to half" in said(0.3)
    assert "not surely nearer" in said(0.6)


def test_relearning_names_what_separates_and_what_does_not():
    said = sentences.relearning(readings(few_shot=0.7, fresh_head=0.5, own_head=0.3))
    assert said.startswith("A new head on frozen features: above Retrain, 20.0 [")
    assert "with a fresh head: not to be told from" in said and "own head: below Retrain" in said
    assert "fresh head: not to be told from Retrain" in said and "(at 50.0 % before the first step)" in said
    assert "retain images" not in said and sentences.relearning(readings(few_shot=0.7)[:0]) == "No attack was run."


def test_one_image_brings_it_back_or_not():
    for value, word in ((0.6, "holds"), (0.4, "does not hold")):
        lines = claims.scorecard(label(), None, readings(few_shot=value)).query("claim == 'One image brings it back'")
        assert list(lines.shows) == [word]


def test_the_shuffled_control_is_at_chance_or_not():
    for value, word in ((0.12, "is within"), (0.36, "is not within"), (0.01, "is not within")):
        table = readings(few_shot_shuffled=value)
        table.loc[table.method == "retrain", "forget_accuracy"] = 0.1
        assert word in sentences.shuffled(table, 10) and "%, Random Label. " in sentences.shuffled(table, 10)


def test_what_cannot_tell_and_why():
    rows = label(probe=0.88, output=0.3)
    assert "the output still reads the class 3" in sentences.inconclusive(card(rows))
    assert sentences.inconclusive(card(rows[rows.method != "random"])) == "3 of 4 lines cannot tell: the output still reads the class 3."
    # what was not run counts for nothing
    sure = card(label(probe=0.88, ncc=0.88))
    assert sentences.inconclusive(sure[sure.shows != "cannot tell"]).startswith("0 of ")


def test_collapse_is_near_or_on_the_way_or_far():
    for nc1, word in ((0.01, "near collapse"), (0.2, "on the way"), (2.0, "far from")):
        histories = pd.DataFrame({"method": "original", "seed": 0, "epoch": [1, 2], "nc1": [9.0, nc1]})
        assert f"{nc1:.2f}: {word}" in sentences.neural_collapse(histories)


def test_models_are_above_or_below_or_not_apart():
    rows = frame(model("A", "random_label", probe=0.7), model("B", "salun", probe=0.3), model("CC", "scrub", probe=0.5))
    said = sentences.apart(rows, "probe_forget", "The probe", ["A", "B", "CC"])
    assert said.startswith("The probe reads 50.0 % in Retrain; above: A 20.0 [")
    assert "below: B -20.0 [" in said and "not apart: CC 0.0 [" in said
    assert "no other model" in sentences.apart(rows, "probe_forget", "The probe", ["D"])
    one = rows[rows.forget == rows.forget.iloc[0]]
    assert sentences.apart(one, "probe_forget", "The probe", ["A"]).endswith(
        "; under 3 forget sets, so nothing is told: A 20.0.")


def test_what_is_no_evidence_is_named_with_its_reason():
    assert "Random Label: the output still reads it (30.0 %)" in sentences.unfit(label(output=0.3))
    assert "lost 40.0 points" in sentences.unfit(label(retain=0.5))
    assert "none, all outputs forgot" in sentences.unfit(label())


def test_more_recall_than_the_original_stands_beside_its_false_alarms():
    rows = frame(model("Random Label", "random_label", ncc=0.99, ncc_alarms=0.05), model("SalUn", "salun", ncc=0.8, ncc_alarms=0.02))
    rows.loc[rows.method == "original", "ncc_alarms"] = 0.001
    assert "Random Label 5.0 %, Original 0.1 %" in sentences.attractor(rows)
    assert sentences.attractor(label(ncc=0.8)).startswith("No model's NCC")


def test_what_turned_further_is_said_of_every_method_by_its_interval():
    kept = {"row_turn_retain": 4.0, "mean_turn_retain": 5.0}
    rows = frame(model("A", "random_label", row_turn_forget=80.0, mean_turn_forget=10.0, **kept),
                 model("B", "salun", row_turn_forget=30.0, mean_turn_forget=70.4, **kept),
                 model("D", "unsir", output=0.9, row_turn_forget=30.0, mean_turn_forget=70.4, **kept))
    apart = model("C", "scrub", row_turn_forget=50.0, **kept)
    rows = pd.concat([rows, pd.DataFrame(apart).assign(mean_turn_forget=[45.0, 55.0] * 5)])
    said = head_sentences.turns(rows)
    assert "the row: A (80° and 10°, retain 4° and 5°); the class mean: B (30° and 70°, retain 4° and 5°); not told" in said
    assert "Original (" not in said and "D (" not in said, "no model whose output still reads the class"
    assert "not measured" in head_sentences.turns(label())


def test_a_cosine_stands_beside_that_of_retrain():
    said = head_sentences.as_in_retrain(frame(model("A", "random_label", aligned=0.4), model("B", "salun", aligned=0.05)))
    assert "Original 0.90, Retrain 0.10, Untrained network 0.00, A 0.40, B 0.05" in said and "further apart than in A:" in said
    assert head_sentences.as_in_retrain(label(aligned=0.05)).endswith("further apart than in none of the methods. (Each by its own 95 % interval.)")


def test_a_removal_stands_beside_its_price():
    rows = frame(model("A", "random_label", retain=0.84, probe=0.5, ncc=0.5), model("B", "salun", retain=0.9, probe=0.88, ncc=0.88))
    said = findings.price(rows, claims.scorecard(rows))  # Retrain: 90 %
    assert said == ["Retain accuracy below Retrain's, in points, where a readout shows the class removed: A 6.0."]
    assert findings.price(rows, claims.scorecard(rows[rows.model != "A"])) == []


def test_row_or_bias_hides():
    rows = frame(model("A", "random_label", margin_row_forget=-3.0, margin_bias_forget=-1.0),
                 model("B", "bias_shift", margin_row_forget=8.0, margin_bias_forget=-13.0),
                 model("C", "finetune", margin_row_forget=8.0, margin_bias_forget=-1.0))
    said = head_sentences.hidden_by(rows)
    assert "mostly by the row: A (-3.0, -1.0)" in said and "mostly by the bias: B (8.0, -13.0)" in said and "C (" not in said
    assert "in no model" in head_sentences.hidden_by(rows[rows.model == "C"])


def test_a_refitted_head_hides_or_not():
    for value, word in ((0.0, "1 of 1"), (0.39, "0 of 1")):
        assert f"40.0 and {100 * value:.1f} %. The refitted head hides more than half in {word}" in sentences.refitted(
            cmf_rows().assign(refitted_forget=value))


def test_several_classes_with_cmf():
    rows = frame(model("SCRUB + CMF", "scrub", "cmf", ncc=0.4, ncc_any=0.9))
    assert "SCRUB + CMF (own class 40.0 %, any 90.0 %)" in sentences.several(rows, "ncc", "cmf")


@pytest.mark.parametrize("ncc, told", [((0.9, 0.9, 0.9), "does not fall for Random Label"), ((0.5, 0.9, 0.82), "does not fall"), ((0.5, 0.9, 0.75), "falls for Random Label (NCC -15.0)")])
def test_whether_hiding_follows_the_rate_is_read_off_the_search(ncc, told, tmp_path, monkeypatch):
    folder = tmp_path / "figures" / "toy"
    folder.mkdir(parents=True)
    pd.DataFrame({"method": "random_label", "variant": "linear", "setting": "lr", "value": [0.001, 0.01, 0.1], "forget": [0.5, 0.0, 0.0], "cost": 0.01,
                  "probe": 0.9, "ncc": ncc}).to_csv(folder / "tuning.csv")  # the first rate does not forget
    monkeypatch.setattr(sentences, "ROOT", tmp_path)
    said = sentences.by_rate("toy")
    assert told in said and "rate 0.01: output 0.0, probe 90.0, NCC 90.0" in said
    assert "is not known" in sentences.by_rate("another")
    dear = pd.read_csv(folder / "tuning.csv").assign(cost=[0.01, 0.01, 0.3])  # the last rate destroys the network
    dear.to_csv(folder / "tuning.csv")
    assert "what the features hold is read at one such rate at most." in sentences.by_rate("toy")


def test_a_probe_by_hand_differs_by_its_recipe_or_by_more():
    hand = pd.Series({"output": 0.0, "probe": 98.6, "NCC": 91.5})
    study = pd.Series({"output_forget": 0.0, "probe_forget": 0.746, "ncc_forget": 0.915})
    assert "are the study's. The probe reads 98.6 % by hand and 74.6 % in the study" in sentences.by_hand(hand, study, 74.6)
    assert "reads 74.6 %: the recipe is the whole difference" in sentences.by_hand(hand, study, 74.6)
    assert "reads 80.0 %: so the recipe is not the only difference" in sentences.by_hand(hand, study, 80.0)
    assert "makes no difference" in sentences.by_hand(hand, study.replace(0.746, 0.986), 98.6)
    assert "are up to 1.5 points from the study's" in sentences.by_hand(hand, study.replace(0.915, 0.9), 74.6)


def test_which_of_the_two_arrows_turned_more():
    angles = {"Original": 0.0, "Random Label": math.pi / 2}
    assert "Random Label 90°" in head_sentences.turned_by(angles, 70, 20)
    assert "70° and the class mean by 20°: the row turned further" in head_sentences.turned_by(angles, 70, 20)
    assert "the class mean turned further" in head_sentences.turned_by(angles, 20, 70)


def test_what_is_no_cheaper_than_retrain_is_named():
    costs = pd.DataFrame({"image_passes": {"Original": 30.0, "Retrain": 27.0, "A": 10.0}})
    assert "Retrain takes 27.0 passes" in sentences.cheaper(costs) and "every method is cheaper" in sentences.cheaper(costs)
    costs.loc["B"] = 27.0
    assert "no cheaper: B (27.0)" in sentences.cheaper(costs)


def test_where_fine_tuning_ends():
    said = sentences.last_step(readings(own_head=0.3, few_shot=0.9))
    assert "fine-tuning with the model's own head: Retrain 50.9, Random Label 30.9" in said and "frozen" not in said
    assert sentences.last_step(readings(few_shot=0.9)) == "No fine-tuning was run."


def test_what_other_profiles_show_is_named():
    here, there = card(label(ncc=0.88)), card(label(ncc=0.4))
    said = sentences.by_profile({"a": here, "b": there})
    assert "a: hidden, b: removed" in said and "on another profile: NCC still reads it." in said
    assert "on another profile: none." in sentences.by_profile({"a": here, "b": here})
    assert "nothing to compare yet" in sentences.by_profile({"a": here})


def test_controls_get_their_known_answer_or_not():
    table = pd.DataFrame([
        {"control": "P", "expected": "hidden, misaligned", "probe": "hidden", "NCC": "hidden", "head misaligned": "holds"},
        {"control": "B", "expected": "hidden, not misaligned", "probe": "hidden", "NCC": "cannot tell",
         "head misaligned": "does not hold"},
        {"control": "R", "expected": "not hidden", "probe": "removed", "NCC": "cannot tell", "head misaligned": "holds"}])
    said = sentences.known_answers(table)
    assert said == "6 of 8 readings of controls are the known answer; 2 cannot tell (B by NCC, R by NCC); none is wrong."
    wrong = sentences.known_answers(table.assign(probe="hidden"))
    assert wrong.endswith("wrong: R by probe; there distrust the rule.")


def test_a_picture_stands_beside_its_numbers():
    assert "Original 90.0, Random Label 88.0. The picture" in sentences.pictured(label(ncc=0.88), ["Original", "Random Label", "X"])


def test_what_is_not_on_the_papers_side_is_named_with_both_numbers():
    rows = frame(model("NegGrad+", "neggrad_plus", probe=0.7, ncc=0.45), model("Random Label", "random_label", probe=0.7, ncc=0.8))
    said = findings.differing(claims.scorecard(rows, profile="cifar10"))
    assert "NCC still reads it, NegGrad+ by NCC: -5.0 (paper 4.9)" in said and "Random Label by NCC" not in said
    assert findings.differing(card(label(probe=0.88, ncc=0.88))) == "Every sign that is known is the paper's."


def test_what_the_geometry_does_to_retrain_is_said():
    said = sentences.geometry(label().assign(probe_in_head_forget=0.4, ncc_in_head_forget=0.3), "raw")
    assert "`raw` (features of unit length)" in said and "probe 40.0 and 50.0 %, NCC 30.0 and 50.0 %" in said
