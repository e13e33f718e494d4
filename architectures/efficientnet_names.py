"""What timm calls the variables of EfficientNet: its networks ``tf_efficientnet_b0`` and so on.

There the blocks are numbered within the stages of EN Table 1, here from the first to the last and in a scope, which is
the size's name. SmoothReLU, which timm has not, is a module ``act`` that the activations of a block share, with ``b``.
"""
import dataclasses
import math
import re
from typing import Any, Callable

from architectures.pytorch import PyTorch, Shapes
from efficientnet import scaling

# As timm's are, which were trained without an attack (EN release).
_USUAL = {'activation_name': 'silu', 'batch_norm_epsilon': 1e-3, 'input_scaling': 'imagenet'}
_PADDING = "convolutions pad as TensorFlow's SAME, as of timm's networks those do that have tf_ in their names"
_BATCH_NORM = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}
_DEPTHWISE = 'depthwise_conv2d/depthwise_kernel'


def _norm(ours, theirs):
    return {'{}/{}'.format(ours, mine): '{}.{}'.format(theirs, other) for mine, other in _BATCH_NORM.items()}


def _with_bias(ours, theirs):
    return {ours + '/kernel': theirs + '.weight', ours + '/bias': theirs + '.bias'}


_OUTER = {'stem/conv2d/kernel': 'conv_stem.weight', **_norm('stem/tpu_batch_normalization', 'bn1'),
          'stem/smoothrelu_beta': 'bn1.act.b', 'head/conv2d/kernel': 'conv_head.weight',
          **_norm('head/tpu_batch_normalization', 'bn2'), 'head/smoothrelu_beta': 'bn2.act.b',
          **_with_bias('head/dense', 'classifier')}
# Within a block; one whose first convolution does not expand has the depthwise one before `conv_pw`, and no `conv_pwl`.
_IN_BLOCK = {_DEPTHWISE: 'conv_dw.weight', 'conv2d/kernel': 'conv_pw.weight', 'conv2d_1/kernel': 'conv_pwl.weight',
             **_norm('tpu_batch_normalization', 'bn1'), **_norm('tpu_batch_normalization_1', 'bn2'),
             **_norm('tpu_batch_normalization_2', 'bn3'), 'smoothrelu_beta': 'act.b',
             **_with_bias('se/conv2d', 'se.conv_reduce'), **_with_bias('se/conv2d_1', 'se.conv_expand'),
             'se/smoothrelu_beta': 'se.act1.b'}


def _places(depth):
    """(stage, place in it) of each block of a network whose repeats have the factor ``depth``."""
    return [(stage, place) for stage, row in enumerate(scaling.STAGES) for place in range(math.ceil(
        depth * row.repeats))]


@dataclasses.dataclass(frozen=True)
class _Names(PyTorch):
    """What a block is called follows from all variables together; ``tell`` is as of ``Identity``."""
    tell: Callable[[Shapes], Any] = lambda shapes: None

    def names(self, shapes):
        told = self.tell(shapes)
        scope, places, found = told['model_name'] + '/', _places(told['depth_coefficient']), {}
        for name in shapes:
            inner = name[len(scope):] if name.startswith(scope) else ''
            block = re.fullmatch(r'blocks_(\d+)/(.+)', inner)
            if block and block.group(2) in _IN_BLOCK and int(block.group(1)) < len(places):
                found[name] = 'blocks.{}.{}.'.format(*places[int(block.group(1))]) + _IN_BLOCK[block.group(2)]
            elif inner in _OUTER:
                found[name] = _OUTER[inner]
        return found

    def variables(self, shapes):
        blocks = {name: re.fullmatch(r'blocks\.(\d+)\.(\d+)\.(.+)', name) for name in shapes}
        places = sorted({(int(found.group(1)), int(found.group(2))) for found in blocks.values() if found})
        outer, inner = ({theirs: ours for ours, theirs in names.items()} for names in (_OUTER, _IN_BLOCK))
        found = {}
        for name, block in blocks.items():
            if block and block.group(3) in inner:
                number = places.index((int(block.group(1)), int(block.group(2))))
                found[name] = 'blocks_{}/{}'.format(number, inner[block.group(3)])
            elif name in outer:
                found[name] = outer[name]
        scope = self._size({variable: shapes[name] for name, variable in found.items()})
        return {name: '{}/{}'.format(scope, variable) for name, variable in found.items()}

    def _size(self, shapes):
        """The size whose own factors variables without a scope have, in PyTorch's shapes; else the first."""
        first = next(iter(scaling.SIZES))
        try:
            told = self.tell({'{}/{}'.format(first, name): self.shape(name, shape) for name, shape in shapes.items()})
        except (KeyError, ValueError):  # not all are there
            return first
        plan = told and scaling.plan(told['width_coefficient'], told['depth_coefficient'])
        return next((size for size, factors in scaling.SIZES.items() if scaling.plan(*factors[:2]) == plan), first)


def pytorch_names(tell):
    """The names of EfficientNets; ``tell``: as of ``Identity``."""
    return _Names(depthwise=_DEPTHWISE + '$', usual=_USUAL, tell=tell, modules="timm's tf_efficientnet",
                  paddings={None: _PADDING})
