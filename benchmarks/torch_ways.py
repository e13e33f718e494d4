"""In which ways PyTorch is timed: flags of torch_loop.py, an attack, and of torch_step.py, a step of training."""
import os
from typing import List, NamedTuple, Optional

from ranks.cores import threads_for
from ranks.launched import Ranks

HERE = os.path.dirname(os.path.abspath(__file__))
PREFIX = 'PyTorch, '  # of what its ways are called
_PRECISIONS = {'float32': [], 'bfloat16 autocast': ['--precision', 'bfloat16']}
_CAST = {'bfloat16': ['--precision', 'bfloat16', '--cast']}
_COMPILED = {'': [], ', compiled': ['--compile']}


def _each(first, then):
    return {name + more: flags + extra for name, flags in first.items() for more, extra in then.items()}


# Of the attack; batch norm is there to be folded.
LOOPS = {**_each({'float32': []}, {'': [], ', folded': ['--fold'], ', folded, compiled': ['--fold', '--compile']}),
         **_each({'bfloat16 autocast': _PRECISIONS['bfloat16 autocast']}, {'': [], ', folded': ['--fold']}),
         **_each({'bfloat16, folded': _CAST['bfloat16'] + ['--fold']}, _COMPILED)}
LOOPS_UNNORMED = _each({**_PRECISIONS, **_CAST}, _COMPILED)
# Of a step, whose weights are float32. The attack may be on a copy of the network, made in each step.
STEPS = _each(_each(_PRECISIONS, {'': [], ', folded copy': ['--copy']}), _COMPILED)
STEPS_UNNORMED = _each({**_PRECISIONS, 'bfloat16 autocast, bfloat16 copy':
                        _PRECISIONS['bfloat16 autocast'] + ['--copy']}, _COMPILED)


class Network(NamedTuple):
    """flags: of the programs. normed: whether it has batch norm. attack_steps: of its recipe's attack, where that has
    a fixed number of them."""
    flags: List[str]
    normed: bool
    attack_steps: Optional[int] = None

    @property
    def steps(self):
        return STEPS if self.normed else STEPS_UNNORMED


def _tokens(**names):
    """By the names of --model-name and timm's, each also with its convolutional stem."""
    return {name.replace('_', '-') + stem: Network(['--network', timm, *['--conv-stem'] * bool(stem)], False, 2)
            for name, timm in names.items() for stem in ('', '-cvst')}


# By --arch, then by --depth or --model-name.
NETWORKS = {
    'ResNet': {'50': Network([], True)},
    'EfficientNet': {'efficientnet-b0': Network(['--network', 'efficientnet_b0'], True)},
    'ConvNeXt': _tokens(convnext_t='convnext_tiny', convnext_s='convnext_small', convnext_b='convnext_base',
                        convnext_l='convnext_large'),
    'ViT': _tokens(vit_s='vit_small_patch16_224', vit_m='deit3_medium_patch16_224', vit_b='vit_base_patch16_224')}


def commands(program, flags, torch_python, ways):
    """{name: command} of PyTorch's ways, on as many threads as this program's; ``ways``: {name: flags}."""
    theirs = [torch_python, os.path.join(HERE, program), '--threads', str(threads_for(Ranks())), *flags]
    return {PREFIX + name: theirs + way for name, way in ways.items()}
