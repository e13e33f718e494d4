"""Which network."""
import dataclasses
from typing import ClassVar, Optional

from files import typed
from settings import checks
from settings.fields import SWITCH, WORD, Served, option
from settings.modes import ATTACKED, EVERY, TRAINED

_COUNT = typed.whole(1, 1 << 20)  # layers, channels
_FACTOR = typed.number(1e-3, 1e3)


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network to build. What its kind has not is None, or off (``resolve.take_network``)."""
    GROUP: ClassVar[str] = 'architecture'

    depth: Optional[int] = option(
        ('-d', '--depth'), EVERY, 'number of layers: 50, 101 or 152; CifarResNet 8, 20, 32, 56 or 18 (default: {told})',
        default=None, check=int, unit='LAYERS', told='50; CifarResNet 20', fixes_run=True,
        decides_verdict=True, written=_COUNT)
    arch: str = option('--arch', EVERY, 'network (default: %(default)s)', default='ResNet', check='networks',
                       fixes_run=True, decides_verdict=True, written=WORD)
    model_name: Optional[str] = option(
        '--model-name', EVERY, "EfficientNet's size: {names} (default: {told})", default=None, check='sizes',
        unit='NAME', told='efficientnet-b0', fixes_run=True, decides_verdict=True, written=WORD)
    width_coefficient: Optional[float] = option(
        '--width-coefficient', EVERY, "of EfficientNet's channels (default: the size's)", default=None,
        check=checks.above_zero, unit='FACTOR', fixes_run=True, decides_verdict=True, written=_FACTOR)
    depth_coefficient: Optional[float] = option(
        '--depth-coefficient', EVERY, "of EfficientNet's repeats of a block (default: the size's)", default=None,
        check=checks.above_zero, unit='FACTOR', fixes_run=True, decides_verdict=True, written=_FACTOR)
    dropout_rate: Optional[float] = option(
        '--dropout-rate', TRAINED, "before EfficientNet's classifier, in training (default: the size's)", default=None,
        check=checks.below_one, unit='P', fixes_run=True)
    survival_prob: Optional[float] = option(
        '--survival-prob', TRAINED, "probability that EfficientNet's last block is kept for an image, in training "
        '(default: 0.8)', default=None, check=checks.chance, unit='P', fixes_run=True)
    input_scaling: Optional[str] = option(
        '--input-scaling', EVERY, "what EfficientNet takes: 'sat' is [-1, 1]; 'mean-std' standardised channels, for "
        'networks trained without an attack (default: sat)', default=None, check='input scalings', fixes_run=True,
        decides_verdict=True, written=WORD)
    res2_bottleneck: Optional[int] = option(
        '--res2-bottleneck', EVERY, "channels for each group in the first stage's 3x3 convolutions (default: 64; "
        'ResNeXtDenoiseAll 8)', default=None, check=checks.at_least(1), unit='CHANNELS', fixes_run=True,
        decides_verdict=True, written=_COUNT)
    group: Optional[int] = option(
        '--group', EVERY, 'groups of the 3x3 convolutions (default: 1; ResNeXtDenoiseAll 32)', default=None,
        check=checks.at_least(1), unit='N', fixes_run=True, decides_verdict=True, written=_COUNT)
    activation_name: str = option(
        '--activation-name', EVERY, 'one of {names}; NAME:ALPHA sets the alpha of parametric_softplus or celu '
        "(default: the recipe's)", check='activations', unit='NAME', fixes_run=True, decides_verdict=True, written=WORD)
    num_classes: int = option(
        '--num-classes', EVERY, '(default: 1000, CifarResNet 10; with a data set as many as it has class folders, 1000 '
        'for those of ImageNet)', check=checks.at_least(2), unit='N', fixes_run=True, decides_verdict=True,
        written=typed.whole(2, 1 << 20),
        served=Served('refuse labels from here on (default: the number of classes found; 1000 with --fake)',
                      check=checks.positive, unit='CLASSES'))
    padding: Optional[str] = option(
        '--padding', EVERY, "of strided convolutions: 'explicit' as the SAT release, 'same' as the Feature Denoising "
        "release (default: the recipe's)", default=None, check='paddings', fixes_run=True, decides_verdict=True,
        written=WORD)
    batch_norm_momentum: Optional[float] = option(
        '--batch-norm-momentum', TRAINED, "weight of batch norm's moving averages in their update (default: the "
        "recipe's, 0.9)", check=checks.below_one, unit='M', fixes_run=True)
    batch_norm_epsilon: Optional[float] = option(
        '--batch-norm-epsilon', EVERY, "added to batch norm's variance (default: the recipe's, 1e-5)",
        check=checks.above_zero, unit='EPSILON', fixes_run=True, decides_verdict=True, written=typed.number(1e-12, 1))
    sync_batch_norm: bool = option(
        '--sync-batch-norm', TRAINED, "in training, batch norm's statistics are those of all ranks' images together, "
        "not of each rank's own: for few images in a rank", default=False, late=True, check=SWITCH, fixes_run=True)
    recompute: bool = option(
        '--recompute', ATTACKED, "keep only the blocks' inputs for backward passes, and compute the blocks again "
        'there: less memory, about a third more time', default=False, check=SWITCH)
    data_format: Optional[str] = option(
        '--data-format', EVERY, 'layout of the graph (default: NCHW on a GPU, NHWC on a CPU)', default=None,
        check=('NHWC', 'NCHW'))
