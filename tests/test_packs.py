"""A pack gives back what was packed and nothing else, without an image, and proves that it is whole."""

import hashlib
import json
import lzma
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import learned_study
from small import readings_of

from unlearn_utils import Study, __main__, paths, sources
from unlearn_utils.methods import METHODS
from unlearn_utils.settings import BadInput, Data
from unlearn_utils.study import exchange, packs, store, sweep
from unlearn_utils.study.cells import images_of, trained
from unlearn_utils.study.packs import NAME, Pack
from unlearn_utils.study.readings import Reading
from unlearn_utils.study.readouts import READOUTS
from unlearn_utils.study.store import Store, digest

MODELS = [("original", "linear"), ("random_label", "linear"), ("scrub", "cmf")]


def measured(study) -> pd.DataFrame:
    return study.measure([f"{method}.{variant}" for method, variant in MODELS], references=False)


def names(tasks) -> list[str]:
    return [f"{task.kind}/{task.key}" for task in tasks]


@pytest.fixture
def pack(ran) -> Pack:
    cells = [ran.cell(*pair, *model) for model in MODELS for pair in ran.pairs]
    return packs.collect(
        ran.profile.name, images_of(ran.profile), names(r for cell in cells for r in readings_of(cell))
    )


# Collecting


def test_only_what_is_stored_is_packed_and_what_is_no_key_is_refused(ran):
    reading = Reading.of(ran.cell(0, (0,), "scrub", "cmf"), "output")
    store.remove(Store().folder(reading.spec))
    assert packs.collect("digits", images_of(ran.profile), names([reading])).records == {}
    for key in ("model", "../model/abc", "model/../../x"):
        with pytest.raises(BadInput, match="names no result"):
            packs.collect("digits", images_of(ran.profile), [key])


def test_results_of_two_originals_are_not_collected(ran):
    task = Reading.of(ran.cell(0, (0,), "random_label"), "output")
    spec = json.loads(json.dumps(trained(ran.cell(0, (), "original")).spec)) | {"code": "another"}
    Store().put(spec, {"weights": "another"}, {}, 0.0, "cpu")
    with pytest.raises(BadInput, match="results of two Originals.*another"):
        packs.collect("digits", images_of(ran.profile), [*names([task]), f"model/{digest(spec)}"])


# What is in a file


def test_what_is_written_is_read_and_the_same_records_give_the_same_bytes(pack, home):
    packs.write(pack, home / "a")
    packs.write(replace(pack, records=dict(reversed(pack.records.items()))), home / "b")
    assert packs.read(home / "a", "digits") == pack and packs.read_images(home / "a") == pack.images
    assert (home / "a").read_bytes() == (home / "b").read_bytes() and not list(home.glob("*.partial"))
    with pytest.raises(BadInput, match="is a result pack of profile 'digits', but 'cifar10'"):
        packs.read(home / "a", "cifar10")


def test_a_full_disk_leaves_the_pack_that_was_there(pack, home, monkeypatch):
    packs.write(pack, home / NAME)

    def full(path, content):
        path.open("wb").write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.Path, "write_bytes", full)
    with pytest.raises(BadInput, match="no pack can be written to .*No space left"):
        packs.write(replace(pack, records={}), home / NAME)
    assert packs.read(home / NAME) == pack and not list(home.glob("*.partial"))


def answered(n: int, **changed) -> dict:
    """A sound record without any model."""
    record = {"kind": "toy", "asked": {"n": n}, "code": "", "made_with": {"commit": "c", "hardware": "h"}, "seconds": 0}
    record |= {"original": "w", "result": {"counts": [[1, 0], [0, 1]]}} | changed
    return {"question": digest({"kind": "toy", "n": n})} | record


IMAGES = packs.Images("f", ("a", "b"), (1, 1), (1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"counts":[[1,', '"counts":[[0,', 1),
        lambda text: text.replace('"train":[1,1]', '"train":[9,1]'),
        lambda text: text.replace('"original":"w"', '"original":"v"', 1),
        lambda text: "".join(text.splitlines(keepends=True)[:-1]),
        lambda text: text + json.dumps(answered(3)),
        lambda text: text + text.splitlines()[-1],
    ],
)
def test_a_pack_that_was_edited_is_refused(change, home):
    packs.write(Pack("digits", IMAGES, {r["question"]: r for r in (answered(1), answered(2))}), home / NAME)
    text = lzma.decompress((home / NAME).read_bytes()).decode()
    assert change(text) != text
    (home / NAME).write_bytes(lzma.compress(change(text).encode()))
    with pytest.raises(BadInput, match="no intact result pack .* changed since it was written"):
        packs.read(home / NAME)


@pytest.mark.parametrize(
    "content, named",
    [
        (None, "there is no result pack"),
        (b"text", "no intact"),
        (lzma.compress(b'{"format": 2}')[:-10], "no intact"),
        (lzma.compress(b'{"format": 2, "profile": "digits"}\n{}'), "no intact"),
        (lzma.compress(b"[1]"), "no intact"),
        (lzma.compress(b"[" * 100_000), "no intact"),
        (lzma.compress(b'{"format": 1}'), "has format 1, but format 2 is read here"),
    ],
)
def test_what_is_no_intact_pack_is_refused_in_one_sentence(content, named, home):
    if content is not None:
        (home / NAME).write_bytes(content)
    with pytest.raises(BadInput, match=named) as refused:
        packs.read(home / NAME)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", sorted((paths.ROOT / "figures").glob(f"*/{NAME}")), ids=lambda path: path.parent.name)
def test_the_committed_packs_are_whole_and_each_of_their_models_has_one_start(path):
    pack = packs.read(path, path.parent.name)
    assert pack.records and packs.merge(pack, pack)[0] == pack


# Results from a pack


def test_all_is_served_without_any_image_and_nothing_user_defined(pack, ran, tiny, home, monkeypatch, count):
    expected = measured(ran)
    packs.write(pack, home / "figures" / "digits" / NAME)
    shutil.rmtree(home / ".store")
    monkeypatch.setattr(sources, "load", lambda *_: 1 / 0)
    monkeypatch.setattr(Data, "pixels", ())  # as if the few images were the profile's own
    served = learned_study(tiny, results="committed")
    pd.testing.assert_frame_equal(measured(served), expected)
    assert count == []
    reading = Reading.of(served.cell(0, (0,), "random_label"), "output")
    assert pack.find(reading)
    for thing in (METHODS["random_label"], READOUTS["output"].function):
        for module in ("__main__", "somebodys_package", "unlearn_utils_of_somebody"):
            with monkeypatch.context() as patch:
                patch.setattr(thing, "__module__", module)
                assert pack.find(reading) is None


@pytest.mark.parametrize("weights", ["", "of another processor"])
def test_a_row_is_of_one_version_of_a_model(weights, pack, tiny, ran, home, monkeypatch, capsys):
    """What is not committed is read from the model that is here; if that is another one, so is all else."""
    model = pack.records[trained(ran.cell(0, (0,), "random_label")).question]
    committed = {key: of for key, of in pack.records.items() if of["asked"].get("readout") != "ncc"}
    committed[model["question"]] = model | {"result": model["result"] | ({"weights": weights} if weights else {})}
    packs.write(replace(pack, records=committed), home / "figures" / "digits" / NAME)
    monkeypatch.setattr(Data, "pixels", ())
    served = learned_study(tiny, results="committed", forget_sets=[[0]])
    assert served.measure(["random_label"], references=False).ncc_forget.notna().all()
    assert ("Random Label, forget [0]" in capsys.readouterr().out) == bool(weights) == (not served.used["committed"])


# Merging


def model(name: str, weights: str, start: str = "") -> dict:
    asked = {"name": name, "start": start and digest({"kind": "model", "name": start, "start": None}) or None}
    result = {"weights": weights if not start else f"{name} from {weights}"}
    question = digest({"kind": "model", **asked})
    return answered(0, kind="model", asked=asked, original=weights, result=result) | {"question": question}


def reading_of(above: dict, name: str = "output", **changed) -> dict:
    asked = {"readout": name, "model": above["question"]}
    return above | {"question": digest({"kind": "toy", **asked}), "kind": "toy", "asked": asked, "result": {}} | changed


def of(*records) -> Pack:
    return Pack("digits", packs.Images("f", ("a",), (1,), (1,)), {record["question"]: record for record in records})


ORIGINAL, SCRUB, RETRAIN = model("original", "A"), model("scrub", "A", "original"), model("retrain", "R")
OTHER, OTHER_SCRUB = model("original", "B"), model("scrub", "B", "original")
MIXED = {
    "the models": (of(ORIGINAL), of(OTHER)),
    "no model": (of(ORIGINAL, reading_of(ORIGINAL)), of(reading_of(OTHER))),
    "no model between": (of(ORIGINAL), of(reading_of(OTHER_SCRUB))),
    "none named": (of(ORIGINAL), of(reading_of(ORIGINAL, original=""))),
    "neither has models": (of(reading_of(SCRUB)), of(reading_of(OTHER_SCRUB, "probe"))),
    "other weights": (of(ORIGINAL), of(ORIGINAL | {"result": {"weights": "B"}}, reading_of(SCRUB))),
}


@pytest.mark.parametrize("first, second", MIXED.values(), ids=MIXED)
def test_two_originals_never_meet(first, second):
    for one, other in ((first, second), (second, first)):
        with pytest.raises(BadInput, match="results of two Originals, or of models that they do not hold"):
            packs.merge(one, other)


@pytest.mark.parametrize("second", [of(SCRUB, reading_of(ORIGINAL)), of(RETRAIN, reading_of(RETRAIN)), of()])
def test_packs_of_one_original_and_of_other_models_from_scratch_are_merged(second):
    for one, other in ((of(ORIGINAL), second), (second, of(ORIGINAL))):
        assert packs.merge(one, other)[0].records == one.records | other.records


def test_merging_keeps_the_first_where_both_have_a_result_and_says_so():
    first, second = of(ORIGINAL, reading_of(ORIGINAL)), of(reading_of(ORIGINAL, result={"nc1": 1.5}), SCRUB)
    merged, said = packs.merge(first, second)
    assert merged.records == second.records | first.records and "1 of them with other numbers" in said
    for other in (replace(second, profile="cifar10"), replace(second, images=replace(second.images, fingerprint="g"))):
        with pytest.raises(BadInput, match="do not belong together"):
            packs.merge(first, other)


def test_merging_never_mixes_measurements_of_two_versions_of_a_model():
    """One that was trained on another processor from the same Original; what else the second holds is taken."""
    again = SCRUB | {"result": {"weights": "of another processor"}}
    second = of(ORIGINAL, again, reading_of(again), reading_of(again, "probe"), reading_of(ORIGINAL))
    merged, said = packs.merge(of(ORIGINAL, SCRUB, reading_of(SCRUB)), second)
    assert merged == of(ORIGINAL, SCRUB, reading_of(SCRUB), reading_of(ORIGINAL))
    assert said.startswith("1 results added to 3; 3 stand in both, 1 of them") and "1 are left out" in said


def test_the_command_merges_without_loading_an_image(home, monkeypatch, capsys):
    monkeypatch.setattr(sources, "load", lambda *_: 1 / 0)
    packs.write(of(ORIGINAL), packs.place("digits"))
    packs.write(of(ORIGINAL, SCRUB), home / "theirs")
    assert __main__.work(*__main__.checked(["--merge", str(home / "theirs")])) == 0
    assert "1 results added to 1" in capsys.readouterr().out
    assert packs.read(packs.place("digits")) == of(ORIGINAL, SCRUB)


def test_a_refresh_of_some_notebooks_keeps_what_the_others_show(home, monkeypatch):
    study = SimpleNamespace(profile=SimpleNamespace(name="digits"))
    packs.write(of(ORIGINAL, SCRUB, RETRAIN), packs.place("digits"))
    monkeypatch.setattr(exchange, "_collected", lambda _: of(ORIGINAL | {"seconds": 12.5}))
    for some, kept in ((True, 3), (False, 1)):
        exchange.refresh(study, some)
        records = packs.read(packs.place("digits")).records
        assert len(records) == kept and records[ORIGINAL["question"]]["seconds"] == 12.5


# Models that travel


def test_with_the_models_of_another_machine_only_what_was_changed_is_computed(ran, tmp_path, monkeypatch, count):
    """Also where other code trained the model: it is kept under the key of its question."""
    original, scrub = trained(ran.cell(0, (), "original")), trained(ran.cell(0, (0,), "scrub", "cmf"))
    record, other = Store().get(original.spec), original.spec | {"code": "of another version"}
    before = Store().get(scrub.spec).result
    Store().copy(record, other)
    assert packs.carry([f"model/{digest(other)}"], tmp_path / "carried") == 1
    assert packs.carry(names([scrub]), tmp_path / "of scrub") == 1
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "another"))
    assert packs.bring(tmp_path / "carried", [original]) == 1 and packs.bring(tmp_path / "of scrub") == 0
    sweep.run([original, scrub], ran.machine)
    assert count == ["model of Original + CMF, seed 0", scrub.label] and Store().get(scrub.spec).result == before


SPEC = {"kind": "model", "asked": {}, "code": "", "requires": []}


@pytest.fixture
def carried(home, tmp_path, monkeypatch):
    """A folder with one model, and an empty store."""
    Store().put(SPEC, {"weights": "A"}, {"weights": {}}, 0.0, "cpu")
    packs.carry([f"model/{digest(SPEC)}"], tmp_path / "carried")
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "another" / "home"))
    return tmp_path / "carried"


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", ".."])
def test_models_that_are_brought_write_nothing_outside_of_the_store(name, carried, tmp_path, capsys):
    [file] = carried.glob("model/*/record.json")
    (tmp_path / "x").write_bytes(b"x")
    (carried / "x").write_bytes(b"x")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    body = json.loads(file.read_text())["body"]
    bodies = [body | {"files": body["files"] | {name: hashlib.sha256(b"x").hexdigest()}}]
    bodies += [body | {"spec": body["spec"] | {"kind": kind}} for kind in (name, f"../{name}", "reading")]
    for changed in bodies:
        place = file.parent.with_name(digest(changed["spec"]))
        file.write_text(json.dumps({"body": changed, "checksum": digest(changed)}))
        file.parent.rename(place)
        assert packs.bring(carried) == 0 and "left out" in capsys.readouterr().out
        place.rename(file.parent)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "weights.safetensors").write_bytes(b"x"),
        lambda folder: (folder / "weights.safetensors").unlink(),
        lambda folder: (folder / "record.json").write_bytes(b"[" * 2000 + b"]" * 2000),
    ],
)
def test_a_model_that_was_damaged_on_the_way_stays_out_and_what_is_stored_stays(harm, carried, capsys):
    harm(next(carried.glob("model/*")))
    assert packs.bring(carried) == 0 and Store().get(SPEC) is None
    assert "is damaged and left out; carry it again" in capsys.readouterr().out
    Store().put(SPEC, {"weights": "own"}, {}, 0.0, "cpu")
    assert packs.bring(carried) == 0 and Store().get(SPEC).result == {"weights": "own"}


def test_folders_without_models_or_that_cannot_be_written_are_named(home, carried, tmp_path):
    with pytest.raises(BadInput, match="holds no models"):
        packs.bring(home)
    packs.bring(carried)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="no models can be written to .*Not a directory"):
        packs.carry([f"model/{digest(SPEC)}"], tmp_path / "file")


def test_the_committed_originals_are_brought_and_the_committed_results_continue_from_them(home):
    """A processor computes the CMF Original anew with other last bits, whose results could not join the others."""
    studied = Study("cifar10_slim", results="committed")
    originals = [trained(studied.cell(0, (), "original", variant)) for variant in ("linear", "cmf")]
    assert packs.bring(packs.ROOT / "figures" / "cifar10_slim" / "models", originals) == 2
    for model in originals:
        assert Store().get(model.spec).result["weights"] == studied.pack.find(model)["result"]["weights"]
