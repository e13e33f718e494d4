"""What this machine's processors do best."""
from typing import Optional

import tensorflow.compat.v1 as tf

CPU_INFO = '/proc/cpuinfo'


def resolve_data_format(data_format: Optional[str]) -> str:
    """'NHWC' or 'NCHW' as given; for None the device's own: NCHW on a GPU, NHWC on a CPU."""
    if data_format:
        return data_format
    return 'NCHW' if tf.config.list_physical_devices('GPU') else 'NHWC'


def processor() -> str:
    """The kind of this machine's processor, of those whose speeds of float32 and bfloat16 differ.

    Returns:
        str: 'amx' with units that multiply matrices of bfloat16 (Intel's AMX); 'avx512_bf16' with vectors of it
        alone; 'other'.
    """
    try:
        with open(CPU_INFO) as f:
            known = {word for line in f if line.startswith('flags') for word in line.split()}
    except OSError:  # another system than Linux
        known = set()
    return 'amx' if 'amx_bf16' in known else 'avx512_bf16' if 'avx512_bf16' in known else 'other'


def fast_precision() -> str:
    """What an attack is fastest in: 'bfloat16' on a CPU that multiplies matrices of it (Intel's AMX), else
    'float32'."""
    if tf.config.list_physical_devices('GPU'):
        return 'float32'
    return 'bfloat16' if processor() == 'amx' else 'float32'
