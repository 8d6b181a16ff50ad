"""A pack gives back what was packed and nothing else, without an image, and says where its numbers come from."""

import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import learned_study

from unlearn_utils import paths, sources
from unlearn_utils.methods import METHODS
from unlearn_utils.settings import BadInput
from unlearn_utils.study import packs, rows, running, store, sweep
from unlearn_utils.study.cells import trained
from unlearn_utils.study.experiments import Plan
from unlearn_utils.study.packs import NAME, Pack
from unlearn_utils.study.readings import Reading
from unlearn_utils.study.store import Store
from unlearn_utils.study.studies import Study

MODELS = [("original", "linear"), ("random_label", "linear"), ("scrub", "cmf")]


def measured(study, models=MODELS) -> pd.DataFrame:
    return rows.measurements(study, models).get()


@pytest.fixture
def pack(ran) -> Pack:
    return packs.collect(ran.profile, rows.measurements(ran, MODELS).tasks)


@pytest.fixture
def committed(ran, pack, home) -> pd.DataFrame:
    """What was packed; the pack is the committed one of the digits, and the store is empty."""
    expected = measured(ran)
    packs.write(pack, home / "figures" / "digits" / NAME)
    shutil.rmtree(home / ".store")
    return expected


@pytest.fixture
def no_images(monkeypatch):
    """From here on no image can be loaded."""

    def gone(*_):
        raise BadInput("the images are not here.")

    monkeypatch.setattr(sources, "load", gone)


def from_pack(tiny, **given):
    return learned_study(tiny, results="committed", **given)


def changed(pack: Pack, select, **values) -> Pack:
    """The pack with other values in the records that ``select`` chooses."""
    return replace(pack, records={q: r | values if select(r) else r for q, r in pack.records.items()})


def test_what_is_written_is_read(pack, home):
    packs.write(pack, home / NAME)
    assert packs.read(home / NAME) == pack and packs.read_images(home / NAME) == pack.images


def test_the_same_records_give_the_same_bytes(pack, home):
    packs.write(pack, home / "a")
    packs.write(replace(pack, records=dict(reversed(pack.records.items()))), home / "b")
    assert (home / "a").read_bytes() == (home / "b").read_bytes()
    assert not list(home.glob("*.partial"))


def test_a_pack_holds_the_models_behind_its_readings_and_names_their_original(pack, ran):
    original = trained(ran.cell(0, (), "original"))
    weights = Store().get(original.spec).result["weights"]
    assert {"model", "reading"} == {r["kind"] for r in pack.records.values()}
    assert {r["original"] for r in pack.records.values()} == {weights} == {pack.original_of(original)}
    assert pack.find(original)["made_with"].keys() >= {"torch", "hardware", "commit"}


def test_all_is_served_without_any_image_and_it_is_said_where_it_was_made(committed, tiny, no_images, count):
    study = from_pack(tiny)
    pd.testing.assert_frame_equal(measured(study), committed)
    [record, *_] = study.pack.records.values()
    made = record["made_with"]
    assert study.origin() == (f"{len(study.tally['pack'])} results: 0 computed here, {len(study.tally['pack'])} from the "
                              f"result pack (commit {made['commit']} on {made['hardware']}).")
    assert count == [] and len(study.tally["pack"]) > 40


def test_rows_from_the_committed_pack_alone_are_none_where_it_lacks_one(committed, tiny):
    study = learned_study(tiny)
    pd.testing.assert_frame_equal(rows.measurements(study, MODELS).packed(), committed)
    assert rows.measurements(study, [*MODELS, ("retrain", "linear")]).packed() is None


def test_what_the_pack_lacks_is_refused_in_one_sentence_where_there_are_no_images(committed, tiny, no_images):
    study = from_pack(tiny)
    with pytest.raises(BadInput, match=r"^\d+ results are not in the pack \(.* of Retrain[^\n]*: the images are not here.$"):
        measured(study, [("retrain", "linear")])


def test_what_is_stored_beside_the_pack_needs_no_images(committed, tiny, monkeypatch):
    models = [("retrain", "linear")]
    before = measured(from_pack(tiny), models)

    def gone(*_):
        raise BadInput("the images are not here.")

    monkeypatch.setattr(sources, "load", gone)
    pd.testing.assert_frame_equal(measured(from_pack(tiny), models), before)


def test_a_command_is_refused_before_it_starts_a_notebook(committed, tiny, no_images):
    study = from_pack(tiny)
    plan = Plan(study, lambda: {"retrain": rows.measurements(study, [("retrain", "linear")])}, study.outputs({}))
    with pytest.raises(BadInput, match="results are not in the pack .* the images are not here"):
        running.run(running.Whole(study, {Path("01.ipynb"): plan}), {}, None, 0.0)


def test_other_images_than_the_packs_compute_nothing_beside_it(committed, pack, home, tiny):
    packs.write(replace(pack, images=replace(pack.images, fingerprint="another")), home / "figures" / "digits" / NAME)
    with pytest.raises(BadInput, match="the images of profile 'digits' here are not those of its result pack"):
        measured(from_pack(tiny), [("retrain", "linear")])


def test_a_changed_parameter_is_not_served_but_computed(committed, tiny, count):
    study = from_pack(tiny, overrides={"probe.epochs": 3})
    measured(study, [("original", "linear")])
    assert "probe of Original, seed 0" in count and "output of Original, seed 0" in count
    assert study.tally["pack"] == {}


def test_two_originals_are_never_mixed(committed, tiny, capsys):
    study = from_pack(tiny)
    table = measured(study, [*MODELS, ("retrain", "linear")])
    assert "two Originals are never mixed" in capsys.readouterr().out
    assert study.tally["pack"] == {} and len(table) == 8


def test_where_the_original_is_the_packs_only_what_it_lacks_is_computed(committed, tiny, count, capsys):
    sweep.run([trained(learned_study(tiny).cell(0, (), "original"))], learned_study(tiny).machine)
    count.clear()
    study = from_pack(tiny)
    table = measured(study, [*MODELS, ("retrain", "linear")])
    assert "never mixed" not in capsys.readouterr().out
    assert count and all("Retrain" in label for label in count)
    pd.testing.assert_frame_equal(table.iloc[:6][committed.columns], committed)


def test_an_original_of_other_weights_is_another(committed, pack, home, tiny, capsys):
    packs.write(changed(pack, lambda r: True, original="other weights"), home / "figures" / "digits" / NAME)
    sweep.run([trained(learned_study(tiny).cell(0, (), "original"))], learned_study(tiny).machine)
    measured(from_pack(tiny), [*MODELS, ("retrain", "linear")])
    assert "two Originals are never mixed" in capsys.readouterr().out


def test_it_is_said_how_many_results_are_of_code_that_is_not_todays_and_they_are_served(committed, pack, home, tiny):
    older = changed(pack, lambda r: r["asked"].get("readout") == "ncc", code="older")
    packs.write(older, home / "figures" / "digits" / NAME)
    study = from_pack(tiny)
    pd.testing.assert_frame_equal(measured(study), committed)
    assert study.origin().endswith("; 5 of these by code that is not today's.")


def test_the_method_of_a_notebook_cell_is_never_served(pack, ran, monkeypatch):
    task = trained(ran.cell(0, (0,), "random_label"))
    assert pack.find(task)
    for module in ("__main__", "somebodys_package", "unlearn_utils_of_somebody"):
        monkeypatch.setattr(METHODS["random_label"], "__module__", module)
        assert pack.find(task) is None


HEAD = {"format": 1, "profile": "digits", "images": {"fingerprint": "f", "classes": ["a"], "train": [1], "test": [1]}}


def packed(*lines) -> bytes:
    return lzma.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


@pytest.mark.parametrize("content, named", [
    (b"", "no intact result pack"), (b"text", "no intact result pack"), (packed(HEAD)[:-10], "no intact result pack"),
    (packed({"profile": "digits"}), "no intact result pack"), (packed([1]), "no intact result pack"),
    (packed(HEAD, {"no": "question"}), "no intact result pack"), (packed(HEAD, [1]), "no intact result pack"),
    (packed(HEAD | {"format": 2}), "has format 2, but format 1 is read here"), (None, "there is no result pack"),
])
def test_what_is_no_intact_pack_is_refused_in_one_sentence(content, named, home):
    if content is not None:
        (home / NAME).write_bytes(content)
    with pytest.raises(BadInput, match=named) as refused:
        packs.read(home / NAME)
    assert "\n" not in str(refused.value)


def test_a_truncated_pack_is_refused_before_anything_is_served(committed, home, tiny):
    path = home / "figures" / "digits" / NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="no intact result pack"):
        from_pack(tiny)


# Merging


def with_result(pack: Pack, question: str, **values) -> Pack:
    record = pack.records[question]
    return replace(pack, records=pack.records | {question: record | {"result": record["result"] | values}})


def test_merging_adds_what_is_new_and_keeps_the_first_where_both_have_a_result(pack):
    questions = sorted(pack.records)
    half = replace(pack, records={q: pack.records[q] for q in questions[:10]})
    merged, said = packs.merge(half, pack)
    assert merged.records == pack.records
    assert said == f"{len(questions) - 10} results added to 10; 10 stand in both."


@pytest.mark.parametrize("value, told", [
    ({"nc1": 1.5}, "differ by at most 0.5"), ({"nc1": [1.0]}, "differ by at most inf"),
    ({"nc1": float("nan")}, "differ by at most inf"),
])
def test_merging_tells_the_largest_difference(pack, value, told):
    question = next(iter(pack.records))
    first, second = with_result(pack, question, nc1=1.0), with_result(pack, question, **value)
    merged, said = packs.merge(first, second)
    assert merged.records == first.records and "1 of them with other numbers (the first stays" in said and told in said


def test_results_of_another_original_are_not_merged_whichever_notebooks_are_refreshed(pack, tmp_path):
    def other(record):
        result = record["result"] | ({"weights": "another"} if record["kind"] == "model" else {})
        return record | {"original": "another", "result": result}

    second = replace(pack, records={q: other(record) for q, record in pack.records.items()})
    of_model = {q: r for q, r in pack.records.items() if r["kind"] == "model"}
    with pytest.raises(BadInput, match=r"results of two Originals, or two Retrains \(another beside"):
        packs.merge(replace(pack, records=of_model), second)
    packs.write(second, tmp_path / NAME)
    with pytest.raises(BadInput, match="refresh all notebooks at once"):
        packs.refresh(replace(pack, records=of_model), tmp_path / NAME, some=True)
    assert packs.read(tmp_path / NAME).records == second.records
    assert packs.merge(pack, second)[0].records == pack.records  # nothing of the second's is taken


def test_packs_of_other_images_or_profiles_are_not_merged(pack):
    for other in (replace(pack, profile="cifar10"), replace(pack, images=replace(pack.images, fingerprint="another"))):
        with pytest.raises(BadInput, match="do not belong together"):
            packs.merge(pack, other)


def test_a_pack_of_another_profile_is_not_taken(pack, tmp_path):
    packs.write(replace(pack, profile="cifar10"), tmp_path / NAME)
    assert packs.read(tmp_path / NAME, "cifar10").records == pack.records
    with pytest.raises(BadInput, match="is a result pack of profile 'cifar10', but 'digits' is asked for"):
        packs.read(tmp_path / NAME, "digits")


# Models that travel


def test_with_the_models_of_another_machine_only_what_was_changed_from_them_is_computed(ran, tmp_path, monkeypatch, tiny, count):
    expected = measured(ran)
    carried = packs.carry(rows.measurements(ran, MODELS).tasks, tmp_path / "carried")
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "another"))
    [model] = (tmp_path / "carried").glob("model/*")
    (model / ".DS_Store").write_text("left by a file manager")
    assert packs.bring(tmp_path / "carried") == carried == 1
    pd.testing.assert_frame_equal(measured(learned_study(tiny)), expected)
    models = [label for label in count if label.startswith("model of ")]
    assert models == [
        "model of Random Label, forget [0], seed 0", "model of Random Label, forget [3], seed 0",
        "model of Original + CMF, seed 0", "model of SCRUB + CMF, forget [0], seed 0", "model of SCRUB + CMF, forget [3], seed 0",
    ]


def test_a_model_that_was_damaged_on_the_way_is_computed_again(ran, tmp_path, monkeypatch, tiny, count):
    packs.carry(rows.measurements(ran, MODELS).tasks, tmp_path / "carried")
    [file] = (tmp_path / "carried").glob("model/*/weights.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "another"))
    packs.bring(tmp_path / "carried")
    reading = Reading.of(learned_study(tiny).cell(0, (), "original"), "output")
    sweep.run([reading], learned_study(tiny).machine)
    assert "model of Original, seed 0" in count and Store().get(reading.spec)


def test_what_lies_in_the_store_stays_when_models_are_brought(ran, tmp_path):
    packs.carry(rows.measurements(ran, MODELS).tasks, tmp_path / "carried")
    [record] = (tmp_path / "carried").glob("model/*/record.json")
    own = Store().root / "model" / record.parent.name / "record.json"
    before = own.read_bytes()
    record.write_bytes(b"theirs")
    packs.bring(tmp_path / "carried")
    assert own.read_bytes() == before


def test_models_that_cannot_be_copied_are_named(ran, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="no models can be written to .*file .Not a directory.; name another folder"):
        packs.carry(rows.measurements(ran, MODELS).tasks, tmp_path / "file")


def test_the_notes_of_the_run_that_computed_stay_where_a_pack_draws_the_same(tmp_path):
    for name in (*running.NOTES, "table.csv"):
        (tmp_path / name).write_text("before")
    before = running._files(tmp_path)
    for table, note in (("before", "before"), ("after", "after")):
        for name in running.NOTES:
            (tmp_path / name).write_text("after")
        (tmp_path / "table.csv").write_text(table)
        running._keep_notes(tmp_path, before)
        assert {(tmp_path / name).read_text() for name in running.NOTES} == {note}


@pytest.mark.parametrize("folder", sorted((paths.ROOT / "figures").glob("*/models")), ids=lambda folder: folder.parent.name)
def test_a_committed_original_is_the_one_behind_its_pack_and_is_taken(folder, home):
    (home / "figures").mkdir()
    shutil.copytree(folder.parent, home / "figures" / folder.parent.name)
    study = Study.of(folder.parent.name, results="committed")
    original = trained(study.cell(0, (), "original"))
    assert packs.bring(folder) == 1
    found = Store().get(original.spec)
    assert found, f"the training code has changed since: train it again, or leave {folder} out"
    assert found.result["weights"] == study.pack.original_of(original)


def test_a_folder_without_models_is_refused(home):
    with pytest.raises(BadInput, match="holds no models"):
        packs.bring(home)


def test_only_what_is_stored_is_packed(ran):
    reading = Reading.of(ran.cell(0, (0,), "scrub", "cmf"), "output")
    store.remove(Store().folder(reading.spec))
    assert packs.collect(ran.profile, [reading]).records == {}


@pytest.mark.parametrize("change", [lambda record: record.pop("result"), lambda record: record["asked"].update(odd=1)])
def test_a_record_that_lacks_a_field_or_does_not_answer_its_question_is_refused(change, tmp_path):
    records = {"a": {"kind": "toy", "asked": {"n": 1}, "code": "", "made_with": {}, "seconds": 0, "original": "", "result": {}}}
    records["a"]["question"] = packs.digest({"kind": "toy", "n": 1})
    path = tmp_path / "pack.xz"
    images = packs.Images("f", ("a", "b"), (1, 1), (1, 1))
    packs.write(packs.Pack("digits", images, records), path)
    assert packs.read(path).records  # sound before the change
    change(records["a"])
    packs.write(packs.Pack("digits", images, records), path)
    with pytest.raises(BadInput, match="no intact result pack"):
        packs.read(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pack.xz"]
    with pytest.raises(BadInput, match="is a folder; name a file"):
        packs.write(packs.Pack("digits", images, {}), tmp_path)


@pytest.mark.parametrize("some", [True, False])
def test_a_refresh_of_some_notebooks_keeps_what_the_others_show(some, pack, tmp_path):
    questions, place = sorted(pack.records), tmp_path / NAME
    packs.write(pack, place)
    part = replace(pack, records={q: pack.records[q] | {"seconds": 12.5} for q in questions[:3]})
    packs.refresh(part, place, some)
    kept = packs.read(place).records
    assert sorted(kept) == (questions if some else questions[:3])
    assert [kept[q]["seconds"] for q in questions[:3]] == [12.5] * 3
