#!/usr/bin/env bash
# What the recipes of the images do, step by step; Dockerfile and containers/apptainer.def have no commands of their own.
# In the stage that builds, with compilers:
#   install.sh environment   system packages, $VENV with TensorFlow and the other Python packages, Horovod
#   install.sh compile       this project's own libraries, into $COMPILED
# In the image itself, from both:
#   install.sh programs      what has to be there when programs run
#   install.sh finish        the libraries beside their packages, the modules by their names, then the self-check
# GPU, TENSORFLOW and PYTHON are those of scripts/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

export VENV=/opt/venv
readonly COMPILED=/opt/compiled
export DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
# Of the build only; Open MPI refuses root otherwise.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

install_packages() {
  apt-get update
  apt-get install -y --no-install-recommends "$@"
  apt-get clean
  rm -rf /var/lib/apt/lists/*
}

environment() {
  install_packages python3
  scripts/setup.sh environment
}

compile() {
  scripts/setup.sh compile
  mkdir -p "$COMPILED"
  find native third_party -name '*.so' -exec cp --parents {} "$COMPILED" \;
  # Nothing is compiled against TensorFlow any more, and its headers are a seventh of the environment.
  rm -rf "$VENV"/lib/python3*/site-packages/tensorflow/include "$VENV/setup.log"
  # An image's files may have other times than those that pip compiled, and Python can keep nothing in an image. Packages
  # have files that are not for this Python, which do not matter.
  "$VENV/bin/python" -m compileall -q -f -j 0 --invalidation-mode unchecked-hash "$VENV/lib" >/dev/null 2>&1 || true
}

# Without certificates Debian 13's pip does not start, and programs download nothing.
programs() { install_packages python3 openmpi-bin libzmq5 libjpeg62-turbo ca-certificates; }

finish() {
  cp -r "$COMPILED/." .
  rm -rf "$COMPILED"
  scripts/setup.sh install
  containers/bin/python scripts/selfcheck.py
}

case "${1:-}" in
  environment | compile | programs | finish) "$1" ;;
  *) echo "install.sh: choose environment, compile, programs or finish" >&2; exit 2 ;;
esac
