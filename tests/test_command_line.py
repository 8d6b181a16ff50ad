"""The command line refuses what it cannot use with one sentence, before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unlearn_utils.__main__ import checked, chosen_notebooks, parameters_of, parser, settings_of

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
    (["--refresh-notebooks", "--jobs", "1"], ["own defaults"]),
    (["--list", "--test"], ["--test"]),
    (["--sed", "3"], ["--sed", "--set"]),
    (["--jobs", "many"], ["many", "--jobs"]),
    (["--set", "seeds={[]}"], ["seeds", "list"]),
])
def test_one_sentence_names_the_error_and_what_is_allowed(arguments, named):
    told = refusal(*arguments)
    assert told.startswith("run_all.sh: ") and "\n" not in told
    assert all(word in told for word in named)


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
    """A folder of four classes that the profile cifar10_small can read."""
    for part in ("train", "test"):
        for c, name in enumerate("abcd"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (20, 20), (60 * c, 20 * i, 0)).save(tmp_path / part / name / f"{i}.jpg")
    return tmp_path


def run_on(folder: Path, home: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "unlearn_utils", "--profile", "cifar10_small", "--data-dir", str(folder),
               "--set", "forget_sets=[[0]]", "--only", "00", "--list"]
    environment = {"PATH": "", "UNLEARN_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_sound_image_folder_is_listed(images, tmp_path):
    ran = run_on(images, tmp_path / "home")
    assert ran.returncode == 0 and "to run: the time is not known yet" in ran.stdout


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
