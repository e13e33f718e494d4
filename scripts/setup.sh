#!/usr/bin/env bash
# Makes .venv, ready to run: system packages, Python packages, Horovod with MPI, zmq_ops, smooth_ops, jpeg_part,
# resampling, this project's modules by their names, a self-check.
# Idempotent; called by `make setup`. PYTHON (3.12, python3.12 or a path) and TENSORFLOW (2.21 or 2.21.0) choose among the
# tested sets, which are the files in constraints/, and GPU=1 CUDA builds of TensorFlow and Horovod; else an environment
# stays what it is, and a new one gets the newest Python on the PATH with the newest TensorFlow for it, for CPUs.
# GPU=graph is TensorFlow's CUDA build alone, without CUDA: it knows GPUs' kernels and computes on CPUs.
# VENV names another folder for the environment. `setup.sh sets` prints the sets, the newest first, `setup.sh choice` the
# one that would be set up; `setup.sh environment`, `setup.sh compile` and `setup.sh install` are parts of the work, for
# images.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VENV="${VENV:-.venv}"
readonly START=$SECONDS

fail() { echo "setup: $*" >&2; exit 1; }
refuse() { echo "setup: $*" >&2; exit 2; }

# Whether the environment has the TensorFlow of the distribution `tensorflow`, which is that for GPUs, or `tensorflow_cpu`.
has_tensorflow() { compgen -G "$VENV/lib/python*/site-packages/$1-*.dist-info" >/dev/null; }

GPU=${GPU:-$(has_tensorflow tensorflow && echo 1 || echo 0)}
readonly GPU
[[ $GPU = @(0|1|graph) ]] || refuse "GPU=$GPU: must be 1 (CUDA builds) or 0 (CPUs)"

# "Python TensorFlow" of each tested set. A file's second line has the Pythons that its versions serve.
list_sets() {
  local file version python
  for file in constraints/tensorflow-*.txt; do
    version=${file#constraints/tensorflow-}
    for python in $(sed -n 's/^# Python: //p' "$file"); do echo "$python ${version%.txt}"; done
  done | sort -k 1,1Vr -k 2,2Vr
}

# The sets as a sentence's end.
name_sets() { list_sets | awk '{ printf "%sPython %s with TensorFlow %s", (NR > 1 ? ", " : ""), $1, $2 }'; }

# "3.12" of a Python that runs.
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# find_python VERSION: a Python of it on the PATH.
find_python() {
  local candidate found
  for candidate in "python$1" python3; do
    if found=$(python_version "$candidate") && [ "$found" = "$1" ]; then command -v "$candidate"; return; fi
  done
  return 1
}

# newest_tensorflow PYTHON_VERSION: of its sets the newest TensorFlow that is what TENSORFLOW asks for.
newest_tensorflow() {
  list_sets | awk -v python="$1" -v wanted="${TENSORFLOW:-}" \
    '$1 == python && (wanted == "" || index($2 ".", wanted ".") == 1) { print $2; exit }'
}

# Sets PYTHON_PATH, PYTHON_VERSION and TF_VERSION.
choose_set() {
  if [ -n "${PYTHON:-}" ]; then
    PYTHON_PATH=$PYTHON
    [[ $PYTHON =~ ^[0-9]+\.[0-9]+$ ]] && { PYTHON_PATH=$(find_python "$PYTHON") || refuse "no Python $PYTHON on the PATH"; }
    PYTHON_VERSION=$(python_version "$PYTHON_PATH") || refuse "PYTHON=$PYTHON does not run"
    TF_VERSION=$(newest_tensorflow "$PYTHON_VERSION")
    [ -n "$TF_VERSION" ] ||
      refuse "no tested set of Python $PYTHON_VERSION${TENSORFLOW:+ with TensorFlow $TENSORFLOW}; there are: $(name_sets)"
    return
  fi
  if [ -z "${TENSORFLOW:-}" ] && read -r PYTHON_VERSION TF_VERSION 2>/dev/null <"$VENV/set" &&
    list_sets | grep -qxF "$PYTHON_VERSION $TF_VERSION" && [ "$(python_version "$VENV/bin/python")" = "$PYTHON_VERSION" ]
  then
    PYTHON_PATH=$VENV/bin/python
    return
  fi
  for PYTHON_VERSION in $(list_sets | cut -d ' ' -f 1 | uniq); do
    TF_VERSION=$(newest_tensorflow "$PYTHON_VERSION")
    [ -n "$TF_VERSION" ] && PYTHON_PATH=$(find_python "$PYTHON_VERSION") && return
  done
  [ -z "${TENSORFLOW:-}" ] || refuse "no tested set of TensorFlow $TENSORFLOW with a Python on the PATH; there are: $(name_sets)"
  fail "no Python on the PATH for a tested set, which are: $(name_sets); install one (Debian 12: apt-get install python3.11 python3.11-venv; Debian 13 has 3.13, Ubuntu 24.04 has 3.12) or name it: make setup PYTHON=/path/to/python3.11"
}

# Content of everything that decides what the environment must be.
fingerprint() {
  { echo "gpu=$GPU root=$PWD set=$PYTHON_VERSION-$TF_VERSION"; cat pyproject.toml scripts/setup.sh scripts/horovod_wheel.py scripts/cuda_wheels.py scripts/horovod_gpu/* scripts/selfcheck.py requirements.txt requirements-test.txt "constraints/tensorflow-$TF_VERSION.txt"; find third_party/zmq_ops native/smooth_ops native/jpeg_part native/resampling -type f \
      \( -name '*.c' -o -name '*.cc' -o -name '*.h' -o -name Makefile \) -print0 | sort -z | xargs -0 cat; } | sha256sum | cut -c1-16
}

# step NAME COMMAND...: runs the command with its output in a log, prints one line with the time it took.
step() {
  local name=$1 begin=$SECONDS log status
  shift
  log="$VENV-setup.log"
  [ -d "$VENV" ] && log="$VENV/setup.log"
  printf '%-58s' "setup: $name ..."
  # Where its result is looked at at once (`if ! ...`), bash goes on after what fails inside a function.
  set +e
  (set -e; "$@") >"$log" 2>&1
  status=$?
  set -e
  if [ "$status" != 0 ]; then
    echo " failed"
    tail -n 30 "$log" >&2
    fail "'$name' failed; the end of its output is above, the whole of it in $log"
  fi
  echo " $((SECONDS - begin)) s"
  [ "$log" = "$VENV/setup.log" ] || rm -f "$log"
}

has_header() { echo "#include <$1>" | g++ -E -x c++ - >/dev/null 2>&1; }

# Names of the Debian packages whose tools or headers are missing.
missing_packages() {
  local python=$1
  command -v g++ >/dev/null || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v make >/dev/null || echo make
  command -v pkg-config >/dev/null || echo pkg-config
  command -v mpirun >/dev/null || echo openmpi-bin
  command -v mpicxx >/dev/null || echo libopenmpi-dev
  has_header zmq.h || echo libzmq3-dev
  has_header zmq.hpp || echo cppzmq-dev
  has_header jpeglib.h || echo libjpeg-dev
  "$python" -c 'import ensurepip, venv' &>/dev/null ||
    echo "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
}

install_system_packages() {
  local missing as_root=()
  missing=$(missing_packages "$1" | tr '\n' ' ')
  [ -n "${missing// /}" ] || return 0
  local command="apt-get update && apt-get install -y --no-install-recommends $missing"
  if [ "$(id -u)" != 0 ]; then
    command="sudo sh -c '$command'"
    sudo -n true 2>/dev/null && as_root=(sudo -n) || fail "system packages are missing and this user may not install them; type:  $command"
  fi
  command -v apt-get >/dev/null || fail "missing, and this system has no apt: $missing(Debian's names). Install them, then run make setup again"
  step "system packages: $missing" "${as_root[@]}" sh -c \
    "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing"
  missing=$(missing_packages "$1" | tr '\n' ' ')
  [ -z "${missing// /}" ] || fail "still missing after apt-get install: $missing"
}

make_venv() {
  local other=tensorflow_cpu
  [ "$GPU" != 0 ] || other=tensorflow
  # TensorFlow for CPUs and that for GPUs are the same folder of two distributions: one cannot be put over the other.
  [ "$(python_version "$VENV/bin/python")" = "$PYTHON_VERSION" ] && "$VENV/bin/python" -c 'import pip' &&
    ! has_tensorflow "$other" || "$PYTHON_PATH" -m venv --clear "$VENV"
  echo "$PYTHON_VERSION $TF_VERSION" >"$VENV/set"
}

install_python_packages() {
  local tensorflow="tensorflow-cpu==$TF_VERSION"
  [ "$GPU" = 1 ] && tensorflow="tensorflow[and-cuda]==$TF_VERSION"
  [ "$GPU" = graph ] && tensorflow="tensorflow==$TF_VERSION"
  "$VENV/bin/python" -m pip install --disable-pip-version-check "$tensorflow" \
    -r requirements.txt -r requirements-test.txt -c "constraints/tensorflow-$TF_VERSION.txt"
}

install_horovod() {
  local flavour=()
  [ "$GPU" = 1 ] && flavour=(--gpu)
  "$VENV/bin/python" scripts/horovod_wheel.py "${flavour[@]}"
}

# The parts in C and C++, at once: what fails says so in the log.
build_native() {
  printf '%s\n' third_party/zmq_ops native/smooth_ops native/jpeg_part native/resampling |
    xargs -P 4 -I '{}' make -j "$(nproc)" -C '{}' PYTHON="$(realpath -s "$VENV")/bin/python"
}

# Makes this project's modules known by their names to every program of the environment, `zmq_ops` for tensorpack too.
install_project() {
  rm -f "$VENV"/lib/python*/site-packages/sat_third_party.pth  # what did this before
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
}

self_check() { "$VENV/bin/python" scripts/selfcheck.py; }

set_up_environment() {
  echo "setup: $("$PYTHON_PATH" --version) at $PYTHON_PATH, TensorFlow $TF_VERSION$([ "$GPU" = 0 ] || echo ' for GPUs')"
  install_system_packages "$PYTHON_PATH"
  step "virtual environment in $VENV" make_venv
  rm -f "$VENV/setup-done"
  step "Python packages (TensorFlow $TF_VERSION, tensorpack, OpenCV ...)" install_python_packages
  step "Horovod with MPI (built from source, once)" install_horovod
}

compile_native() { step "this project's C++ (zmq_ops, smooth_ops, jpeg_part, resampling)" build_native; }

main() {
  local want
  choose_set
  want=$(fingerprint)
  if [ "$(cat "$VENV/setup-done" 2>/dev/null)" = "$want" ] && [ -x "$VENV/bin/python" ]; then
    echo "setup: nothing to do"
    return
  fi
  set_up_environment
  compile_native
  step "this project's modules, by their names" install_project
  step "self-check (MPI, the op, an allreduce of two ranks)" self_check
  sed -n 's/^note: /setup: /p' "$VENV/setup.log"
  echo "$want" >"$VENV/setup-done"
  echo "setup: done in $((SECONDS - START)) s"
}

case "${1:-}" in
  sets) list_sets ;;
  choice) choose_set; echo "$PYTHON_VERSION $TF_VERSION $PYTHON_PATH$([ "$GPU" = 0 ] || echo ' for GPUs')" ;;
  environment) choose_set; set_up_environment ;;
  compile) compile_native ;;
  install) install_project ;;
  *) main ;;
esac
