#!/usr/bin/env bash
# `make test-stacks`: makes an environment of its own (.venv-py3.12-tf2.21.0) for each set of constraints/ whose Python is
# on the PATH or among pyenv's, and runs `make test` in it; then the sets have to agree (tests/test_stacks.py).
# STACKS='py3.12-tf2.21.0 py3.11-tf2.15.1' limits it to these.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c '' 2>/dev/null; then command -v "$candidate"; return; fi
  done
  return 1
}

failed=() pythons=()
while read -r version tensorflow; do
  name="py$version-tf$tensorflow"
  [[ -z "${STACKS:-}" || " $STACKS " == *" $name "* ]] || continue
  python=$(find_python "$version") || { echo "test-stacks: $name: skipped, there is no Python $version"; continue; }
  echo "test-stacks: $name, with $python"
  environment=(VENV=".venv-$name" PYTHON="$python" TENSORFLOW="$tensorflow")
  make --no-print-directory setup "${environment[@]}" </dev/null || { failed+=("$name: set-up"); continue; }
  pythons+=("$PWD/.venv-$name/bin/python")
  make --no-print-directory test "${environment[@]}" </dev/null || failed+=("$name: make test")
done < <(scripts/setup.sh sets)

[ ${#pythons[@]} != 0 ] || { echo "test-stacks: no set could be tried" >&2; exit 1; }
echo "test-stacks: what ${#pythons[@]} sets have to agree on"
SAT_STACKS=$(IFS=:; echo "${pythons[*]}") "${pythons[0]}" -m pytest -v -rs -m stacks tests/test_stacks.py ||
  failed+=("the sets do not agree")
[ ${#failed[@]} = 0 ] || { printf 'test-stacks: failed: %s\n' "${failed[@]}" >&2; exit 1; }
