"""What a command does: train, judge or classify, from which weights, and where the results go."""
import dataclasses
from typing import ClassVar, Optional, Tuple

from files import typed
from settings import checks
from settings.fields import OF_IMAGES, SWITCH, WORD, Served, option
from settings.modes import (
    ATTACKED,
    EVALUATED,
    EVALUATED_OR_LISTED,
    EVERY,
    FAKE,
    FOLLOWED,
    LISTED,
    TRAINED,
    TRAINED_ON_IMAGES,
    TRAINING,
)
from settings.threat_models import EVERY as EVERY_THREAT_MODEL, ThreatModel

WANDB, MLFLOW, TENSORBOARD = 'wandb', 'mlflow', 'tensorboard'  # services that follow a run
CSV, RELEASED = 'csv', 'released'  # formats of predictions
STOP, BACK = 'stop', 'back'  # what becomes of a training that overfits its attack

LOAD_HELP = ("weights: .npz, PyTorch's .pt or .pth, .safetensors, name of a TensorFlow checkpoint, or zoo:NAME for a "
             'published one, which is downloaded if it is not there; flags that the file or its published name tells '
             'of the network are the defaults')


@dataclasses.dataclass(frozen=True)
class Run:
    """Weights, randomness, and a training run's directory."""
    GROUP: ClassVar[str] = 'run'

    load: Optional[str] = option(
        '--load', EVERY, LOAD_HELP, default=None, unit='CHECKPOINT',
        brief='weights: a file, a run or zoo:NAME',
        called=(
            '--checkpoint', '--ckpt', '--ckpt-path', '--weights', '--pretrained', '--init-checkpoint',
            '--model-path', '--restore'))
    new_classifier: bool = option(
        '--new-classifier', TRAINED, 'with --load: a fresh last layer for the classes of the data; all else is from '
        'the checkpoint, the moving averages where it has them, and optimizer and steps begin anew', default=False,
        check=SWITCH,
        brief='with --load: a fresh last layer for the classes of the data',
        called=('--new-head', '--reset-classifier', '--replace-head'))
    logdir: Optional[str] = option(
        '--logdir', TRAINED,
        "part of the log directory's name, before its date; with a slash in it, the directory itself", default=None,
        unit='NAME',
        brief='name of the run, or with a slash its folder',
        called=(
            '--log-dir', '--output', '--output-dir', '--out', '--out-dir', '--save-dir', '--work-dir', '--name',
            '--exp-name'))
    resume: bool = option(
        '--resume', TRAINED, 'continue the last run of this log directory exactly', default=False, check=SWITCH,
        excludes='again',
        brief='go on with the last run of this name',
        called=('--continue', '--auto-resume'))
    resume_if_any: bool = option(
        '--resume-if-any', TRAINED, 'continue the last run of this log directory if there is one, else start one: for '
        'jobs that are queued again', default=False, check=SWITCH, excludes='again')
    seed: int = option(
        '--seed', ATTACKED, 'of all randomness (default: %(default)s)', default=0, check=checks.seed, fixes_run=True,
        decides_verdict=True,
        served=Served('seed of order and augmentation, 0 or more; as --seed of main.py (default: %(default)s)',
                      check=int, default=0, wire=typed.whole(0, 2 ** 128), compared=OF_IMAGES),
        called=('--random-seed', '--rng'))
    moving_average_decay: float = option(
        '--moving-average-decay', EVERY,
        'training: also keep, judge and save moving averages of the weights, 0 for none; --eval and --eval-directory: '
        "judge them, 0 for the plain weights (default: the recipe's, 0 or 0.9999)", check=checks.below_one, unit='D',
        fixes_run=True, decides_verdict=True,
        called=('--ema', '--ema-decay', '--model-ema', '--model-ema-decay'))
    moving_average_ramp: bool = option(
        '--moving-average-ramp', TRAINED, 'averages of D move faster in the first steps, by (1 + step) / (10 + step) '
        "(default: the recipe's)", check=SWITCH, off=('--no-moving-average-ramp', 'averages move by D from the first '
                                                      'step on'), fixes_run=True)
    keep_checkpoints: int = option(
        '--keep-checkpoints', TRAINED, 'newest checkpoints kept, beside the best one (default: %(default)s)',
        default=10, check=checks.at_least(1), unit='N')
    verbose: bool = option(
        '--verbose', EVERY, "all that is logged on the terminal too; without it a training's flags, variables and "
        "notes of libraries are in its directory's log.log alone", default=False, check=SWITCH)
    track: Tuple[str, ...] = option(
        '--track', FOLLOWED, 'services that are told of flags, epochs and results: wandb, mlflow, tensorboard, or '
        'several, as wandb,tensorboard; none for none at all. A training writes an events file where tensorboard is '
        'among them (default: tensorboard in training, none in --eval)', default=(), late=True, adds=True,
        check=checks.several_of(WANDB, MLFLOW, TENSORBOARD), unit='NAME,NAME,...')
    recipe: str = option(
        '--recipe', EVERY, 'which paper the defaults follow (default: sat; feature-denoising for the architectures '
        'that only it has; sat-efficientnet for EfficientNet; revisiting-at for ConvNeXt and ViT); fine-tune is for '
        '--load with --new-classifier, and every network',
        check='recipes', group='architecture', written=WORD,
        brief='the defaults: {names}',
        called=('--config', '--cfg', '--preset'))
    ignore_checkpoint_flags: bool = option(
        '--ignore-checkpoint-flags', EVERY, 'typed flags win over what the checkpoint says of its network, and the '
        'data need not have its classes; without it a contradiction is refused', default=False, check=SWITCH,
        group='architecture')


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is judged, when, and where the verdicts go."""
    GROUP: ClassVar[str] = 'run'

    eval: bool = option(
        '--eval', EVERY, 'judge a network, clean and under attack, instead of training', default=False, check=SWITCH,
        called=('--evaluate', '--evaluation', '--test', '--val', '--validate', '--eval-only', '--test-only'))
    eval_directory: Optional[str] = option(
        '--eval-directory', EVERY, 'classify every image file of a folder', default=None, unit='DIR',
        called=('--predict', '--classify', '--images', '--image-dir', '--infer'))
    subset: Optional[str] = option(
        '--subset', EVALUATED, 'judge only these images of the validation set, in the order of their list: {explained} '
        '(default: all)', default=None, check='subsets', unit='NAME', decides_verdict=True)
    prediction_file: Optional[str] = option(
        '--prediction-file', LISTED, 'output of --eval-directory (default: predictions.csv, or predictions.txt in the '
        'released format)', default=None, unit='FILE',
        brief='output: FILE.csv, or FILE.txt as the originals write it')
    prediction_format: Optional[str] = option(
        '--prediction-format', LISTED, "of --prediction-file; csv: a header, then each file with its class, the "
        "class's name and probability, or why it could not be read; released: the originals' lines, path,class "
        '(default: released for a --prediction-file that ends in .txt, else csv)', default=None, check=(CSV, RELEASED))
    show: bool = option(
        '--show', EVALUATED_OR_LISTED, 'also write a picture: --eval-directory of the first images with their classes, '
        'beside the predictions; --eval of some images, under the (first) attack too, beside the results',
        default=False, check=SWITCH,
        brief='also write a picture of images with their classes')
    results_dir: Optional[str] = option(
        '--results-dir', EVALUATED,
        'where --eval writes results.json and per_example.csv (default: a new folder, results/'
        '<network>-<checkpoint>-<attack>-<norm>-eps<radius>-<data>)', default=None, unit='DIR',
        instead={TRAINING: '--logdir', FAKE: '--logdir'},
        brief='folder of results.json and per_example.csv',
        called=('--result-dir',))
    threat_models: Tuple[ThreatModel, ...] = option(
        '--threat-models', EVALUATED,
        'of --eval: judge under several norms and radii at once, each with the attack that --attack chooses, and say '
        'what withstands all of them; Linf:8,L2:510 for instance, in pixel levels, or Linf,L2,L1 at the usual 4, 510 '
        'and 19125 (4/255, 2 and 75 for images in [0, 1]), as without a value', default=(), check='threat models',
        unit='NORM:PIXELS,...', alone=EVERY_THREAT_MODEL, group='attacker',
        called=('--threat-model', '--norms'))
    allow_unreadable: bool = option(
        '--allow-unreadable', EVALUATED_OR_LISTED,
        '--eval and --eval-directory end with exit code 0 although more than 1%% of the images could not be read (else '
        'it is 3)', default=False, check=SWITCH)
    resume_eval: bool = option(
        '--resume-eval', EVALUATED,
        'go on with the evaluation that was killed or stopped with the same --results-dir (or, without it, flags), or '
        'start one; the number of ranks and --batch may be others. SIGTERM and Ctrl-C leave results of the images '
        'judged so far', default=False, check=SWITCH,
        brief='go on with an evaluation that was stopped')
    eval_every: int = option(
        '--eval-every', TRAINED_ON_IMAGES, 'epochs between evaluations (default: %(default)s); the last epoch always '
        'has one', default=1, check=checks.at_least(1), unit='EPOCHS')
    stop_when_overfitting: Optional[str] = option(
        '--stop-when-overfitting', TRAINED_ON_IMAGES, 'where a training overfits its attack (its robust accuracy on '
        'validation images collapses, or falls for long, while that on training images does not): stop, as without a '
        'value, ends it; back goes on from the best checkpoint, and ends it when that has been in vain (default: it is '
        'said, and no more)', default=None, check=(STOP, BACK), unit='stop|back', alone=STOP,
        called=('--early-stopping', '--stop-early'))
    more_steps: Tuple[int, ...] = option(
        '--more-eval-attack-iter', TRAINED_ON_IMAGES,
        'also judge with these numbers of steps during training; one graph serves them all', default=(),
        check=checks.step_list, unit='STEPS,STEPS,...', group='evaluation attacker')
