"""ConvNeXt: its model over ``convnext``, options and sizes, and what tells a network's size and stages."""
import re

from architectures.entry import Architecture, Identity
from architectures.model import ConfiguredModel
from architectures.pytorch import PyTorch
from architectures.stems import check_stem, whole
from convnext import network
from convnext.sizes import SIZES


def _plan(options):
    """The plan of options, a dict."""
    return SIZES[options['model_name']]._replace(
        blocks=whole(options['blocks']), widths=whole(options['widths']),
        patch_size=options.get('patch_size', SIZES[options['model_name']].patch_size))


class ConvNeXtModel(ConfiguredModel):
    """ConvNeXt of any size; ``options`` also has ``model_name``, ``blocks``, ``widths`` and ``patch_size``."""
    channels = 'RGB'
    input_scaling = 'unit'
    # Singh et al. 2023: all but biases, also the factors of layer norms and layer scales.
    weight_decay_variables = r'^(?!.*(bn|(/|^)bias|smoothrelu_beta))'

    def __init__(self, options, **given):
        super().__init__(options, **given)
        self.plan = _plan(vars(options))

    def network(self, image):
        # The first layer has the scaling in its weights.
        return network.convnext(image, self.plan, self.num_classes, self.style, self.input_scaling)


def _check(options):
    plan = _plan(vars(options))
    if len(plan.blocks) != len(plan.widths):
        raise ValueError('--blocks {} --widths {}: give one number for each stage'.format(
            options.blocks, options.widths))
    if plan.isotropic and len(plan.blocks) > 1:
        raise ValueError('--blocks {}: {} has one stage'.format(options.blocks, options.model_name))
    side = check_stem(options, plan, plan.widths[0])
    if not side >> (len(plan.blocks) - 1):
        raise ValueError('--input-size {}: too small for {} stages behind patches of {} (--patch-size)'.format(
            options.input_size, len(plan.blocks), plan.patch_size))


# What variables tell

# Number of the stage, and of the block; '' where there is one stage.
_STAGED = re.compile(r'stages/(\d+)/blocks/(\d+)/conv_dw/weight')
_ISOTROPIC = re.compile(r'()blocks/(\d+)/dwconv/weight')


def _tell(shapes):
    isotropic = 'blocks/0/dwconv/weight' in shapes
    pattern, kernel = (_ISOTROPIC, 'blocks/0/dwconv') if isotropic else (_STAGED, 'stages/{}/blocks/0/conv_dw')
    found = [tuple(int(number or 0) for number in match.groups())
             for match in map(pattern.fullmatch, shapes) if match]
    blocks = [sum(stage == each for stage, _ in found) for each in range(1 + max(stage for stage, _ in found))]
    widths = [shapes[kernel.format(stage) + '/weight'][2] for stage in range(len(blocks))]
    norms = [name for name in shapes if re.fullmatch(r'stem/stem/\d+/weight', name) and len(shapes[name]) == 1]
    _, classes = shapes['head/weight' if isotropic else 'head/fc/weight']
    told = {'blocks': ','.join(map(str, blocks)), 'widths': ','.join(map(str, widths))}
    names = [name for name, plan in SIZES.items() if plan.isotropic == isotropic
             and len(norms) == len(plan.stem.eighths if plan.stem else ())]
    # That of these stages; else the first with this stem.
    names.sort(key=lambda name: (SIZES[name].blocks, SIZES[name].widths) != (tuple(blocks), tuple(widths)))
    return {'model_name': names[0], **told, 'num_classes': classes} if names else None


def _same(options):
    """Stages and stem; of several sizes these may be the same."""
    return _plan(options)._replace(patch_size=None), options['num_classes']


def _details(options):
    plan, size = _plan(options), SIZES[options['model_name']]
    if (plan.blocks, plan.widths) == (size.blocks, size.widths):
        return []
    return ['stages of {} blocks and {} channels'.format(options['blocks'], options['widths'])]


# The table's entry

CONVNEXT = Architecture(
    ConvNeXtModel, 'revisiting-at', {'input_size': 224, 'num_classes': 1000, 'input_scaling': 'unit'},
    sizes={name: {'blocks': ','.join(map(str, plan.blocks)), 'widths': ','.join(map(str, plan.widths)),
                  'patch_size': plan.patch_size} for name, plan in SIZES.items()},
    check=_check, identity=Identity(('model_name', 'blocks', 'widths', 'num_classes'), _tell, _same, _details),
    augmentation='revisiting-at', activation='gelu_erf', classifier='head/(fc/)?(weight|bias)',
    pytorch=PyTorch(modules="timm's convnext, and Meta's of iso", depthwise=r'(conv_dw|dwconv)/weight$',
                    begins=r'(stem|stages|blocks|norm|head)\.', takes_image=r'^stem(/stem)?(/0)?/weight$'))
