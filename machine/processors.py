"""This machine's processor: what it is, and what it is fast in."""
import os
from typing import Dict

CPU_INFO = '/proc/cpuinfo'
UNKNOWN = 'an unknown processor'


def _fields() -> Dict[str, str]:
    """What the system says of the first processor; nothing on another one than Linux."""
    if not os.path.exists(CPU_INFO):
        return {}
    with open(CPU_INFO) as f:
        pairs = [line.split(':', 1) for line in f.read().split('\n\n')[0].split('\n') if ':' in line]
    return {name.strip(): value.strip() for name, value in pairs}


def processor_name() -> str:
    """The processor as it calls itself. Many leave out which of a maker's it is, so also by family and model."""
    fields = _fields()
    parts = [fields.get('model name', UNKNOWN)]
    parts += ['{} {}'.format(word, fields[key]) for word, key in (('family', 'cpu family'), ('model', 'model'))
              if key in fields]
    return ', '.join(parts)


def processor_kind() -> str:
    """The kind of this machine's processor, of those whose speeds of float32 and bfloat16 differ.

    Returns:
        str: 'amx' with units that multiply matrices of bfloat16 (Intel's AMX); 'avx512_bf16' with vectors of it
        alone; 'other'.
    """
    known = _fields().get('flags', '').split()
    return 'amx' if 'amx_bf16' in known else 'avx512_bf16' if 'avx512_bf16' in known else 'other'


def processor_generation() -> str:
    """The kind and the family of this machine's processor: ratios of one kind differ between a maker's generations.

    Returns:
        str: 'avx512_bf16-family-25' of AMD's Zen 4, 'avx512_bf16-family-26' of its Zen 5; the kind alone where the
        system tells no family (on another processor than x86).
    """
    family = _fields().get('cpu family')
    return processor_kind() + ('-family-' + family if family else '')
