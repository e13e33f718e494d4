"""What Horovod's GPU operations are built from: CUDA's and NCCL's headers and libraries in the wheels of this Python.

``tensorflow[and-cuda]`` brings them, so the libraries are those that TensorFlow loads. No CUDA toolkit takes part, also
where one is installed: its version may be another. Horovod's one file for CUDA's compiler is replaced by that in
horovod_gpu/.
"""
import importlib.metadata
import os
import shutil
import sys

# Distribution: its folder of headers with one that must be there, and its library if Horovod needs one.
WHEELS = {
    'nvidia-cuda-runtime-cu12': ('nvidia/cuda_runtime/include', 'cuda_runtime.h', 'nvidia/cuda_runtime/lib/libcudart.so.12'),
    'nvidia-cuda-nvcc-cu12': ('nvidia/cuda_nvcc/include', 'crt', None),  # which cuda_runtime.h includes
    'nvidia-cublas-cu12': ('nvidia/cublas/include', 'cublas_v2.h', 'nvidia/cublas/lib/libcublas.so.12'),
    'nvidia-nccl-cu12': ('nvidia/nccl/include', 'nccl.h', 'nvidia/nccl/lib/libnccl.so.2'),
}
LIBRARIES = [library for _, _, library in WHEELS.values() if library]

REPLACEMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'horovod_gpu')
REPLACED = os.path.join('horovod', 'common', 'ops', 'cuda')

# (text, what stands there instead) of Horovod's files.
EDITS = {
    'CMakeLists.txt': [
        # No CUDA compiler is looked for ...
        ('include(CheckLanguage)\ncheck_language(CUDA)\nif(NOT CMAKE_CUDA_COMPILER)\n',
         'unset(CMAKE_CUDA_COMPILER)\nif(FALSE)\n'),
        # ... nor a toolkit. Horovod's library lies in site-packages/horovod/tensorflow and finds the others from there,
        # in whichever environment; -L and not their paths, as CMake would add the folder of links to those of run time.
        ('    find_package(CUDAToolkit REQUIRED)\n    include_directories(SYSTEM ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})\n',
         '    include_directories(SYSTEM $ENV{HOROVOD_CUDA_HOME}/include)\n'
         '    list(APPEND LINKER_LIBS "-L$ENV{HOROVOD_CUDA_HOME}/lib" -lcudart -lcublas -lnccl)\n'
         '    list(APPEND CMAKE_BUILD_RPATH ' +
         ' '.join('"$ORIGIN/../../{}"'.format(os.path.dirname(library)) for library in LIBRARIES) + ')\n'),
        ('        list(APPEND LINKER_LIBS ${NCCL_LIBRARIES})\n', ''),
    ],
    # TensorFlow 2.21 has this function no more. What it returned, a stream itself tells since 2.15 or earlier.
    os.path.join('horovod', 'tensorflow', 'mpi_ops.cc'): [
        ('GpuStreamHandle AsGpuStreamValue(Stream* stream);\n', 'static GpuStreamHandle AsGpuStreamValue(Stream* stream);\n'),
        ('#include "tensorflow/compiler/xla/stream_executor/stream.h"\n',
         '#include "tensorflow/compiler/xla/stream_executor/stream.h"\n'
         'GpuStreamHandle stream_executor::gpu::AsGpuStreamValue(Stream* stream) {\n'
         '  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream);\n'
         '}\n'),
    ],
}


def locate(name, path):
    """Path of a file or folder that a distribution of this Python holds; without it the end, in one line."""
    try:
        found = str(importlib.metadata.distribution(name).locate_file(path))
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found and os.path.exists(found):
        return found
    sys.exit('horovod_wheel: {} lacks {} of the package {}; type: {} -m pip install --force-reinstall --no-deps {}'.format(
        os.path.dirname(os.path.dirname(sys.executable)), path, name, sys.executable, name))


def versions():
    """'nvidia-nccl-cu12-2.27.7 ...' of the wheels that Horovod is built from."""
    return ' '.join('{}-{}'.format(name, importlib.metadata.version(name)) for name, (headers, header, library)
                    in WHEELS.items() if locate(name, os.path.join(headers, header)) and library)


def make_toolkit(folder):
    """Links in an empty folder so that the wheels' headers and libraries lie as a CUDA toolkit's do."""
    include, lib = os.path.join(folder, 'include'), os.path.join(folder, 'lib')
    os.makedirs(include)
    os.makedirs(lib)
    for name, (headers, header, library) in WHEELS.items():
        locate(name, os.path.join(headers, header))
        headers = locate(name, headers)
        for entry in os.listdir(headers):
            if not os.path.lexists(os.path.join(include, entry)):  # __init__.py
                os.symlink(os.path.join(headers, entry), os.path.join(include, entry))
        if library:  # the linker wants libnccl.so for -lnccl, but notes the library's own name, libnccl.so.2
            plain = os.path.basename(library).split('.so')[0] + '.so'
            os.symlink(locate(name, library), os.path.join(lib, plain))


def settings(folder):
    """Variables of Horovod's build, with the folder of `make_toolkit`."""
    return dict(HOROVOD_GPU_OPERATIONS='NCCL', HOROVOD_CUDA_HOME=folder, HOROVOD_NCCL_HOME=folder,
                HOROVOD_NCCL_LINK='shared')


def replace_kernels(source):
    """Put our files into Horovod's unpacked source in the place of those that need CUDA's compiler."""
    for name in os.listdir(REPLACEMENTS):
        shutil.copyfile(os.path.join(REPLACEMENTS, name), os.path.join(source, REPLACED, name))
