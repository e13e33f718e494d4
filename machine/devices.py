"""What this machine's processors do best."""
from typing import Optional

import tensorflow.compat.v1 as tf

CPU_INFO = '/proc/cpuinfo'


def resolve_data_format(data_format: Optional[str]) -> str:
    """'NHWC' or 'NCHW' as given; for None the device's own: NCHW on a GPU, NHWC on a CPU."""
    if data_format:
        return data_format
    return 'NCHW' if tf.config.list_physical_devices('GPU') else 'NHWC'


def fast_precision() -> str:
    """What an attack is fastest in: 'bfloat16' on a CPU that multiplies matrices of it (Intel's AMX), else
    'float32'."""
    if tf.config.list_physical_devices('GPU'):
        return 'float32'
    try:
        with open(CPU_INFO) as f:
            has_units = any(line.startswith('flags') and 'amx_bf16' in line.split() for line in f)
    except OSError:  # another system than Linux
        has_units = False
    return 'bfloat16' if has_units else 'float32'
