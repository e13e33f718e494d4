"""GPUs: which ones a process sees, which one each rank takes, and what float32 means on them."""
import collections
import contextlib
import ctypes
import os
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from machine import programs

DRIVER = 'libcuda.so.1'


def visible() -> List[str]:
    """Names that no two GPUs in the world share, of those that this process sees, in CUDA's order.

    CUDA_VISIBLE_DEVICES tells less: under Slurm it is '0' in every rank that has one GPU to itself. No GPU is set to
    work by this.

    Returns:
        list of str: empty where TensorFlow uses none.
    Raises:
        OSError: CUDA's driver does not answer.
    """
    import tensorflow.compat.v1 as tf
    if not tf.config.list_physical_devices('GPU'):
        return []
    driver, count, device = ctypes.CDLL(DRIVER), ctypes.c_int(), ctypes.c_int()

    def call(name: str, *arguments: Any) -> None:
        error = getattr(driver, name)(*arguments)
        if error:
            raise OSError("CUDA's driver: {} fails with error {}".format(name, error))
    call('cuInit', 0)
    call('cuDeviceGetCount', ctypes.byref(count))
    found = []
    for number in range(count.value):
        name = ctypes.create_string_buffer(16)
        call('cuDeviceGet', ctypes.byref(device), number)
        call('cuDeviceGetUuid_v2', name, device)  # of a part of a GPU (MIG) the part's own
        found.append(name.raw.hex())
    return found


def share_out(seen: Sequence[List[str]]) -> List[int]:
    """Which GPU each rank takes: ranks that see the same ones take one after another, all others the first they see.

    Args:
        seen (list of lists of str): what ``visible`` returned in each rank.
    Returns:
        list of int: for each rank a place in its list; 0 where no rank sees any.
    Raises:
        ValueError: a rank would have none to itself; says what to type.
    """
    taken: Dict[Tuple[str, ...], int] = collections.Counter()
    places = []
    for alike in map(tuple, seen):
        places.append(taken[alike])
        taken[alike] += 1
    if not any(seen):
        return [0] * len(seen)
    if [] in seen:
        raise ValueError('rank {} sees no GPU, and rank {} sees {}: give each rank one, or hide them from all by '
                         'CUDA_VISIBLE_DEVICES= to compute on CPUs'.format(
                             seen.index([]), *next((rank, len(gpus)) for rank, gpus in enumerate(seen) if gpus)))
    owners: Dict[str, int] = {}
    for rank, (gpus, place) in enumerate(zip(seen, places)):
        if place >= len(gpus) or owners.setdefault(gpus[place], rank) != rank:
            raise ValueError(_too_many_ranks(seen, gpus))
    return places


def _too_many_ranks(seen: Sequence[List[str]], some: Sequence[str]) -> str:
    """Why the ranks that see ``some`` of the GPUs cannot have one each, and the command that starts fewer."""
    beside = [gpus for gpus in seen if set(gpus) & set(some)]
    here, everywhere = (len({name for gpus in lists for name in gpus}) for lists in (beside, seen))
    per_machine = '' if here == everywhere else '-map-by ppr:{}:node '.format(here)
    return '{} ranks of one machine see {} GPU{}, and each rank needs its own: mpirun -np {} {}{}'.format(
        len(beside), here, 's' * (here > 1), everywhere, per_machine, programs.to_type())


@contextlib.contextmanager
def tensor_float_32(enabled: bool) -> Iterator[None]:
    """Whether GPUs since Ampere may meanwhile compute convolutions and products of float32 in TF32: 10 bits of 23.

    TensorFlow looks at this, which is the whole process's, where an operation starts. But it keeps the plan of a
    convolution or product, TF32 or not, by the operation's shapes alone (ConvParameters, BlasLtMatmulPlanParams): what
    has run one way goes on so. Who changes it while a process computes must give batches of another size as well.
    """
    import tensorflow.compat.v1 as tf
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(enabled)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def check_override(tf32: bool) -> None:
    """Refuse an environment that makes NVIDIA's libraries do something else than asked for.

    Args:
        tf32 (bool): whether training is to compute in TF32.
    Raises:
        ValueError: names the variable.
    """
    import tensorflow.compat.v1 as tf
    override = os.environ.get('NVIDIA_TF32_OVERRIDE', '')
    if not override or not tf.config.list_physical_devices('GPU'):
        return
    if override != '0':
        raise ValueError('NVIDIA_TF32_OVERRIDE={}: verdicts could be computed in TF32 instead of float32; unset '
                         'it'.format(override))
    if tf32:
        raise ValueError('--tf32: NVIDIA_TF32_OVERRIDE=0 forbids it; leave out one of them')
