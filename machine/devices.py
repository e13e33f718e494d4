"""What this machine's processors do best."""
from typing import NamedTuple, Optional

import tensorflow.compat.v1 as tf

from machine.processors import processor_kind


class Precisions(NamedTuple):
    """What a training computes in, by the options' names: under attack, and in the pass whose gradient the update
    takes."""
    attack_precision: str
    update_precision: str


# What is fastest at equal verdicts, by the kind of processor; measured in docs/performance.md.
FASTEST = {'amx': Precisions('bfloat16', 'bfloat16'), 'avx512_bf16': Precisions('bfloat16', 'bfloat16'),
           'other': Precisions('float32', 'float32')}
ON_GPUS = Precisions('float32', 'float32')  # as the releases' updates; 16 bits are measured there by XLA alone


def resolve_data_format(data_format: Optional[str]) -> str:
    """'NHWC' or 'NCHW' as given; for None the device's own: NCHW on a GPU, NHWC on a CPU."""
    if data_format:
        return data_format
    return 'NCHW' if tf.config.list_physical_devices('GPU') else 'NHWC'


def fastest_precisions() -> Precisions:
    """What a training is fastest in on this machine."""
    return ON_GPUS if tf.config.list_physical_devices('GPU') else FASTEST[processor_kind()]
