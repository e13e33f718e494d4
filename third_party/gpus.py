"""GPUs: which ones a process sees, and which one each rank takes."""
import collections
import ctypes
import shlex
import sys

DRIVER = 'libcuda.so.1'


def visible():
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

    def call(name, *arguments):
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


def share_out(seen):
    """Which GPU each rank takes: ranks that see the same ones take one after another, all others the first they see.

    Args:
        seen (list of lists of str): what ``visible`` returned in each rank.
    Returns:
        list of int: for each rank a place in its list; 0 where no rank sees any.
    Raises:
        ValueError: a rank would have none to itself; says what to type.
    """
    taken, places = collections.Counter(), []
    for gpus in map(tuple, seen):
        places.append(taken[gpus])
        taken[gpus] += 1
    if not any(seen):
        return [0] * len(seen)
    if [] in seen:
        raise ValueError('rank {} sees no GPU, and rank {} sees {}: give each rank one, or hide them from all by '
                         'CUDA_VISIBLE_DEVICES= to compute on CPUs'.format(
                             seen.index([]), *next((rank, len(gpus)) for rank, gpus in enumerate(seen) if gpus)))
    owners = {}
    for rank, (gpus, place) in enumerate(zip(seen, places)):
        if place >= len(gpus) or owners.setdefault(gpus[place], rank) != rank:
            raise ValueError(_too_many_ranks(seen, gpus))
    return places


def _too_many_ranks(seen, some):
    """Why the ranks that see ``some`` of the GPUs cannot have one each, and the command that starts fewer."""
    beside = [gpus for gpus in seen if set(gpus) & set(some)]
    here, everywhere = (len({name for gpus in lists for name in gpus}) for lists in (beside, seen))
    per_machine = '' if here == everywhere else '-map-by ppr:{}:node '.format(here)
    return '{} ranks of one machine see {} GPU{}, and each rank needs its own: mpirun -np {} {}python {}'.format(
        len(beside), here, 's' * (here > 1), everywhere, per_machine, ' '.join(map(shlex.quote, sys.argv)))
