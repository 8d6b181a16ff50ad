"""The command line refuses what it cannot use with one sentence, before anything runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unlearn_utils import paths
from unlearn_utils.__main__ import checked, chosen_notebooks, main, parameters_of, parser, settings_of
from unlearn_utils.settings import BadInput
from unlearn_utils.study import running

ROOT = Path(__file__).parent.parent


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        checked(list(arguments))
    return str(ended.value)


@pytest.mark.parametrize("arguments, named", [
    (["--set", "forget_clas=3"], ["forget_clas", "forget_sets"]),
    (["--set", "seeds=abc"], ["seeds=abc", "list"]),
    (["--set", "seeds"], ["NAME=VALUE"]),
    (["--only", "07"], ["07", "05_scorecard"]),
    (["--only", "00", "--set", "draws=2"], ["draws", "profile"]),
    (["--profile", "cifar11"], ["cifar11", "digits"]),
    (["--data-dir", "x"], ["reads no image folder"]),
    (["--profile", "image_folder", "--data-dir", "~nobody-of-this-name/x"], ["'~nobody-of-this-name/x' is no path", "without ~"]),
    (["--refresh-reference", "--set", "seeds=[1]"], ["own parameters"]),
    (["--results", "comitted"], ["comitted", "must be 'committed'"]),
    (["--list", "--test"], ["--test"]),
    *(([option, ""], [f"{option} names nothing", "a file or folder"]) for option in ("--export", "--merge", "--carry", "--bring")),
    (["--sed", "3"], ["--sed", "--set"]),
    (["--jobs", "many"], ["many", "--jobs"]),
    (["--set", "seeds={[]}"], ["seeds", "list"]),
    (["--set", "seeds=" + 20000 * "-" + "1"], ["seeds=---", "must be of type list"]),
    (["--set", "overrides={'probe.validation': 1.0}"], ["probe.validation is 1.0", "below 1"]),
    (["--batch-size", "-1"], ["--batch-size is -1"]),
    (["--set", "hyperparameters=table9"], ["no hyper-parameters 'table9'"]),
])
def test_one_sentence_names_the_error_and_what_is_allowed(arguments, named):
    told = refusal(*arguments)
    assert told.startswith("run_all.sh: ") and "\n" not in told
    assert all(word in told for word in named) and len(told) < 1000


@pytest.mark.parametrize("content", [
    "not JSON", "{}", json.dumps({"cells": []}),
    json.dumps({"cells": [{"metadata": {"tags": ["parameters"]}, "source": ["seeds = range(3)"]}]}),
    json.dumps({"cells": [{"metadata": {"tags": ["parameters"]}, "source": ["seeds ="]}]}),
])
def test_a_notebook_without_parameters_is_named(tmp_path, content):
    (tmp_path / "06_mine.ipynb").write_text(content)
    with pytest.raises(BadInput, match="06_mine.ipynb .* needs a cell with the tag 'parameters'"):
        parameters_of(tmp_path / "06_mine.ipynb")


@pytest.mark.parametrize("way", [["--data-dir", "pictures"], ["--set", "data_dir=pictures"]])
def test_a_folder_of_images_counts_from_where_the_command_is_given(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    _, given = checked([*way, "--profile", "image_folder", "--only", "00"])
    assert given[chosen_notebooks(["00"])[0]]["data_dir"] == str(tmp_path / "pictures")


def command(*arguments: str, stdout=subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "unlearn_utils", *arguments], stdout=stdout, stderr=subprocess.PIPE,
                          text=True, env={"PATH": "", "PYTHONPATH": str(ROOT), **environment})


def test_a_reader_that_has_gone_ends_the_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    ran = command("--help", stdout=writer)
    os.close(writer)
    assert ran.returncode == 1 and ran.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_output_that_cannot_be_written_is_one_sentence():
    with open("/dev/full", "w") as full:
        ran = command("--help", stdout=full)
    assert ran.returncode == 1 and ran.stderr.startswith("run_all.sh: No space") and ran.stderr.count("\n") == 1


def test_a_home_that_is_no_folder_is_named_before_anything_is_imported(tmp_path):
    (tmp_path / "file").write_text("")
    ran = command("--list", UNLEARN_HOME=str(tmp_path / "file"))
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1
    assert ran.stderr.startswith(f"run_all.sh: results cannot be kept in {tmp_path}/file (File exists)")


@pytest.mark.parametrize("named, means", [("", paths.ROOT), ("here", "<cwd>/here"), ("~/there", "<cwd>/there")])
def test_the_home_is_one_folder_whatever_folder_a_kernel_starts_in(tmp_path, monkeypatch, named, means):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UNLEARN_HOME", named)
    assert str(paths.home()) == str(means).replace("<cwd>", str(tmp_path))


def test_the_kernels_are_told_the_whole_path_of_the_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_HOME", "here")
    monkeypatch.setattr(sys, "argv", ["unlearn_utils", "--list"])
    monkeypatch.setattr(running.Whole, "show", lambda whole: None)
    monkeypatch.setattr(running.Whole, "of", lambda given: running.Whole(None, {}))
    assert main() == 0 and os.environ["UNLEARN_HOME"] == str(tmp_path / "here")


def test_a_home_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BadInput, match=f"cannot be kept in {tmp_path} .Permission denied.; set UNLEARN_HOME"):
        paths.home()


def test_every_option_is_in_the_help():
    told = parser().format_help()
    for option in ("--profile", "--only", "--set", "--device", "--data-dir", "--jobs", "--batch-size", "--force",
                   "--list", "--test"):
        assert option in told


def test_a_smaller_batch_size_keeps_the_recipe_and_the_other_overrides():
    _, given = checked(["--batch-size", "32", "--set", "overrides={'probe.epochs': 3}", "--only", "01"])
    assert given[chosen_notebooks(["01"])[0]]["overrides"] == {"network.images_per_pass": 32, "probe.epochs": 3}


def test_only_what_differs_from_a_notebooks_default_is_passed():
    _, given = checked(["--jobs", "2", "--set", "seeds=[1]", "--set", "draws=3", "--only", "03", "--only", "04"])
    assert [sorted(values) for values in given.values()] == [["jobs", "seeds"], ["draws", "jobs", "seeds"]]


def test_a_whole_number_serves_as_a_fraction():
    assert settings_of(["gamma=1"], chosen_notebooks(["02"])) == {"gamma": 1.0}


def test_every_notebook_has_the_parameters_of_a_study():
    for notebook in chosen_notebooks([]):
        assert {"profile", "seeds", "forget_sets", "device", "data_dir", "jobs", "overrides"} <= set(parameters_of(notebook))


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of four classes that the profile cifar10_slim can read."""
    for part in ("train", "test"):
        for c, name in enumerate("abcd"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (20, 20), (60 * c, 20 * i, 0)).save(tmp_path / part / name / f"{i}.jpg")
    return tmp_path


def run_on(folder: Path, home: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "unlearn_utils", "--profile", "cifar10_slim", "--data-dir", str(folder),
               "--set", "forget_sets=[[0]]", "--only", "00", "--list"]
    environment = {"PATH": "", "UNLEARN_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_sound_image_folder_is_listed(images, tmp_path):
    ran = run_on(images, tmp_path / "home")
    assert ran.returncode == 0 and "to run with what they need: the time is not known yet" in ran.stdout


@pytest.mark.parametrize("harm, named", [
    ("truncated", "train/b/1.jpg"), ("class missing", "same classes, but d is"), ("folder missing", "nonexistent"),
])
def test_an_image_folder_that_cannot_be_used_ends_with_one_sentence(images, tmp_path, harm, named):
    folder = images
    if harm == "truncated":
        file = images / "train" / "b" / "1.jpg"
        file.write_bytes(file.read_bytes()[:-200])
    elif harm == "class missing":
        (images / "test" / "d").rename(images / "elsewhere")
    else:
        folder = images / "nonexistent"
    ran = run_on(folder, tmp_path / "home")
    assert ran.returncode != 0 and ran.stdout == ""
    assert ran.stderr.startswith("run_all.sh: ") and ran.stderr.count("\n") == 1 and named in ran.stderr
