#!/usr/bin/env bash
# Runs every notebook (./run_all.sh), or the tests (./run_all.sh --test). ./run_all.sh --help lists the options.
# On first use it makes a local .venv, unless the active environment already has the packages.
set -euo pipefail
self=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null || echo "${BASH_SOURCE[0]}")  # it may be called through a link
here=$(cd "$(dirname "$self")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
# Whether an environment has what pyproject.toml lists, in these versions (JupyterLab is for people, no command needs
# it); nothing heavy is imported for it.
needed='import sys, tomllib
from importlib.metadata import version
from packaging.requirements import Requirement
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
listed = sum((project["optional-dependencies"][extra] for extra in ("run", "test", "pretrained")), project["dependencies"])
wanted = [r for r in map(Requirement, listed) if r.name != "jupyterlab"]
sys.exit(not all(r.specifier.contains(version(r.name), prereleases=True) for r in wanted))'

fail() { echo "run_all.sh: $1" >&2; exit 1; }

find_python() {
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  fail "Python 3.11, 3.12 or 3.13 is needed, but none was found on the PATH."
}

install() {
  (cd "$here" && "$python" -m pip install --quiet --disable-pip-version-check "$@" --editable ".[run,test,pretrained]")
}

environment() {
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && python -c "$needed" "$here/pyproject.toml" 2>/dev/null; then
    python=python; return
  fi
  local venv="$here/.venv" stamp="$here/.venv/installed-from"
  python="$venv/bin/python"
  # The stamp is written last: an installation that was cut off, or an older one, is done again.
  if ! cat "$here/pyproject.toml" "$here/constraints.txt" | cmp -s - "$stamp"; then
    echo "Installing into .venv (once; several minutes, about 6 GB) ..." >&2
    "$python" -m pip --version >/dev/null 2>&1 || "$base" -m venv --clear "$venv" \
      || fail "the environment $venv could not be made; is python3-venv installed?"
    # On the Python of the committed results their versions too: what is new next year cannot break this. On another
    # Python those versions may have no wheels, and pip would compile for hours; there the newest are taken.
    { "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' && install --constraint constraints.txt; } \
      || install || fail "the installation failed; run ./run_all.sh again when the network is back."
    cat "$here/pyproject.toml" "$here/constraints.txt" > "$stamp"
  fi
}

base=$(find_python)
case " $* " in
  *" --help "*|*" -h "*) exec "$base" -m unlearn_utils "$@" ;;
esac
if [ "${1:-}" = "--test" ]; then
  [ $# -eq 1 ] || fail "--test takes no other option."
  environment
  cd "$here"
  exec "$python" -m pytest -n 2 --dist loadfile  # two processes, a file of tests each
fi
# A command with a typing error is refused before anything is installed.
"$base" -c 'import sys; from unlearn_utils.__main__ import checked; checked(sys.argv[1:])' "$@"
environment
exec "$python" -m unlearn_utils "$@"
