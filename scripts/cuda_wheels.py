"""What Horovod's GPU operations are built from: CUDA's and NCCL's headers and libraries in the wheels of this Python.

``tensorflow[and-cuda]`` brings them: the headers that TensorFlow was compiled with are its own, the libraries that it
loads are NVIDIA's wheels. No CUDA toolkit takes part, also where one is installed: its version may be another.
Horovod's one file for CUDA's compiler is replaced by that in horovod_gpu/.
"""
import importlib.metadata
import os
import shutil
import sys

LIBRARIES = {
    'nvidia-cuda-runtime-cu12': 'nvidia/cuda_runtime/lib/libcudart.so.12',
    'nvidia-cublas-cu12': 'nvidia/cublas/lib/libcublas.so.12',
    'nvidia-nccl-cu12': 'nvidia/nccl/lib/libnccl.so.2',
}
HEADERS = ['tensorflow/include/third_party/gpus/cuda/include',
           'tensorflow/include/third_party/gpus/cuda/libcudacxx/include',  # until TensorFlow 2.15 in the one above
           'nvidia/nccl/include']
NEEDED_HEADERS = ['cuda_runtime.h', 'cublas_v2.h', 'nv/target', 'nccl.h']

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
        ('    find_package(CUDAToolkit REQUIRED)\n'
         '    include_directories(SYSTEM ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})\n',
         '    include_directories(SYSTEM $ENV{HOROVOD_CUDA_HOME}/include)\n'
         '    list(APPEND LINKER_LIBS "-L$ENV{HOROVOD_CUDA_HOME}/lib" -lcudart -lnccl)\n'
         '    list(APPEND CMAKE_BUILD_RPATH ' +
         ' '.join('"$ORIGIN/../../{}"'.format(os.path.dirname(library)) for library in LIBRARIES.values()) + ')\n'),
        ('        list(APPEND LINKER_LIBS ${NCCL_LIBRARIES})\n', ''),
    ],
    # TensorFlow 2.21 has this function no more. What it returned, a stream itself tells since 2.15 or earlier.
    os.path.join('horovod', 'tensorflow', 'mpi_ops.cc'): [
        ('GpuStreamHandle AsGpuStreamValue(Stream* stream);\n',
         'static GpuStreamHandle AsGpuStreamValue(Stream* stream);\n'),
        ('#include "tensorflow/compiler/xla/stream_executor/stream.h"\n',
         '#include "tensorflow/compiler/xla/stream_executor/stream.h"\n'
         'GpuStreamHandle stream_executor::gpu::AsGpuStreamValue(Stream* stream) {\n'
         '  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream);\n'
         '}\n'),
    ],
}


def missing(what):
    """The end, in one line, of a set-up in an environment that is not whole."""
    sys.exit('horovod_wheel: {0} lacks {1}, which comes with tensorflow[and-cuda]; type: rm -r {0}; make setup '
             'GPU=1'.format(sys.prefix, what))


def versions():
    """'nvidia-nccl-cu12-2.27.7 ...': the libraries that Horovod is built from."""
    found = []
    for name in LIBRARIES:
        try:
            found.append('{}-{}'.format(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            missing('the package ' + name)
    return ' '.join(found)


def make_toolkit(folder, site):
    """Links in an empty folder so that the wheels' headers and libraries lie as a CUDA toolkit's do.

    Args:
        folder (str): gets ``include`` and ``lib``.
        site (str): the site-packages in which the wheels are installed.
    """
    include, lib = os.path.join(folder, 'include'), os.path.join(folder, 'lib')
    os.makedirs(include)
    os.makedirs(lib)
    for headers in (os.path.join(site, headers) for headers in HEADERS):
        for entry in os.listdir(headers) if os.path.isdir(headers) else ():
            if not os.path.lexists(os.path.join(include, entry)):  # __init__.py is in many
                os.symlink(os.path.join(headers, entry), os.path.join(include, entry))
    for header in NEEDED_HEADERS:
        if not os.path.exists(os.path.join(include, header)):
            missing('the header ' + header)
    for library in LIBRARIES.values():
        if not os.path.exists(os.path.join(site, library)):
            missing(library)
        # The linker looks for libnccl.so; what it notes is the library's own name, libnccl.so.2.
        os.symlink(os.path.join(site, library), os.path.join(lib, os.path.basename(library).split('.so')[0] + '.so'))


def settings(folder):
    """Variables of Horovod's build, with the folder of `make_toolkit`."""
    return dict(HOROVOD_GPU_OPERATIONS='NCCL', HOROVOD_CUDA_HOME=folder, HOROVOD_NCCL_HOME=folder,
                HOROVOD_NCCL_LINK='shared')


def replace_kernels(source):
    """Put our files into Horovod's unpacked source in the place of those that need CUDA's compiler."""
    for name in os.listdir(REPLACEMENTS):
        shutil.copyfile(os.path.join(REPLACEMENTS, name), os.path.join(source, REPLACED, name))
