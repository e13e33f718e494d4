"""Which network."""
import dataclasses
from typing import ClassVar, Optional

from files import typed
from settings import checks
from settings.fields import SWITCH, WORD, Served, option
from settings.modes import ATTACKED, EVERY, TRAINED

_COUNT = typed.whole(1, 1 << 20)  # layers, channels
_STAGES = typed.text(1000)  # numbers with commas between them
_FACTOR = typed.number(1e-3, 1e3)


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network to build. What its kind has not is None, or off (``resolve.take_network``)."""
    GROUP: ClassVar[str] = 'architecture'

    depth: Optional[int] = option(
        ('-d', '--depth'), EVERY, 'layers, of residual networks: 50, 101 or 152; CifarResNet 8, 20, 32, 56 or 18 '
        '(default: {told})', default=None, check=int, unit='LAYERS', fixes_run=True, decides_verdict=True,
        written=_COUNT,
        brief='layers, of residual networks: 50, 101, 152',
        called=('--layers', '--num-layers', '--resnet-size'))
    arch: str = option(
        '--arch', EVERY, 'network (default: %(default)s)', default='ResNet', check='networks', fixes_run=True,
        decides_verdict=True, written=WORD,
        brief='{names}',
        called=('-a', '--model', '--architecture', '--network', '--net', '--backbone'),
        meant={
            'resnet-?(50|101|152)': 'ResNet -d {0}', '(?:cifar-?)?resnet-?(8|18|20|32|56)': 'CifarResNet -d {0}',
            'resnext-?(50|101|152).*': 'ResNet -d {0} --group 32 --res2-bottleneck 4',
            '(?:tf-)?(?:efficientnet|effnet)-?(b[0-7])(?:-.*)?': 'EfficientNet --model-name efficientnet-{0}',
            'convnext-?([tsbl])[a-z]*(?:-.*)?': 'ConvNeXt --model-name convnext-{0}',
            '(?:vit|deit)-?([smb])[a-z]*(?:-.*)?': 'ViT --model-name vit-{0}'})
    model_name: Optional[str] = option(
        '--model-name', EVERY, 'size of a network that has sizes: {names} (default: {told})', default=None,
        check='sizes', unit='NAME', fixes_run=True, decides_verdict=True, written=WORD,
        brief='size of EfficientNet, ConvNeXt or ViT, as vit-s',
        called=('--variant', '--model-size'),
        meant={'(b[0-8])': 'efficientnet-{0}', '(?:tf-)?(?:efficientnet|effnet)-?(b[0-8])-.*': 'efficientnet-{0}',
               '(?:convnext-?)?tiny': 'convnext-t'})
    blocks: Optional[str] = option(
        '--blocks', EVERY, "of each stage of a ConvNeXt, as 3,3,9,3; of a ViT, as 12 (default: the size's)",
        default=None, check=checks.of_each_stage, unit='N,N', fixes_run=True, decides_verdict=True, written=_STAGES)
    widths: Optional[str] = option(
        '--widths', EVERY, "channels of each stage of a ConvNeXt, as 96,192,384,768; of a ViT's tokens, as 384 "
        "(default: the size's)", default=None, check=checks.of_each_stage, unit='N,N', fixes_run=True,
        decides_verdict=True, written=_STAGES)
    heads: Optional[int] = option(
        '--heads', EVERY, "of a ViT's attention (default: the size's)", default=None, check=checks.at_least(1),
        unit='N', fixes_run=True, decides_verdict=True, written=_COUNT)
    patch_size: Optional[int] = option(
        '--patch-size', EVERY, 'pixels along a side that the stem of a ConvNeXt or ViT makes one position of, by its '
        "stride or its convolutions' strides together: 1, 2 or 4 for images of 32 pixels (default: the size's)",
        default=None, check=checks.at_least(1), unit='PIXELS', fixes_run=True, decides_verdict=True, written=_COUNT)
    width_coefficient: Optional[float] = option(
        '--width-coefficient', EVERY, "of EfficientNet's channels (default: the size's)", default=None,
        check=checks.above_zero, unit='FACTOR', fixes_run=True, decides_verdict=True, written=_FACTOR)
    depth_coefficient: Optional[float] = option(
        '--depth-coefficient', EVERY, "of EfficientNet's repeats of a block (default: the size's)", default=None,
        check=checks.above_zero, unit='FACTOR', fixes_run=True, decides_verdict=True, written=_FACTOR)
    dropout_rate: Optional[float] = option(
        '--dropout-rate', TRAINED, "before EfficientNet's classifier, in training (default: the size's)", default=None,
        check=checks.below_one, unit='P', fixes_run=True,
        called=('--dropout', '--drop', '--drop-rate'))
    survival_prob: Optional[float] = option(
        '--survival-prob', TRAINED, "probability that EfficientNet's last block is kept for an image, in training "
        '(default: 0.8)', default=None, check=checks.chance, unit='P', fixes_run=True,
        called=('--drop-path', '--drop-connect', '--stochastic-depth'))
    input_scaling: Optional[str] = option(
        '--input-scaling', EVERY, "what the weights take: 'sat' [-1, 1], of residual networks in BGR; 'unit' RGB in "
        "[0, 1]; 'imagenet' that less ImageNet's mean, by its deviation, as torchvision; 'mean-std' the same, by the "
        'name that EfficientNet has for it (default: sat; ConvNeXt and ViT unit)', default=None, check='input scalings',
        fixes_run=True, decides_verdict=True, written=WORD,
        called=('--normalization', '--normalize', '--normalise', '--mean', '--std'))
    res2_bottleneck: Optional[int] = option(
        '--res2-bottleneck', EVERY, "channels for each group in the first stage's 3x3 convolutions (default: 64; "
        'ResNeXtDenoiseAll 8)', default=None, check=checks.at_least(1), unit='CHANNELS', fixes_run=True,
        decides_verdict=True, written=_COUNT)
    group: Optional[int] = option(
        '--group', EVERY, 'groups of the 3x3 convolutions (default: 1; ResNeXtDenoiseAll 32)', default=None,
        check=checks.at_least(1), unit='N', fixes_run=True, decides_verdict=True, written=_COUNT)
    activation_name: str = option(
        '--activation-name', EVERY, 'one of {names}; NAME:ALPHA sets the alpha of parametric_softplus or celu '
        "(default: the recipe's)", check='activations', unit='NAME', fixes_run=True, decides_verdict=True, written=WORD,
        brief='silu, relu, gelu, ...',
        called=('--activation', '--act', '--act-layer', '--nonlinearity'),
        meant={'swish-?.*|sil': 'silu', 'gelu-tanh': 'gelu', 'gelu-(?:exact|none)': 'gelu_erf',
               'smooth-relu': 'smoothrelu', 'psoftplus|psp': 'parametric_softplus'})
    num_classes: int = option(
        '--num-classes', EVERY, '(default: 1000, CifarResNet 10; with a data set as many as it has class folders, 1000 '
        'for those of ImageNet)', check=checks.at_least(2), unit='N', fixes_run=True, decides_verdict=True,
        written=typed.whole(2, 1 << 20),
        served=Served('refuse labels from here on (default: the number of classes found; 1000 with --fake)',
                      check=checks.positive, unit='CLASSES'),
        called=('--classes', '--nb-classes', '--n-classes', '--num-class', '--num-label-classes'))
    padding: Optional[str] = option(
        '--padding', EVERY, "of strided convolutions: 'explicit' as the SAT release, 'same' as the Feature Denoising "
        "release; 'symmetric' as torchvision, of the max-pooling too (default: the recipe's)", default=None,
        check='paddings', fixes_run=True, decides_verdict=True, written=WORD)
    batch_norm_momentum: Optional[float] = option(
        '--batch-norm-momentum', TRAINED, "weight of batch norm's moving averages in their update (default: the "
        "recipe's, 0.9)", check=checks.below_one, unit='M', fixes_run=True)
    batch_norm_epsilon: Optional[float] = option(
        '--batch-norm-epsilon', EVERY, "added to batch norm's variance (default: the recipe's, 1e-5)",
        check=checks.above_zero, unit='EPSILON', fixes_run=True, decides_verdict=True, written=typed.number(1e-12, 1))
    sync_batch_norm: bool = option(
        '--sync-batch-norm', TRAINED, "in training, batch norm's statistics are those of all ranks' images together, "
        "not of each rank's own: for few images in a rank", default=False, late=True, check=SWITCH, fixes_run=True,
        called=('--sync-bn', '--syncbn'))
    recompute: bool = option(
        '--recompute', ATTACKED, "keep only the blocks' inputs for backward passes, and compute the blocks again "
        'there: less memory, about a third more time', default=False, check=SWITCH,
        called=('--grad-checkpointing', '--gradient-checkpointing', '--checkpointing'))
    data_format: Optional[str] = option(
        '--data-format', EVERY, 'layout of the graph (default: NCHW on a GPU, NHWC on a CPU)', default=None,
        check=('NHWC', 'NCHW'))
