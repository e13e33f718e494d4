"""How the weights are changed, and how far."""
import dataclasses
from typing import ClassVar, Optional, Tuple

from settings import checks
from settings.fields import SWITCH, option
from settings.modes import TRAINED


@dataclasses.dataclass(frozen=True)
class Update:
    """One step: what becomes of its batch before the attack, its loss, and what becomes of the gradient."""
    GROUP: ClassVar[str] = 'update'

    mixup: float = option(
        '--mixup', TRAINED, 'mix each image and label with those of another of the batch, in parts drawn from the beta '
        "distribution of this A and A; 0 for never. Beside --cutmix one draw decides for a batch (default: the "
        "recipe's, 0 or 0.8)", default=0.0, check=checks.at_least(0.0, float), unit='A', fixes_run=True)
    cutmix: float = option(
        '--cutmix', TRAINED, "replace a rectangle of each image by that of another one, and as much of its label "
        "(default: the recipe's, 0 or 1)", default=0.0, check=checks.at_least(0.0, float), unit='A', fixes_run=True)
    random_erasing: float = option(
        '--random-erasing', TRAINED, 'probability that noise replaces a rectangle of an image, before images are mixed '
        "(default: the recipe's, 0 or 0.25)", default=0.0, check=checks.probability, unit='P', fixes_run=True,
        called=('--reprob', '--erasing', '--cutout'))
    update_gradient: Optional[str] = option(
        '--update-gradient', TRAINED, "activation whose derivative the update's gradient takes (default: the network's "
        'own)', default=None, check='slopes', unit='NAME', fixes_run=True)
    precision: Optional[str] = option(
        '--update-precision', TRAINED, "what the network computes in where its weights' gradients are computed; "
        'weights, their gradients, batch statistics and the loss stay float32 (default, whatever --attack-precision '
        "is: bfloat16 where all ranks are on CPUs that are faster in it, else float32; with --resume the run's own)",
        default=None, check='precisions', fixes_run=True,
        meant={'fp16|half': 'float16', 'bf16': 'bfloat16', 'fp32|full': 'float32'})
    label_smoothing: float = option(
        '--label-smoothing', TRAINED, "of the labels that are mixed, else in the loss (default: the recipe's, "
        '0.1 or 0)', check=checks.probability, unit='S', fixes_run=True,
        called=('--smoothing',))
    optimizer: str = option(
        '--optimizer', TRAINED, "(default: the recipe's)", check='optimizers', fixes_run=True,
        called=('--opt', '--optim', '--optimiser'),
        meant={'sgd|nesterov': 'momentum', 'adam': 'adamw', 'rmsprop-?tf': 'rmsprop'})
    classifier_rate: Optional[float] = option(
        '--classifier-rate', TRAINED, "learning rate of the network's last layer, as a factor of the others' (default: "
        'that of the others)', default=None, check=checks.above_zero, unit='FACTOR', fixes_run=True,
        called=('--head-lr', '--classifier-lr', '--lr-head'))
    freeze: Optional[str] = option(
        '--freeze', TRAINED, 'variables in whose names this regular expression is found are not trained; a batch norm '
        'whose factor and offset it finds keeps its statistics, too', default=None, check=checks.regular_expression,
        unit='REGEX', fixes_run=True)
    freeze_until: Optional[str] = option(
        '--freeze-until', TRAINED, "likewise all variables from the network's first layer to this one, which is named "
        'by the beginning of its variables: group1, group1/block0, blocks_3, stages/2; beside --freeze, both',
        default=None, unit='LAYER', fixes_run=True,
        called=('--freeze-layers', '--freeze-backbone'))
    accumulate: int = option(
        '--accumulate', TRAINED,
        "compute a step's gradient in K parts of batch / K images, one after another: the memory of one part; each has "
        'its own batch statistics (default: %(default)s)', default=1, check=checks.at_least(1), unit='K',
        fixes_run=True,
        called=(
            '--accum', '--grad-accum', '--grad-accum-steps', '--gradient-accumulation', '--accumulation-steps',
            '--update-freq'))
    gradient_compression: str = option(
        '--gradient-compression', TRAINED,
        'of the gradients that several ranks exchange: fp16 sends half the bytes, rounded to float16 (default: '
        '%(default)s)', default='none', check=('none', 'fp16'), fixes_run=True)
    tf32: bool = option(
        '--tf32', TRAINED,
        'let GPUs since Ampere train in TF32, which keeps 10 of the 23 bits of what float32 convolutions and products '
        'read; evaluations never do (default: float32 is float32)', default=False, check=SWITCH, fixes_run=True)
    weight_decay: float = option(
        '--weight-decay', TRAINED,
        'factor of half the sum of the squared weights; of adamw, of the rate, the part of the weights that a step '
        "takes away (default: the recipe's, 1e-4, 1e-5, 5e-4 or 0.05)",
        check=checks.at_least(0.0, float), unit='W', fixes_run=True,
        called=('--wd', '--decay'))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How many steps, and the learning rate of each."""
    GROUP: ClassVar[str] = 'update'

    base_lr: float = option(
        '--base-lr', TRAINED, 'learning rate, see --lr-scaling (default: the '
        "recipe's, 0.1, 0.016, 0.01 or 0.001)", check=checks.at_least(0.0, float), unit='RATE', fixes_run=True,
        brief="learning rate (default: the recipe's)",
        called=('--lr', '--learning-rate', '--lr-max', '--max-lr', '--init-lr', '--lr0'))
    lr_scaling: str = option(
        '--lr-scaling', TRAINED, "linear: --base-lr is that for 256 images in a step, and grows with them; none: it is "
        "that of any number (default: the recipe's)", check=('linear', 'none'), fixes_run=True)
    warmup_epochs: float = option(
        '--warmup-epochs', TRAINED, "linear warm-up, {told} (default: the recipe's, 5 or 0; 20 or, for other "
        "--epochs than its, 10)",
        check=checks.at_least(0.0, float), unit='EPOCHS', fixes_run=True,
        called=('--warmup',))
    warmup_from: Optional[float] = option(
        '--warmup-from', TRAINED, "part of the rate from which the warm-up begins (default: the recipe's, that of the "
        'optimizer or 1e-4)', default=None, check=checks.probability, unit='PART', fixes_run=True)
    lr_drop_epochs: Tuple[int, ...] = option(
        '--lr-drop-epochs', TRAINED, "the rate is divided by 10 after these epochs (default: the recipe's)",
        check=checks.epoch_list, unit='E,E,...', fixes_run=True,
        called=('--milestones', '--lr-steps', '--decay-milestones'))
    lr_decay_epochs: Optional[float] = option(
        '--lr-decay-epochs', TRAINED, "the rate is multiplied by 0.97 after every so many epochs (default: the "
        "recipe's, never or 2.4)", default=None, check=checks.above_zero, unit='EPOCHS', fixes_run=True,
        called=('--decay-epochs', '--lr-decay-epoch'))
    lr_cosine_to: Optional[float] = option(
        '--lr-cosine-to', TRAINED, 'after the warm-up the rate falls along half a cosine to this one at the end of the '
        "last epoch (default: the recipe's, not at all or to 5e-6)", default=None, check=checks.at_least(0.0, float),
        unit='RATE', fixes_run=True,
        called=('--min-lr', '--cosine'))
    starting_epoch: int = option('--starting-epoch', TRAINED, 'first epoch, with --load (default: %(default)s)',
                                 default=1, check=checks.at_least(1), unit='EPOCH', group='run')
    epochs: int = option(
        '--epochs', TRAINED, "(default: the recipe's, 100, 110, 150, 300 or 350)", check=checks.at_least(1),
        group='run',
        brief="(default: the recipe's)",
        called=('--epoch', '--num-epochs', '--max-epoch', '--max-epochs', '--n-epochs', '--train-epochs'))
    steps_per_epoch: Optional[int] = option(
        '--steps-per-epoch', TRAINED, '(default: images of the training set / images in a step over all ranks)',
        default=None, check=checks.at_least(1), unit='STEPS', group='run', fixes_run=True)
