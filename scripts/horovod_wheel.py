"""Installs Horovod with MPI for this Python's TensorFlow, from a wheel that is built once and kept in the user's cache.

    .venv/bin/python scripts/horovod_wheel.py [--gpu]

Wheels lie in ``$XDG_CACHE_HOME/smooth-adversarial-training/wheels`` (or ``~/.cache/...``), each in a folder named after
what it was built for. Beside it stands a receipt with its digest: a wheel that is damaged, half-written or of another
origin is built anew.
"""
import contextlib
import fcntl
import glob
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile

import cuda_wheels

VERSION = '0.28.1'
SDIST = 'sha256:92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0'
# Only MPI and TensorFlow are wanted.
SETTINGS = dict(HOROVOD_WITH_TENSORFLOW='1', HOROVOD_WITH_MPI='1', HOROVOD_WITHOUT_GLOO='1',
                HOROVOD_WITHOUT_PYTORCH='1', HOROVOD_WITHOUT_MXNET='1', HOROVOD_WITHOUT_NVTX='1')
ARCH_FLAGS = ('f16c', 'avx', 'fma')  # instructions that Horovod's CMakeLists.txt asks for where the processor has them

# Headers that Horovod's files use and do not include. Up to GCC 13 other headers brought them along.
INCLUDED = ('cstdint', 'stdexcept', 'string')

# Horovod 0.28.1 is its last release, of 2023, and knows TensorFlow up to 2.15: (text, what stands there instead).
EDITS = {
    os.path.join('horovod', 'tensorflow', 'CMakeLists.txt'): [
        # TensorFlow's own headers include these two libraries by paths that its include folder does not have by itself.
        ('include_directories(SYSTEM ${Tensorflow_INCLUDE_DIRS})\n',
         'include_directories(SYSTEM ${Tensorflow_INCLUDE_DIRS} ${Tensorflow_INCLUDE_DIRS}/external/highwayhash\n'
         '                    ${Tensorflow_INCLUDE_DIRS}/external/farmhash_archive/src)\n'),
        # An allreduce inside XLA's programs, off unless HOROVOD_ENABLE_XLA_OPS is set; it includes headers that have moved.
        ('list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")\n', ''),
    ],
    # A span that is assigned to, which nothing does; since GCC 14 that its length is constant is an error all the same.
    os.path.join('third_party', 'flatbuffers', 'include', 'flatbuffers', 'stl_emulation.h'): [
        ('  const size_type count_;\n', '  size_type count_;\n'),
    ],
}

INSTALLED = """
import json, os, horovod, horovod.tensorflow as hvd, tensorflow
with open(os.path.join(os.path.dirname(horovod.__file__), 'metadata.json')) as f:
    built_for = json.load(f)['tensorflow']
assert (horovod.__version__, built_for) == ({!r}, tensorflow.__version__), (horovod.__version__, built_for)
assert hvd.mpi_built() and (not {!r} or hvd.nccl_built())
"""


def works(gpu):
    """Whether this Python imports the wanted Horovod, built for the TensorFlow that it has."""
    return subprocess.run([sys.executable, '-c', INSTALLED.format(VERSION, gpu)]).returncode == 0


def version_line(*command):
    """The first line with a number of what a command prints."""
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return next(line.strip() for line in said.splitlines() if re.search(r'\d', line))


def tensorflow():
    """Name and version of the distribution that brings TensorFlow."""
    for name in 'tensorflow-cpu', 'tensorflow':
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return name, importlib.metadata.version(name)
    sys.exit('horovod_wheel: {} has no TensorFlow'.format(sys.executable))


def processor_flags():
    """Those of ARCH_FLAGS that this processor knows."""
    known = set()
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as f:
        known = {word for line in f if line.startswith('flags') for word in line.split()}
    return [flag for flag in ARCH_FLAGS if flag in known]


def scripts_digest(gpu):
    """SHA-256 of the files that say how a wheel is built."""
    files = [__file__, *([cuda_wheels.__file__, *sorted(glob.glob(cuda_wheels.REPLACEMENTS + '/*'))] if gpu else [])]
    digest = hashlib.sha256()
    for path in files:
        with open(path, 'rb') as f:
            digest.update(f.read())
    return digest.hexdigest()


def facts(gpu):
    """All that a wheel depends on: dict of text. A home directory may be shared by unlike machines."""
    return {
        'python': 'cp{}{}'.format(*sys.version_info[:2]),
        'tensorflow': 'tensorflow-' + tensorflow()[1],  # both distributions have the same headers
        'compiler': 'g++-' + version_line('g++', '-dumpfullversion', '-dumpversion'),
        'libc': '-'.join(platform.libc_ver()),
        'machine': '-'.join([platform.machine(), *processor_flags()]),
        'mpi': version_line('mpirun', '--version'),
        'gpu': cuda_wheels.versions() if gpu else 'none',
        'script': scripts_digest(gpu),
    }


def wheel_folder(facts):
    """The folder of the wheel that was built for these facts."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    words = [re.sub(r'[^\w.+]+', '-', value).strip('-') for fact, value in facts.items() if fact != 'script']
    digest = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()
    name = '-'.join(words)[:200] + '-' + digest[:16]
    return os.path.join(cache, 'smooth-adversarial-training', 'wheels', name)


def receipt(facts, wheel):
    """What must stand beside a wheel: the facts that it was built for, and its digest."""
    with open(wheel, 'rb') as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    return ''.join('{}: {}\n'.format(*line) for line in [*facts.items(), ('sha256', digest)])


def kept_wheel(folder, facts):
    """Path of the wheel in a folder; None unless this user wrote it, it is whole, and it was built for these facts."""
    with contextlib.suppress(OSError, ValueError):  # not there, or no text
        with open(os.path.join(folder, 'receipt')) as f:
            written = f.read()
        for name in sorted(os.listdir(folder)):
            wheel = os.path.join(folder, name)
            if name.endswith('.whl') and os.stat(wheel).st_uid == os.geteuid() and receipt(facts, wheel) == written:
                return wheel
    return None


def keep(wheel, folder, facts):
    """Put a wheel and its receipt into a folder: whole, or not at all."""
    kept, slip = os.path.join(folder, os.path.basename(wheel)), os.path.join(folder, 'receipt')
    shutil.copyfile(wheel, kept + '.part')
    with open(slip + '.part', 'w') as f:
        f.write(receipt(facts, wheel))
    os.replace(kept + '.part', kept)
    os.replace(slip + '.part', slip)


def edit(source, edits):
    """Change Horovod's unpacked source: {file: [(text, what stands there instead), ...]}."""
    for name, changes in edits.items():
        path = os.path.join(source, name)
        with open(path) as f:
            text = f.read()
        for old, new in changes:
            if text.count(old) != 1:
                sys.exit('horovod_wheel: {} has {} lines {!r} instead of one'.format(
                    path, text.count(old), old.strip()))
            text = text.replace(old, new)
        with open(path, 'w') as f:
            f.write(text)


def pip(*arguments, **environment):
    # A wheel is kept for others: what this shell exports for Horovod is for running it.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith('HOROVOD_')}
    subprocess.run([sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments], check=True,
                   env=dict(inherited, **environment))


def build(folder, gpu):
    """Build the wheel inside an empty folder; returns its path."""
    wanted = os.path.join(folder, 'wanted.txt')
    with open(wanted, 'w') as f:
        f.write('horovod=={} --hash={}\n'.format(VERSION, SDIST))
    pip('download', '--no-deps', '--no-build-isolation', '--no-binary', ':all:', '--dest', folder, '-r', wanted)
    name = 'horovod-' + VERSION
    shutil.unpack_archive(os.path.join(folder, name + '.tar.gz'), folder)
    source = os.path.join(folder, name)
    edit(source, EDITS)
    settings = dict(SETTINGS)
    if gpu:
        edit(source, cuda_wheels.EDITS)
        cuda_wheels.replace_kernels(source)
        toolkit = os.path.join(folder, 'cuda')
        cuda_wheels.make_toolkit(toolkit, sysconfig.get_path('purelib'))
        settings.update(cuda_wheels.settings(toolkit))
    pip('wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', folder, source, **settings,
        CXXFLAGS=' '.join('-include ' + header for header in INCLUDED),
        HOROVOD_BUILD_ARCH_FLAGS=' '.join('-m' + flag for flag in processor_flags()),
        MAKEFLAGS='-j{}'.format(len(os.sched_getaffinity(0))),
        # Horovod's CMakeLists.txt asks for TensorFlow's flags by the name `python`.
        PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH'])
    wheel, = (os.path.join(folder, name) for name in os.listdir(folder) if name.endswith('.whl'))
    return wheel


def install(wheel):
    pip('install', '--force-reinstall', '--no-deps', wheel)


@contextlib.contextmanager
def alone(folder):
    """While this holds, no other process builds a wheel in the folder: of two set-ups at once, one builds."""
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            fcntl.flock(stack.enter_context(open(os.path.join(folder, 'lock'), 'w')), fcntl.LOCK_EX)
        except OSError as error:
            print('horovod_wheel: the wheel will not be kept ({})'.format(error))
        yield


def main(gpu):
    if works(gpu):
        return
    wanted = facts(gpu)
    folder = wheel_folder(wanted)
    with alone(folder), tempfile.TemporaryDirectory(prefix='horovod-') as place:
        kept = kept_wheel(folder, wanted)
        if kept:
            install(kept)
            if works(gpu):
                return
        wheel = build(place, gpu)
        try:
            keep(wheel, folder, wanted)
        except OSError as error:
            print('horovod_wheel: the wheel is not kept ({})'.format(error))
        install(wheel)
    if not works(gpu):
        sys.exit('horovod_wheel: Horovod was built but does not work; see above')


if __name__ == '__main__':
    main(gpu='--gpu' in sys.argv[1:])
