#!/usr/bin/env bash
# Makes .venv, ready to run: system packages, Python packages, Horovod with MPI, zmq_ops, smooth_ops, jpeg_part, a self-check.
# Idempotent; called by `make setup`, with GPU=1 for CUDA builds of TensorFlow and Horovod.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly GPU="${GPU:-0}"
readonly VENV=.venv
readonly HOROVOD_VERSION=0.28.1
readonly TF_VERSION=2.15.1
readonly START=$SECONDS

fail() { echo "setup: $*" >&2; exit 1; }

# Content of everything that decides what the environment must be.
fingerprint() {
  { echo "gpu=$GPU root=$PWD"; cat scripts/setup.sh scripts/selfcheck.py requirements.txt requirements-test.txt constraints.txt; find third_party/zmq_ops third_party/smooth_ops third_party/jpeg_part -type f \
      \( -name '*.c' -o -name '*.cc' -o -name '*.h' -o -name Makefile \) -print0 | sort -z | xargs -0 cat; } | sha256sum | cut -c1-16
}

# step NAME COMMAND...: runs the command with its output in a log, prints one line with the time it took.
step() {
  local name=$1 begin=$SECONDS log
  shift
  log="$VENV-setup.log"
  [ -d "$VENV" ] && log="$VENV/setup.log"
  printf '%-58s' "setup: $name ..."
  if ! "$@" >"$log" 2>&1; then
    echo " failed"
    tail -n 30 "$log" >&2
    fail "'$name' failed; the end of its output is above, the whole of it in $log"
  fi
  echo " $((SECONDS - begin)) s"
  [ "$log" = "$VENV/setup.log" ] || rm -f "$log"
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.10 python3.9 python3; do
    if "$candidate" -c 'import sys; raise SystemExit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python 3.9, 3.10 or 3.11 found; install one (Debian 12: apt-get install python3.11 python3.11-venv) or name it: make setup PYTHON=/path/to/python3.11"
}

has_header() { echo "#include <$1>" | g++ -E -x c++ - >/dev/null 2>&1; }

# Names of the Debian packages whose tools or headers are missing.
missing_packages() {
  local python=$1
  command -v g++ >/dev/null || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v pkg-config >/dev/null || echo pkg-config
  command -v mpirun >/dev/null || echo openmpi-bin
  command -v mpicxx >/dev/null || echo libopenmpi-dev
  has_header zmq.h || echo libzmq3-dev
  has_header zmq.hpp || echo cppzmq-dev
  has_header jpeglib.h || echo libjpeg-dev
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
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

# Horovod's NCCL operations are compiled by CUDA's compiler against NCCL's headers; neither comes with pip or Debian.
check_cuda() {
  [ "$GPU" = 1 ] || return 0
  command -v nvcc >/dev/null || fail "GPU=1 needs the CUDA toolkit; install it and put nvcc on the PATH"
  has_header nccl.h || fail "GPU=1 needs NCCL's headers (libnccl-dev of NVIDIA's repository, or CPATH set to where nccl.h is)"
}

make_venv() { [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null || "$1" -m venv --clear "$VENV"; }

install_python_packages() {
  local tensorflow="tensorflow-cpu==$TF_VERSION"
  [ "$GPU" = 1 ] && tensorflow="tensorflow[and-cuda]==$TF_VERSION"
  "$VENV/bin/python" -m pip install --disable-pip-version-check "$tensorflow" -r requirements.txt -r requirements-test.txt \
    -c constraints.txt
}

horovod_is_built() { "$VENV/bin/python" -c "
import horovod, horovod.tensorflow as hvd
assert horovod.__version__ == '$HOROVOD_VERSION' and hvd.mpi_built() and ($GPU == 0 or hvd.nccl_built())"; }

install_horovod() {
  horovod_is_built && return
  local operations=()
  [ "$GPU" = 1 ] && operations=(HOROVOD_GPU_OPERATIONS=NCCL)
  # 0.28.1 is the last release that builds against TensorFlow 2.15; only MPI and TensorFlow are wanted.
  env HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 HOROVOD_WITHOUT_PYTORCH=1 \
      HOROVOD_WITHOUT_MXNET=1 MAKEFLAGS="-j$(nproc)" "${operations[@]}" PATH="$PWD/$VENV/bin:$PATH" \
      "$VENV/bin/python" -m pip install --disable-pip-version-check --no-build-isolation --force-reinstall --no-deps \
      "horovod==$HOROVOD_VERSION"
}

build_zmq_ops() {
  make -C third_party/zmq_ops PYTHON="$PWD/$VENV/bin/python"
  # tensorpack says `import zmq_ops`; this makes the name known to every program of the environment.
  local site
  site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$PWD/third_party" >"$site/sat_third_party.pth"
}

build_smooth_ops() { make -C third_party/smooth_ops PYTHON="$PWD/$VENV/bin/python"; }

build_jpeg_part() { make -C third_party/jpeg_part; }

self_check() { "$VENV/bin/python" scripts/selfcheck.py; }

main() {
  local python want
  want=$(fingerprint)
  if [ "$(cat "$VENV/setup-done" 2>/dev/null)" = "$want" ] && [ -x "$VENV/bin/python" ]; then
    echo "setup: nothing to do"
    return
  fi
  python=$(find_python)
  echo "setup: $("$python" --version) at $python"
  install_system_packages "$python"
  check_cuda
  step "virtual environment in $VENV" make_venv "$python"
  rm -f "$VENV/setup-done"
  step "Python packages (TensorFlow $TF_VERSION, tensorpack, OpenCV ...)" install_python_packages
  step "Horovod $HOROVOD_VERSION with MPI (built from source)" install_horovod
  step "zmq_ops, this project's TensorFlow op" build_zmq_ops
  step "smooth_ops, the activations as TensorFlow ops" build_smooth_ops
  step "jpeg_part, which decodes parts of JPEGs" build_jpeg_part
  step "self-check (MPI, the op, an allreduce of two ranks)" self_check
  echo "$want" >"$VENV/setup-done"
  echo "setup: done in $((SECONDS - START)) s"
}

main
