#!/usr/bin/env bash
# Runs every notebook (./run_all.sh), or the tests (./run_all.sh --test). ./run_all.sh --help lists the options.
# On first use it makes a local .venv, unless the active environment already has the packages.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
needed='import sys, torch, torchvision, papermill, ipykernel, seaborn, sklearn, safetensors, timm, pandas, jinja2, pytest
sys.exit(sys.version_info < (3, 11))'

fail() { echo "run_all.sh: $1" >&2; exit 1; }

find_python() {
  for candidate in python3.12 python3.11 python3.13 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  fail "Python 3.11, 3.12 or 3.13 is needed, but none was found on the PATH."
}

environment() {
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && python -c "$needed" 2>/dev/null; then
    python=python; return
  fi
  local venv="$here/.venv" stamp="$here/.venv/installed-from"
  python="$venv/bin/python"
  # The stamp is written last: an installation that was cut off, or an older one, is done again.
  if ! cmp -s "$here/pyproject.toml" "$stamp"; then
    echo "Installing into .venv (once; several minutes, about 6 GB) ..." >&2
    [ -x "$python" ] || "$base" -m venv "$venv" || fail "the environment $venv could not be made; is python3-venv installed?"
    "$python" -m pip install --quiet --disable-pip-version-check --editable "$here" \
      || fail "the installation failed; run ./run_all.sh again when the network is back."
    cp "$here/pyproject.toml" "$stamp"
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
  exec "$python" -m pytest
fi
# A command with a typing error is refused before anything is installed.
"$base" -c 'import sys; from unlearn_utils.__main__ import checked; checked(sys.argv[1:])' "$@"
environment
exec "$python" -m unlearn_utils "$@"
