"""Vision transformers: their model over ``vit``, options and sizes, and what tells a network's size."""
import re

from architectures.entry import Architecture, Identity
from architectures.model import ConfiguredModel
from architectures.pytorch import PyTorch
from architectures.stems import check_stem, whole
from vit import network
from vit.positions import resized
from vit.sizes import SIZES


def _plan(options):
    """The plan of options, a dict."""
    size = SIZES[options['model_name']]
    return size._replace(blocks=int(options['blocks']), width=int(options['widths']),
                         heads=options.get('heads', size.heads), patch_size=options.get('patch_size', size.patch_size))


class ViTModel(ConfiguredModel):
    """Vision transformer of any size; ``options`` also has ``model_name``, ``blocks``, ``widths``, ``heads`` and
    ``patch_size``."""
    channels = 'RGB'
    input_scaling = 'unit'
    # Singh et al. 2023: what has more than one dimension, the class token and the position embedding too.
    weight_decay_variables = r'^(?!.*(bias$|norm\d?/weight$|/stem/(1|4|7|10)/weight$|gamma$|smoothrelu_beta))'

    def __init__(self, options, **given):
        super().__init__(options, **given)
        self.plan = _plan(vars(options))

    def network(self, image):
        # The first layer has the scaling in its weights.
        return network.vit(image, self.plan, self.num_classes, self.style, self.input_scaling)


def _check(options):
    for flag, text in ('--blocks', options.blocks), ('--widths', options.widths):
        if len(whole(text)) > 1:
            raise ValueError('{} {}: {} has one stage'.format(flag, text, options.model_name))
    plan = _plan(vars(options))
    if plan.width % plan.heads:
        raise ValueError('--heads {}: --widths {} is no multiple of it'.format(plan.heads, plan.width))
    check_stem(options, plan, plan.width)
    if options.input_size % plan.patch_size:
        raise ValueError('--input-size {}: no multiple of --patch-size {}'.format(options.input_size, plan.patch_size))


def _adapt(name, value, shape):
    return resized(value, shape[1]) if name == 'pos_embed' and value.shape[2:] == shape[2:] else None


# What variables tell

_BLOCK = re.compile(r'blocks/(\d+)/attn/qkv/weight')


def _tell(shapes):
    width, later_class = shapes['cls_token'][2], 'blocks/0/ls1/gamma' in shapes
    blocks = len([name for name in shapes if _BLOCK.fullmatch(name)])
    _, classes = shapes['head/weight']
    plain = 'patch_embed/proj/weight' in shapes
    names = [name for name, plan in SIZES.items() if (plan.later_class, plan.stem is None) == (later_class, plain)]
    # That of this size; else the first of its kind.
    names.sort(key=lambda name: (SIZES[name].blocks, SIZES[name].width) != (blocks, width))
    return {'model_name': names[0], 'blocks': str(blocks), 'widths': str(width), 'num_classes': classes}


def _same(options):
    """Several sizes are of one kind."""
    return _plan(options)._replace(heads=None, patch_size=None), options['num_classes']


def _details(options):
    plan, size = _plan(options), SIZES[options['model_name']]
    if (plan.blocks, plan.width) == (size.blocks, size.width):
        return []
    return ['{} blocks of {} channels'.format(plan.blocks, plan.width)]


# The table's entry

VIT = Architecture(
    ViTModel, 'revisiting-at', {'input_size': 224, 'num_classes': 1000, 'input_scaling': 'unit'},
    sizes={name: {'blocks': str(plan.blocks), 'widths': str(plan.width), 'heads': plan.heads,
                  'patch_size': plan.patch_size} for name, plan in SIZES.items()},
    check=_check, identity=Identity(('model_name', 'blocks', 'widths', 'num_classes'), _tell, _same, _details),
    augmentation='revisiting-at', activation='gelu_erf', adapt=_adapt, classifier='head/(weight|bias)',
    pytorch=PyTorch(modules="timm's vision_transformer",
                    begins=r'(cls_token|pos_embed)$|(patch_embed|blocks|norm|head)\.',
                    takes_image=r'^patch_embed/proj(/stem/0)?/weight$'))
