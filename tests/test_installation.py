"""What a stranger meets first: the lists of packages, and how run_all.sh finds or makes its environment."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OTHERWISE = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "IPython": "ipykernel",
    "jupyter_client": "nbclient",
}  # or with


def named(listed: list[str]) -> set[str]:
    return {Requirement(text).name for text in listed}


def imported(*patterns: str) -> set[str]:
    """Packages of others that Python files import."""
    found = set()
    for file in (file for pattern in patterns for file in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    own = {"unlearn_utils"} | {file.stem for folder in ("tools", "tests") for file in (ROOT / folder).glob("*.py")}
    return {OTHERWISE.get(name, name) for name in found - own - sys.stdlib_module_names}


def test_what_is_imported_is_listed():
    installed = named(PROJECT["dependencies"])
    for_running = installed | named(EXTRAS["run"]) | named(EXTRAS["cluster"]) | {"cloudpickle"}  # Dask's own
    assert imported("unlearn_utils/*.py", "unlearn_utils/methods/*.py") <= installed
    assert imported("unlearn_utils/**/*.py") <= for_running
    for_tests = named(EXTRAS["test"]) | {"packaging"}  # pytest needs it
    assert imported("tools/*.py", "tests/*.py") <= for_running | for_tests


def test_the_constraints_pin_what_is_listed_within_its_bounds_and_name_no_address():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    listed = PROJECT["dependencies"] + EXTRAS["run"] + EXTRAS["test"] + EXTRAS["pretrained"]
    assert set(pins) == named(listed)
    assert all(Requirement(text).specifier.contains(pins[Requirement(text).name]) for text in listed)
    assert "/" not in "".join(pins.values())


STUB = """#!/bin/bash
# A Python that notes what is asked of it; it makes environments and installs by writing files.
here=$(dirname "$0")
echo "$(basename "$here") $*" >> "$LOG"
case "$1 $2 $3" in
  "-m venv --clear") mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; touch "$4/bin/has-pip";;
  "-m pip --version") [ -e "$here/has-pip" ];;
  "-m pip install") case "$*" in *--constraint*) [ ! -e "$LOG.no-pins" ];; *) [ ! -e "$LOG.no-net" ];; esac;;
  "-m unlearn_utils"*) ;;
  *"version_info[:2]"*) exit "${ANOTHER_PYTHON:-0}";;
  *) exec "$REAL" "$@";;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A repository of run_all.sh and its lists alone, in a folder with a space, and a Python that only takes notes."""
    root = tmp_path / "a clone"
    for folder in (root / "unlearn_utils", tmp_path / "tools"):
        folder.mkdir(parents=True)
    for name in ("run_all.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    (root / "unlearn_utils" / "__main__.py").write_text("def checked(argv): pass\n")
    stub = tmp_path / "tools" / "python3.11"
    stub.write_text(STUB)
    stub.chmod(0o755)
    return root


def run(clone: Path, command=None, **environment: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run the script; the environments, installations and runs that it asked for."""
    log = clone.parent / "log"
    log.unlink(missing_ok=True)
    environment |= {"PATH": f"{clone.parent}/tools:/usr/bin:/bin", "LOG": str(log), "REAL": sys.executable}
    ran = subprocess.run(["bash", command or clone / "run_all.sh"], capture_output=True, text=True, env=environment)
    asked = re.findall(r" -m (venv|pip install|unlearn_utils)(.*--constraint)?", log.read_text())
    return ran, ["pinned install" if pins else what for what, pins in asked]


FIRST = ["venv", "pinned install", "unlearn_utils"]


def test_a_first_run_installs_and_a_second_does_not_also_through_a_link(clone):
    link = clone.parent / "links" / "run"
    link.parent.mkdir()
    os.symlink("../a clone/run_all.sh", link)
    ran, asked = run(clone, link)
    assert ran.returncode == 0 and asked == FIRST, ran.stderr
    assert (clone / ".venv").is_dir() and not (link.parent / ".venv").exists()
    assert run(clone)[1] == ["unlearn_utils"]
    with (clone / "pyproject.toml").open("a") as opened:
        opened.write("# newer\n")
    assert run(clone)[1] == ["pinned install", "unlearn_utils"]
    for name in ("has-pip", "../installed-from"):
        (clone / ".venv" / "bin" / name).unlink()
    assert run(clone)[1] == FIRST


def test_versions_that_do_not_fit_the_machine_are_left_to_pip_and_another_python_gets_the_newest(clone):
    assert run(clone, ANOTHER_PYTHON="1")[1] == ["venv", "pip install", "unlearn_utils"]
    (clone / ".venv" / "installed-from").unlink()
    (clone.parent / "log.no-pins").touch()
    assert run(clone)[1] == ["pinned install", "pip install", "unlearn_utils"]


def test_an_installation_that_fails_is_tried_again(clone):
    for what in ("no-pins", "no-net"):
        (clone.parent / f"log.{what}").touch()
    ran, asked = run(clone)
    assert ran.returncode == 1 and "run_all.sh: the installation failed; run" in ran.stderr
    assert "unlearn_utils" not in asked
    for what in ("no-pins", "no-net"):
        (clone.parent / f"log.{what}").unlink()
    assert run(clone)[1] == ["pinned install", "unlearn_utils"]


@pytest.mark.parametrize("name, served", [(None, True), ("torch>=9999", False), ("no-such-package>=1", False)])
def test_an_active_environment_serves_only_with_the_versions_that_are_listed(clone, name, served):
    shutil.copy(clone.parent / "tools" / "python3.11", clone.parent / "tools" / "python")
    if name:
        text = (clone / "pyproject.toml").read_text()
        (clone / "pyproject.toml").write_text(text.replace("dependencies = [", f'dependencies = [\n    "{name}",', 1))
    assert run(clone, VIRTUAL_ENV="somewhere")[1] == (["unlearn_utils"] if served else FIRST)


def test_a_wheel_holds_the_package_and_says_where_notebooks_are(tmp_path):
    """Built and installed here, without a network."""
    pytest.importorskip("setuptools", reason="the wheel is built by the setuptools of this environment")
    source, folder = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(ROOT / "unlearn_utils", source / "unlearn_utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip, alone = [sys.executable, "-m", "pip", "--disable-pip-version-check"], ["-q", "--no-index", "--no-deps"]
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "-w", source, source], check=True)
    subprocess.run([*pip, "install", *alone, "--target", folder, *source.glob("*.whl")], check=True)

    def files(root: Path) -> set[Path]:
        listed = (root / "unlearn_utils").rglob("*.*")
        return {path.relative_to(root) for path in listed if "__pycache__" not in path.parts}

    assert files(folder) == files(ROOT)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "unlearn_utils"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 1 and "no notebooks beside this package" in ran.stderr and "Traceback" not in ran.stderr
