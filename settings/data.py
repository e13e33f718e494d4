"""Which images, and how they are seen: told once to the data server, the trainer and the evaluations."""
import dataclasses
from typing import ClassVar, Optional

from files import typed
from settings import checks
from settings.fields import ALWAYS, OF_VIEW, SWITCH, Served, option
from settings.modes import EVERY, FROM_SERVER, JUDGED, TRAINED, TRAINED_ON_IMAGES, WITH_IMAGES

_NAME = typed.text(4096)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images, in batches of how many, and from whom."""
    GROUP: ClassVar[str] = 'data'

    data: Optional[str] = option(
        '--data', JUDGED,
        'ImageNet in its standard structure or as TFRecord shards, or a folder with one sub-folder for each class '
        '(default: SAT_DATA of the environment; else what the data server reads, in training from one; else '
        "scikit-learn's handwritten digits, for networks of ten outputs)", default=None, unit='DIR',
        served=Served('root of the data set, with train/<class>/ inside (default: SAT_DATA of the environment, else '
                      'the embedded 32x32 digits)', unit='FOLDER', excludes='source',
                      brief='data set, with train/<class>/ inside (default: SAT_DATA, or digits)'),
        brief='ImageNet, or a folder with train/ and val/',
        called=(
            '--dataset', '--data-dir', '--data-path', '--data-root', '--datadir', '--dataset-dir', '--dataset-path',
            '--imagenet', '--imagenet-dir', '--root', '--train-dir', '--val-dir', '--folder'))
    fake: bool = option(
        '--fake', TRAINED, 'constant fake data, 50 steps an epoch, no evaluation', default=False, check=SWITCH,
        fixes_run=True, served=Served('serve one constant batch for ever (default: off)', check=SWITCH, default=False,
                                      wire=typed.truth, excludes='source'))
    batch: int = option(
        '--batch', EVERY, "images in a step, for each rank (default: the recipe's, 80 of revisiting-at, 64 of "
        'fine-tune, else 32)',
        default=32, check=checks.at_least(1), unit='N', fixes_run=True,
        served=Served('images per batch; the same number as --batch of main.py (default: %(default)s)',
                      check=checks.positive, unit='IMAGES', default=32, wire=typed.whole(1, 10 ** 6), compared=ALWAYS,
                      brief='images per batch, as --batch of the training (default: %(default)s)'),
        brief='images in a step, of each rank',
        called=('-b', '--batch-size', '--bs', '--per-device-batch-size'))
    serve_address: Optional[str] = option(
        '--serve-address', TRAINED,
        'ZMQ address of the data server (default: ipc://@imagenet-train-b<batch> under mpirun; a single process reads '
        'the images itself)', default=None, unit='ADDRESS')
    serve_timeout: float = option(
        '--serve-timeout', FROM_SERVER, 'how long to wait for the data server to answer (default: %(default)s)',
        default=60.0, check=checks.at_least(0.0, float), unit='SECONDS')
    data_timeout: float = option(
        '--data-timeout', FROM_SERVER, 'training ends when the data server has sent nothing for so long, 0 to wait for '
        'ever (default: %(default)s)', default=300.0, check=checks.at_least(0.0, float), unit='SECONDS')
    no_zmq_ops: bool = option(
        '--no-zmq-ops', FROM_SERVER, "receive the data server's messages in Python instead of by the op",
        default=False, check=SWITCH)


@dataclasses.dataclass(frozen=True)
class View:
    """How an image becomes what a network is shown, in training and in evaluations."""
    GROUP: ClassVar[str] = 'data'

    input_size: int = option(
        '--input-size', EVERY, 'side of the square input (default: {told})', check=checks.at_least(8), unit='PIXELS',
        group='architecture', fixes_run=True, decides_verdict=True, written=typed.whole(8, 1 << 20),
        served=Served('side of the square images (default: %(default)s)', check=checks.positive, unit='PIXELS',
                      default=224, wire=typed.whole(1, 10 ** 5), compared=ALWAYS,
                      brief='side of the square images (default: %(default)s)'),
        called=('--img-size', '--image-size', '--imgsz', '--image-width', '--resolution', '--size', '--crop-size'))
    augmentation: str = option(
        '--augmentation', WITH_IMAGES,
        "training augmentation, which also says how images are cropped for evaluation (default: the network's, which "
        'is imagenet, efficientnet or revisiting-at; cifar for inputs below 64 pixels; none for the digits; the data '
        "server's where the data set is)",
        check='augmentations', fixes_run=True, decides_verdict=True,
        served=Served('(default: none for the digits, cifar for inputs below 64 pixels, else imagenet; that of '
                      'EfficientNet is efficientnet, that of ConvNeXt and ViT revisiting-at)', check='augmentations',
                      wire=_NAME, compared=OF_VIEW, brief='{names} (default: that of the images and their size)'),
        called=('--augment', '--aug', '--transforms'))
    augment_name: Optional[str] = option(
        '--augment-name', TRAINED_ON_IMAGES, '{either} after the augmentation (default: none)', default=None,
        check='policies', unit='POLICY', fixes_run=True,
        served=Served('{either} after the augmentation (default: none)', check='policies', unit='POLICY',
                      wire=typed.optional(_NAME), compared=OF_VIEW, maybe=True),
        called=('--aa', '--auto-augment', '--policy'))
    randaug_num_layers: Optional[int] = option(
        '--randaug-num-layers', TRAINED_ON_IMAGES, 'operations of randaugment on an image (default: 2)', default=None,
        check=checks.at_least(1), unit='N', fixes_run=True,
        served=Served('operations of randaugment on an image (default: 2)', check=checks.positive, unit='N',
                      wire=typed.optional(typed.whole(1, 10 ** 6)), compared=OF_VIEW, maybe=True))
    randaug_magnitude: Optional[int] = option(
        '--randaug-magnitude', TRAINED_ON_IMAGES, 'strength of randaugment, of 10 (default: 10)', default=None,
        check=checks.at_least(0), unit='M', fixes_run=True,
        served=Served('strength of randaugment, of 10 (default: 10)', check=int, unit='M',
                      wire=typed.optional(typed.whole(0, 10 ** 6)), compared=OF_VIEW, maybe=True))
