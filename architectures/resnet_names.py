"""What torchvision and timm call the variables of residual networks.

What they have not is named as they would: a module ``denoise`` at the end of ``layer1`` or of its blocks, and the
parameter ``b`` of an activation.
"""
import re

from architectures.pytorch import PyTorch

# As torchvision's and RobustBench's are: He et al.'s activation, k // 2 on all sides, the images normalised.
_USUAL = {'activation_name': 'relu', 'padding': 'symmetric', 'batch_norm_epsilon': 1e-5, 'input_scaling': 'imagenet'}
_SAME = "as TensorFlow's SAME, at even sizes less before than behind, where torchvision pads k // 2 on all sides"
# Without and with the max-pooling of networks for ImageNet.
_PADDINGS = ({'same': 'convolutions with a stride pad ' + _SAME},
             {'same': 'convolutions with a stride and max-pooling pad ' + _SAME,
              'explicit': "max-pooling pads as TensorFlow's SAME, at even sizes 0 before and 1 behind, where "
                          "torchvision's pads 1 on all sides"})
_BATCH_NORM = {'gamma': 'weight', 'beta': 'bias', 'mean/EMA': 'running_mean', 'variance/EMA': 'running_var'}


def _layer(name, convolution, norm=None, activation=None):
    """{end of a variable's name: end of PyTorch's} of a convolution with what is behind it."""
    return {name + '/W': convolution + '.weight',
            **{'{}/bn/{}'.format(name, ours): '{}.{}'.format(norm, theirs)
               for ours, theirs in _BATCH_NORM.items() if norm},
            **({name + '/smoothrelu_beta': activation + '.b'} if activation else {})}


_OUTER = {**_layer('conv0', 'conv1', 'bn1', 'act1'), 'linear/W': 'fc.weight', 'linear/b': 'fc.bias'}
_IN_DENOISING = {**_layer('embedding_theta', 'theta'), **_layer('embedding_phi', 'phi'), **_layer('conv', 'conv', 'bn')}


def _in_block(convolutions):
    """As ``_layer``, of a residual block; its last activation is that of the sum."""
    names = {**_layer('convshortcut', 'downsample.0', 'downsample.1'),
             **_layer('non_local/conv', 'denoise.conv', 'denoise.bn'),
             'smoothrelu_beta': 'act{}.b'.format(convolutions)}
    for number in range(1, convolutions + 1):
        names.update(_layer('conv{}'.format(number), 'conv{}'.format(number), 'bn{}'.format(number),
                            'act{}'.format(number) if number < convolutions else None))
    return names


def _renamed(name, numbered, names):
    """A name in the other's naming, '' for one that it has not.

    Args:
        numbered: in turn a pattern of the name's beginning, how the other's begins, what to add to the group's number,
            and the ends that may follow.
        names (dict): of names without a number.
    """
    for pattern, beginning, add, ends in numbered:
        found = re.fullmatch(pattern + '(.+)', name)
        if found and found.groups()[-1] in ends:
            group, *block, end = found.groups()
            return beginning.format(int(group) + add, *block) + ends[end]
    return names.get(name, '')


def _back(names):
    return {theirs: ours for ours, theirs in names.items()}


def pytorch_names(convolutions, pooled):
    """The names of networks whose blocks have so many convolutions; ``pooled``: with a max-pooling before them."""
    in_block = _in_block(convolutions)
    numbered = ((r'group(\d+)/block(\d+)/', 'layer{}.{}.', 1, in_block),
                (r'group(\d+)_denoise/', 'layer{}.denoise.', 1, _IN_DENOISING))
    back = ((r'layer([1-9]\d*)\.(\d+)\.', 'group{}/block{}/', -1, _back(in_block)),
            (r'layer([1-9]\d*)\.denoise\.', 'group{}_denoise/', -1, _back(_IN_DENOISING)))
    return PyTorch(name=lambda name: _renamed(name, numbered, _OUTER),
                   variable=lambda name: _renamed(name, back, _back(_OUTER)), takes_image='^conv0/W$', usual=_USUAL,
                   modules="torchvision's and timm's resnet", paddings=_PADDINGS[pooled])
