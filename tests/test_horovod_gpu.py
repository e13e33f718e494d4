"""Horovod for GPUs, built without a CUDA toolkit: what it is built from, and what stands for its kernels.

No machine of these tests has a GPU: CUDA and cuBLAS are made up, as far as they are called.
"""
import ctypes
import glob
import importlib.metadata
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from packaging.requirements import Requirement

import cuda_wheels
import horovod_wheel
from small_runs import ROOT

# ----- the wheels -----


@pytest.fixture
def site(tmp_path):
    """A site-packages as TensorFlow 2.21's GPU wheels leave it, with empty files."""
    cuda = 'tensorflow/include/third_party/gpus/cuda/'
    for name in (cuda + 'include/cuda_runtime.h', cuda + 'include/cublas_v2.h', cuda + 'include/crt/host_config.h',
                 cuda + 'libcudacxx/include/nv/target', 'nvidia/nccl/include/nccl.h', 'nvidia/nccl/include/__init__.py',
                 cuda + 'include/__init__.py', *cuda_wheels.LIBRARIES.values()):
        path = tmp_path / 'site' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / 'site'


def test_the_wheels_headers_and_libraries_lie_as_a_toolkit_s_do(site, tmp_path):
    folder = tmp_path / 'cuda'
    cuda_wheels.make_toolkit(str(folder), str(site))
    for header in ('cuda_runtime.h', 'cublas_v2.h', 'crt/host_config.h', 'nv/target', 'nccl.h'):
        assert (folder / 'include' / header).is_file(), header
    lib = folder / 'lib'
    assert {name: os.path.relpath(os.path.realpath(lib / name), site) for name in os.listdir(lib)} == {
        'libcudart.so': 'nvidia/cuda_runtime/lib/libcudart.so.12', 'libcublas.so': 'nvidia/cublas/lib/libcublas.so.12',
        'libnccl.so': 'nvidia/nccl/lib/libnccl.so.2'}
    settings = cuda_wheels.settings(str(folder))
    assert settings['HOROVOD_GPU_OPERATIONS'] == 'NCCL' and settings['HOROVOD_NCCL_LINK'] == 'shared'
    assert settings['HOROVOD_NCCL_HOME'] == settings['HOROVOD_CUDA_HOME'] == str(folder)


@pytest.mark.parametrize('name', ['nvidia/nccl/lib/libnccl.so.2', 'nvidia/nccl/include/nccl.h',
                                  'tensorflow/include/third_party/gpus/cuda/libcudacxx/include/nv/target'])
def test_a_file_that_is_not_there_ends_the_set_up_in_a_line_that_says_what_to_type(site, tmp_path, name):
    (site / name).unlink()
    with pytest.raises(SystemExit) as end:
        cuda_wheels.make_toolkit(str(tmp_path / 'cuda'), str(site))
    said = str(end.value)
    assert os.path.basename(name) in said and 'type: rm -r {}; make setup GPU=1'.format(sys.prefix) in said
    assert '\n' not in said


def test_a_package_that_is_not_there_is_named(monkeypatch):
    def version(name):
        if name == 'nvidia-nccl-cu12':
            raise importlib.metadata.PackageNotFoundError(name)
        return '12.9'
    monkeypatch.setattr(importlib.metadata, 'version', version)
    with pytest.raises(SystemExit, match='lacks the package nvidia-nccl-cu12'):
        cuda_wheels.versions()


def test_a_wheel_is_kept_for_the_libraries_and_files_that_it_was_built_from(monkeypatch, tmp_path):
    installed = {name: '1.0' for name in [*cuda_wheels.LIBRARIES, 'tensorflow', 'tensorflow-cpu']}
    monkeypatch.setattr(importlib.metadata, 'version', installed.__getitem__)
    monkeypatch.setattr(horovod_wheel, 'version_line', lambda *command: '1')
    monkeypatch.setattr(cuda_wheels, 'REPLACEMENTS', str(tmp_path))
    (tmp_path / 'cuda_kernels.cc').write_text('one')
    folders = {horovod_wheel.wheel_folder(horovod_wheel.facts(gpu=gpu)) for gpu in (False, True)}
    for name in cuda_wheels.LIBRARIES:
        installed[name] = '2.0'
        folders.add(horovod_wheel.wheel_folder(horovod_wheel.facts(gpu=True)))
    (tmp_path / 'cuda_kernels.cc').write_text('two')
    folders.add(horovod_wheel.wheel_folder(horovod_wheel.facts(gpu=True)))
    assert len(folders) == 2 + len(cuda_wheels.LIBRARIES) + 1
    of_cpus = horovod_wheel.wheel_folder(horovod_wheel.facts(gpu=False))
    assert of_cpus in folders  # which depends on none of these


def test_horovod_looks_for_no_toolkit_and_finds_its_libraries_beside_itself(tmp_path):
    for name, changes in cuda_wheels.EDITS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(''.join(old for old, _ in changes))
    horovod_wheel.edit(str(tmp_path), cuda_wheels.EDITS)
    text = (tmp_path / 'CMakeLists.txt').read_text()
    assert 'CUDAToolkit' not in text and 'check_language(CUDA)' not in text and 'NCCL_LIBRARIES' not in text
    # From site-packages/horovod/tensorflow; nothing of the environment or folder in which it is built.
    paths, = re.findall(r'CMAKE_BUILD_RPATH (.*)\)\n', text)
    assert paths.replace('"', '').split() == [
        '$ORIGIN/../../nvidia/{}/lib'.format(name) for name in ('cuda_runtime', 'cublas', 'nccl')]


def test_the_file_for_cuda_s_compiler_is_replaced(tmp_path):
    (tmp_path / cuda_wheels.REPLACED).mkdir(parents=True)
    (tmp_path / cuda_wheels.REPLACED / 'CMakeLists.txt').write_text('add_library(horovod_cuda_kernels cuda_kernels.cu)')
    cuda_wheels.replace_kernels(str(tmp_path))
    text = (tmp_path / cuda_wheels.REPLACED / 'CMakeLists.txt').read_text()
    source, = re.findall(r'add_library\(horovod_cuda_kernels STATIC (\S+)\)', text)
    assert source.endswith('.cc') and (tmp_path / cuda_wheels.REPLACED / source).is_file()


def test_every_set_pins_what_its_tensorflow_asks_for_with_gpus():
    """Against the metadata of the TensorFlow that is installed here, whose set it is."""
    _, version = horovod_wheel.tensorflow()
    with open(os.path.join(ROOT, 'constraints', 'tensorflow-{}.txt'.format(version))) as f:
        pins = dict(line.strip().split('==') for line in f if not line.startswith('#'))
    wanted = [Requirement(line) for line in importlib.metadata.requires(horovod_wheel.tensorflow()[0])]
    wanted = [one for one in wanted if one.marker and one.marker.evaluate({'extra': 'and-cuda'})
              and not one.marker.evaluate({'extra': ''})]
    assert len(wanted) > 5 and set(cuda_wheels.LIBRARIES) <= {one.name for one in wanted}
    for one in wanted:
        assert one.specifier.contains(pins[one.name]), one


def test_both_sets_pin_the_same_packages_for_gpus():
    sets = []
    for path in glob.glob(os.path.join(ROOT, 'constraints', '*.txt')):
        with open(path) as f:
            sets.append({line.split('==')[0] for line in f if line.startswith('nvidia-')})
    assert len(sets) > 1 and all(names == sets[0] and len(names) == 12 for names in sets)


# ----- the copies and scalings -----

# What the file needs of Horovod's header, with Horovod's names.
HOROVOD = '''
#pragma once
#include <cuda_runtime.h>
#include <cstddef>
#include <cstdint>
#include <string>
namespace horovod { namespace common {
enum DataType { HOROVOD_INT32 = 4, HOROVOD_FLOAT16 = 6, HOROVOD_FLOAT32 = 7, HOROVOD_FLOAT64 = 8 };
inline std::string DataType_Name(DataType value) { return value == HOROVOD_INT32 ? "int32" : "a float"; }
inline std::size_t DataType_Size(DataType value) {
  return value == HOROVOD_FLOAT16 ? 2 : value == HOROVOD_FLOAT64 ? 8 : 4;
}
struct BatchedD2DParams { void* out[160]; void* in[160]; size_t sizes[160]; };
void BatchedD2DMemcpyCudaImpl(BatchedD2DParams&, int, cudaStream_t);
void ScaleBufferCudaImpl(const void*, void*, const int64_t, double, DataType, cudaStream_t);
void BatchedScaledD2DMemcpyCudaImpl(BatchedD2DParams&, int, double, DataType, cudaStream_t);
} }
'''
# CUDA as far as it is called, with CUDA's numbers; what is done is the test's.
CUDA = '''
#pragma once
#include <cstddef>
typedef void* cudaStream_t;
enum cudaDataType { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2 };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
extern int (*copy)(void*, const void*, size_t, int, cudaStream_t);
extern int device;
inline int cudaMemcpyAsync(void* out, const void* in, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy(out, in, size, kind, stream);
}
inline int cudaGetDevice(int* current) { *current = device; return 0; }
'''
CUBLAS = '''
#pragma once
#include <cstdint>
struct Cublas { int device; cudaStream_t stream; };
typedef Cublas* cublasHandle_t;
extern int handles;
extern int (*scal)(int, cudaStream_t, int64_t, const void*, int, void*, int, int64_t, int);
inline int cublasCreate(cublasHandle_t* handle) { ++handles; *handle = new Cublas{device, nullptr}; return 0; }
inline int cublasSetStream(cublasHandle_t handle, cudaStream_t stream) { handle->stream = stream; return 0; }
inline int cublasScalEx_64(cublasHandle_t handle, int64_t n, const void* alpha, cudaDataType alpha_type, void* x,
                           cudaDataType x_type, int64_t step, cudaDataType arithmetic) {
  return scal(handle->device, handle->stream, n, alpha, alpha_type, x, x_type, step, arithmetic);
}
'''
CALLS = '''
#include "cuda_kernels.h"
#include <cublas_v2.h>
#include <cstring>
#include <stdexcept>
using namespace horovod::common;
int (*copy)(void*, const void*, size_t, int, cudaStream_t);
int (*scal)(int, cudaStream_t, int64_t, const void*, int, void*, int, int64_t, int);
int device, handles;
static char said[200];
template <typename Call> const char* tried(Call call) {
  try { call(); } catch (const std::logic_error& error) { return std::strncpy(said, error.what(), 199); }
  return nullptr;
}
extern "C" {
int* current_device() { return &device; }
int handles_made() { return handles; }
void use(void* a, void* b) {
  copy = reinterpret_cast<decltype(copy)>(a);
  scal = reinterpret_cast<decltype(scal)>(b);
}
const char* scale(const void* in, void* out, int64_t n, double factor, int type, void* stream) {
  return tried([&] { ScaleBufferCudaImpl(in, out, n, factor, static_cast<DataType>(type), stream); });
}
const char* batch(BatchedD2DParams* params, int count, void* stream) {
  return tried([&] { BatchedD2DMemcpyCudaImpl(*params, count, stream); });
}
const char* scaled_batch(BatchedD2DParams* params, int count, double factor, int type, void* stream) {
  return tried([&] { BatchedScaledD2DMemcpyCudaImpl(*params, count, factor, static_cast<DataType>(type), stream); });
}
}
'''
TYPES = {np.int32: 4, np.float16: 6, np.float32: 7, np.float64: 8}  # Horovod's numbers
STREAM = 0x51


class Batch(ctypes.Structure):
    _fields_ = [('out', ctypes.c_void_p * 160), ('in_', ctypes.c_void_p * 160), ('sizes', ctypes.c_size_t * 160)]

    @classmethod
    def of(cls, pairs):
        batch = cls()
        for i, (array, out) in enumerate(pairs):
            batch.in_[i], batch.out[i], batch.sizes[i] = array.ctypes.data, out.ctypes.data, array.nbytes
        return batch


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp('kernels')
    for name, text in [('cuda_kernels.h', HOROVOD), ('cuda_runtime.h', CUDA), ('cublas_v2.h', CUBLAS),
                       ('calls.cc', CALLS)]:
        (folder / name).write_text(text)
    # -Bsymbolic: its own cudaMemcpyAsync and the like, not those that TensorFlow has in a process that imported it.
    subprocess.run(['g++', '-std=c++14', '-shared', '-fPIC', '-Wl,-Bsymbolic', '-I', folder,
                    '-o', folder / 'kernels.so', folder / 'calls.cc',
                    os.path.join(cuda_wheels.REPLACEMENTS, 'cuda_kernels.cc')], check=True)
    library = ctypes.CDLL(str(folder / 'kernels.so'))
    for call in library.scale, library.batch, library.scaled_batch:
        call.restype = ctypes.c_char_p
    library.current_device.restype = ctypes.POINTER(ctypes.c_int)
    return library


class Gpu:
    """A made-up GPU: memory is this process's, and what is asked for is done at once and noted."""
    def __init__(self, library):
        self.copied, self.scaled, self.status = [], [], 0
        self.library = library
        address, small, large = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        self._copy = ctypes.CFUNCTYPE(small, address, address, ctypes.c_size_t, small, address)(self.copy)
        self._scal = ctypes.CFUNCTYPE(small, small, address, large, address, small, address, small, large,
                                      small)(self.scal)
        library.use(ctypes.cast(self._copy, address), ctypes.cast(self._scal, address))
        library.current_device()[0] = 0

    def copy(self, out, source, size, kind, stream):
        assert (kind, stream) == (3, STREAM)
        self.copied.append(size)
        ctypes.memmove(out, source, size)
        return self.status

    def scal(self, device, stream, n, alpha, alpha_type, x, x_type, step, arithmetic):
        """cublasScalEx: of the types it knows, those for real numbers up to 64 bits."""
        assert (stream, step) == (STREAM, 1) and alpha_type == arithmetic
        assert (x_type, arithmetic) in {(0, 0), (1, 1), (2, 0)}
        real = {0: np.float32, 1: np.float64}[arithmetic]
        factor = np.frombuffer(ctypes.string_at(alpha, np.dtype(real).itemsize), real)[0]
        stored = {0: np.float32, 1: np.float64, 2: np.float16}[x_type]
        values = np.frombuffer(ctypes.string_at(x, n * np.dtype(stored).itemsize), stored)
        result = (values.astype(real) * factor).astype(stored)
        ctypes.memmove(x, result.ctypes.data, result.nbytes)
        self.scaled.append((device, n))
        return self.status

    def scale(self, array, out, factor):
        return self.library.scale(ctypes.c_void_p(array.ctypes.data), ctypes.c_void_p(out.ctypes.data),
                                  ctypes.c_int64(array.size), ctypes.c_double(factor), TYPES[array.dtype.type],
                                  ctypes.c_void_p(STREAM))

    def scaled_batch(self, pairs, factor):
        return self.library.scaled_batch(ctypes.byref(Batch.of(pairs)), len(pairs), ctypes.c_double(factor),
                                         TYPES[pairs[0][0].dtype.type], ctypes.c_void_p(STREAM))


@pytest.fixture
def gpu(library):
    return Gpu(library)


def random(size, dtype=np.float32):
    return np.random.RandomState(size).uniform(-100, 100, size).astype(dtype)


def test_a_batch_is_copied_tensor_by_tensor(gpu):
    pairs = [(array, np.zeros_like(array)) for array in map(random, (3, 1, 0, 1000))]
    assert gpu.library.batch(ctypes.byref(Batch.of(pairs)), len(pairs), ctypes.c_void_p(STREAM)) is None
    for array, out in pairs:
        np.testing.assert_array_equal(out, array)
    assert gpu.copied == [12, 4, 4000] and gpu.scaled == []


@pytest.mark.parametrize('dtype', TYPES)
def test_a_factor_of_one_copies_any_type(gpu, dtype):
    pairs = [(array, np.zeros_like(array)) for array in (random(5, dtype), random(7, dtype))]
    assert gpu.scaled_batch(pairs, 1.0) is None
    for array, out in pairs:
        np.testing.assert_array_equal(out, array)
    assert gpu.scaled == []


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_a_buffer_is_scaled_in_place_or_beside(gpu, dtype):
    array = random(1001, dtype)
    expected = (array.astype(np.float64) / 3).astype(dtype)
    out, place = np.zeros_like(array), array.copy()
    assert gpu.scale(array, out, 1 / 3) is None and gpu.copied == [array.nbytes]
    assert gpu.scale(place, place, 1 / 3) is None and gpu.copied == [array.nbytes]
    for result in out, place:
        np.testing.assert_allclose(result, expected, rtol=2 * np.finfo(dtype).eps, atol=0)
    np.testing.assert_array_equal(array, random(1001, dtype))


def test_a_batch_is_scaled_tensor_by_tensor(gpu):
    pairs = [(array, np.zeros_like(array)) for array in (random(size, np.float16) for size in (4, 0, 9))]
    assert gpu.scaled_batch(pairs, 0.25) is None
    for array, out in pairs:
        np.testing.assert_array_equal(out, array * np.float16(0.25))
    assert [n for _, n in gpu.scaled] == [4, 9]


def test_each_gpu_has_one_cublas_of_its_own(gpu):
    array = random(2)
    before = gpu.library.handles_made()
    for device in 5, 6, 5, 6:
        gpu.library.current_device()[0] = device
        assert gpu.scale(array, array, 0.5) is None
    assert gpu.scaled == [(5, 2), (6, 2), (5, 2), (6, 2)] and gpu.library.handles_made() == before + 2


def test_integers_are_not_scaled_silently(gpu):
    array = random(4, np.int32)
    assert b'scales floating-point tensors only, not int32' in gpu.scale(array, array, 0.5)
    np.testing.assert_array_equal(array, random(4, np.int32))


def test_what_fails_on_the_gpu_is_an_error(gpu):
    array, gpu.status = random(4), 13
    assert gpu.scale(array, np.zeros_like(array), 1.0) == b'cudaMemcpyAsync failed with status 13'
    assert gpu.scale(array, array, 0.5) == b'cublasScalEx failed with status 13'
