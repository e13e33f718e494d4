#!/usr/bin/env python
"""Smooth Adversarial Training: train, judge and apply the networks of ``nets.py``.

Modes: training (the default), ``--eval`` and ``--eval-directory``. Everything about the command line is here;
``get_parser`` and ``parse_args`` are what other programs use.
"""
import argparse
import os
import sys

from third_party.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

try:
    import lengths
    import modes
    import recipes
    import smooth_activations
    import sources
    from adv_model import OPTIMIZERS, PRECISIONS
    from attacks import ATTACKS, TARGETS, default_step_size
    from checkpoints import find
    from efficientnet.scaling import SIZES
    from nets import ARCHITECTURES, DEFAULT_MODEL_NAME, INPUT_SCALINGS, architecture_defaults
    from norms import BALLS
    from resnet_model import PADDINGS
    from third_party.imagenet_utils import AUGMENTATIONS, POLICIES, default_data, make_policy
    from third_party.utils import OneLineParser, launched_rank
    from weights.flags import add_ignore_flag, parse_with_checkpoint
    from zoo import published
except ModuleNotFoundError as missing:
    sys.exit("main.py: error: {} has no module '{}'; run `make setup`, then .venv/bin/python main.py".format(
        sys.executable, missing.name))


def activation_name(text, choices=smooth_activations.NAMES):
    """An activation as flags name it, checked and in its canonical spelling."""
    try:
        name, _ = smooth_activations.parse_name(text, choices)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error)
    return name + text[text.index(':'):] if ':' in text else name


def _slope_name(text):
    return activation_name(text, smooth_activations.SLOPE_NAMES)


def _at_least(low, kind=int):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError("'{}' is no {}".format(text, 'whole number' if kind is int else 'number'))
        if not value >= low or value == float('inf'):
            raise argparse.ArgumentTypeError('{} is below {}'.format(text, low) if value < low else
                                             '{} is not a finite number'.format(text))
        return value
    return parse


def _epoch_list(text):
    try:
        return tuple(sorted(int(part) for part in text.split(',') if part))
    except ValueError:
        raise argparse.ArgumentTypeError("'{}' is no list of epochs such as 30,60,90".format(text))


def _step_list(text):
    return tuple(sorted({_at_least(1)(part) for part in text.split(',')}))


def _probability(text):
    value = _at_least(0.0, float)(text)
    if value > 1:
        raise argparse.ArgumentTypeError('{} is above 1'.format(text))
    return value


def _below_one(text):
    value = _probability(text)
    if value == 1:
        raise argparse.ArgumentTypeError('{} is not below 1'.format(text))
    return value


def _positive(text):
    value = _at_least(0.0, float)(text)
    if value == 0:
        raise argparse.ArgumentTypeError('{} is not above 0'.format(text))
    return value


def _positive_probability(text):
    return _positive(str(_probability(text)))


def _seed(text):
    value = _at_least(0)(text)
    if value >= 2 ** 31:
        raise argparse.ArgumentTypeError('{} is not below 2^31'.format(text))
    return value


LOAD_HELP = ('weights: .npz, name of a TensorFlow checkpoint, or zoo:NAME for a published one, which is downloaded if '
             'it is not there; flags that the file or its published name tells of the network are the defaults')


def add_architecture_flags(parser, depth=None, arch='ResNet'):
    """Add the flags that say which network to build; ``depth``: the default to tell of, where it is another."""
    group = parser.add_argument_group('architecture')
    group.add_argument('-d', '--depth', type=int, metavar='LAYERS',
                       help='number of layers: 50, 101 or 152; CifarResNet 8, 20, 32, 56 or 18 '
                            '(default: {})'.format(depth or '50; CifarResNet 20'))
    group.add_argument('--arch', choices=list(ARCHITECTURES), default=arch,
                       help='network (default: %(default)s)')
    group.add_argument('--model-name', choices=list(SIZES), metavar='NAME',
                       help="EfficientNet's size: {} (default: {})".format(', '.join(SIZES), DEFAULT_MODEL_NAME))
    group.add_argument('--width-coefficient', type=_positive, metavar='FACTOR',
                       help="of EfficientNet's channels (default: the size's)")
    group.add_argument('--depth-coefficient', type=_positive, metavar='FACTOR',
                       help="of EfficientNet's repeats of a block (default: the size's)")
    group.add_argument('--dropout-rate', type=_below_one, metavar='P',
                       help="before EfficientNet's classifier, in training (default: the size's)")
    group.add_argument('--survival-prob', type=_positive_probability, metavar='P',
                       help="probability that EfficientNet's last block is kept for an image, in training (default: "
                            '0.8)')
    group.add_argument('--input-scaling', choices=INPUT_SCALINGS,
                       help="what EfficientNet takes: 'sat' is [-1, 1]; 'mean-std' standardised channels, for networks "
                            'trained without an attack (default: sat)')
    group.add_argument('--res2-bottleneck', type=_at_least(1), metavar='CHANNELS',
                       help="channels for each group in the first stage's 3x3 convolutions (default: 64; "
                            'ResNeXtDenoiseAll 8)')
    group.add_argument('--group', type=_at_least(1), metavar='N',
                       help='groups of the 3x3 convolutions (default: 1; ResNeXtDenoiseAll 32)')
    group.add_argument('--activation-name', type=activation_name, metavar='NAME',
                       help='one of {}; NAME:ALPHA sets the alpha of parametric_softplus or celu (default: the '
                            "recipe's)".format(', '.join(smooth_activations.NAMES)))
    group.add_argument('--input-size', type=_at_least(8), metavar='PIXELS',
                       help="side of the square input (default: 224; CifarResNet 32; EfficientNet the size's)")
    group.add_argument('--num-classes', type=_at_least(2), metavar='N',
                       help='(default: 1000, CifarResNet 10; with a data set as many as it has class folders, 1000 '
                            'for those of ImageNet)')
    group.add_argument('--padding', choices=PADDINGS,
                       help="of strided convolutions: 'explicit' as the SAT release, 'same' as the Feature Denoising "
                            "release (default: the recipe's)")
    group.add_argument('--batch-norm-momentum', type=_below_one, metavar='M',
                       help="weight of batch norm's moving averages in their update (default: the recipe's, 0.9)")
    group.add_argument('--batch-norm-epsilon', type=_positive, metavar='EPSILON',
                       help="added to batch norm's variance (default: the recipe's, 1e-5)")
    group.add_argument('--sync-batch-norm', action='store_true',
                       help="in training, batch norm's statistics are those of all ranks' images together, not of each "
                            "rank's own: for few images in a rank")
    group.add_argument('--recompute', action='store_true',
                       help="keep only the blocks' inputs for backward passes, and compute the blocks again there: "
                            'less memory, about a third more time')
    group.add_argument('--data-format', choices=('NHWC', 'NCHW'),
                       help='layout of the graph (default: NCHW on a GPU, NHWC on a CPU)')
    group.add_argument('--recipe', choices=list(recipes.RECIPES),
                       help='which paper the defaults follow (default: sat; feature-denoising for the architectures '
                            'that only it has; sat-efficientnet for EfficientNet)')
    add_ignore_flag(group)
    return group


def add_averages_flag(parser, default=None):
    """Add the flag by which a program that does not train chooses the weights or their moving averages."""
    shown = "the recipe's, 0 or 0.9999" if default is None else default
    parser.add_argument('--moving-average-decay', type=_below_one, metavar='D', default=default, help=(
        "0 takes the checkpoint's weights, another number their moving averages (default: {})".format(shown)))


def get_parser():
    """The argument parser of this program; ``parse_args`` also fills in the recipe and checks."""
    parser = OneLineParser(description=__doc__.split('\n')[0], allow_abbrev=False)

    run = parser.add_argument_group('run')
    run.add_argument('--load', metavar='CHECKPOINT', help=LOAD_HELP)
    run.add_argument('--eval', action='store_true', help='judge a network, clean and under attack, instead of training')
    run.add_argument('--eval-directory', metavar='DIR', help='classify every image file of a folder')
    run.add_argument('--prediction-file', default='predictions.txt', metavar='FILE',
                     help='output of --eval-directory (default: %(default)s)')
    run.add_argument('--results-dir', metavar='DIR',
                     help='where --eval writes results.json and per_example.csv (default: a new folder, results/'
                          '<network>-<checkpoint>-<attack>-<norm>-eps<radius>-<data>)')
    run.add_argument('--allow-unreadable', action='store_true',
                     help='--eval and --eval-directory end with exit code 0 although more than 1%% of the images could '
                          'not be read (else it is 3)')
    run.add_argument('--resume-eval', action='store_true',
                     help='go on with the evaluation that was killed or stopped with the same --results-dir (or, without '
                          'it, flags), or start one; the number of ranks and --batch may be others. SIGTERM and Ctrl-C leave results of the '
                          'images judged so far')
    run.add_argument('--logdir', metavar='NAME',
                     help="suffix of the log directory's name; with a slash in it, the directory itself")
    again = run.add_mutually_exclusive_group()
    again.add_argument('--resume', action='store_true', help='continue the last run of this log directory exactly')
    again.add_argument('--resume-if-any', action='store_true',
                       help='continue the last run of this log directory if there is one, else start one: for jobs that '
                            'are queued again')
    run.add_argument('--starting-epoch', type=_at_least(1), default=1, metavar='EPOCH',
                     help='first epoch, with --load (default: %(default)s)')
    run.add_argument('--seed', type=_seed, default=0, help='of all randomness (default: %(default)s)')
    run.add_argument('--moving-average-decay', type=_below_one, metavar='D',
                     help='training: also keep, judge and save moving averages of the weights, 0 for none; --eval and '
                          "--eval-directory: judge them, 0 for the plain weights (default: the recipe's, 0 or 0.9999)")
    run.add_argument('--epochs', type=_at_least(1), help="(default: the recipe's, 100, 110 or 350)")
    run.add_argument('--steps-per-epoch', type=_at_least(1), metavar='STEPS',
                     help='(default: images of the training set / images in a step over all ranks)')
    run.add_argument('--eval-every', type=_at_least(1), default=1, metavar='EPOCHS',
                     help='epochs between evaluations (default: %(default)s); the last epoch always has one')
    run.add_argument('--keep-checkpoints', type=_at_least(1), default=10, metavar='N',
                     help='newest checkpoints kept, beside the best one (default: %(default)s)')

    data = parser.add_argument_group('data')
    data.add_argument('--data', metavar='DIR',
                      help='ImageNet in its standard structure or as TFRecord shards, or a folder with one sub-folder '
                           'for each class (default: SAT_DATA of the environment; else what the data server reads, in '
                           "training from one; else scikit-learn's handwritten digits, for networks of ten outputs)")
    data.add_argument('--fake', action='store_true', help='constant fake data, 50 steps an epoch, no evaluation')
    data.add_argument('--batch', type=_at_least(1), default=32, metavar='N',
                      help='images in a step, for each rank (default: %(default)s)')
    data.add_argument('--augmentation', choices=AUGMENTATIONS,
                      help="training augmentation, which also says how images are cropped for evaluation (default: "
                           'imagenet, EfficientNet efficientnet; cifar for inputs below 64 pixels; none for the '
                           "digits; the data server's where the data set is)")
    data.add_argument('--augment-name', choices=POLICIES, metavar='POLICY',
                      help='{} after the augmentation (default: none)'.format(' or '.join(POLICIES)))
    data.add_argument('--randaug-num-layers', type=_at_least(1), metavar='N',
                      help='operations of randaugment on an image (default: 2)')
    data.add_argument('--randaug-magnitude', type=_at_least(0), metavar='M',
                      help='strength of randaugment, of 10 (default: 10)')
    data.add_argument('--serve-address', metavar='ADDRESS',
                      help='ZMQ address of the data server (default: ipc://@imagenet-train-b<batch> under mpirun; '
                           'a single process reads the images itself)')
    data.add_argument('--serve-timeout', type=_at_least(0.0, float), default=60.0, metavar='SECONDS',
                      help='how long to wait for the data server to answer (default: %(default)s)')
    data.add_argument('--data-timeout', type=_at_least(0.0, float), default=300.0, metavar='SECONDS',
                      help='training ends when the data server has sent nothing for so long, 0 to wait for ever '
                           '(default: %(default)s)')
    data.add_argument('--no-zmq-ops', action='store_true',
                      help="receive the data server's messages in Python instead of by the op")

    attack = parser.add_argument_group('attacker', 'of the training, or with --eval of the evaluation; lengths in '
                                                   'pixel levels, 0-255: 4 or 4/255; below 0.5 in Linf as 0.3px')
    attack.add_argument('--attack', choices=ATTACKS,
                        help='of --eval; training has pgd. fgsm: one step of the whole radius; momentum: MI-FGSM; '
                             'autoattack: several attacks, each on the images that still stand (default: pgd)')
    attack.add_argument('--norm', choices=list(BALLS),
                        help='of --eval, in which radius and steps are measured; L2 and L1 over all pixels and '
                             'channels of an image, so that 0.5 for images in [0, 1] is 127.5 pixel levels (default: '
                             'Linf)')
    attack.add_argument('--autoattack-version', metavar='VERSION',
                        help='standard, apgd (the first two attacks of standard), plus, rand, or a list of attacks '
                             'such as apgd-ce,square, with restarts of their own (default: standard)')
    attack.add_argument('--attack-iter', type=_at_least(0), metavar='STEPS',
                        help="steps of pgd or momentum, 0 for no attack (default: the recipe's, 1 or 30; with --eval "
                             '10 or 30)')
    attack.add_argument('--attack-epsilon', type=lengths.parse, metavar='PIXELS',
                        help="radius (default: the recipe's, 4 or 16; none in L2 and L1)")
    attack.add_argument('--attack-step-size', type=lengths.parse, metavar='PIXELS',
                        help="length of a step, raised to epsilon / steps where that is more (default: the recipe's, "
                             '4 or 1; 1 with --eval or another number of steps than its; 2.5 epsilon / steps in L2 and '
                             'L1; epsilon / steps for momentum)')
    attack.add_argument('--targeted', action='store_true', default=None,
                        help="aim at a random wrong label (default: the recipe's; feature-denoising does)")
    attack.add_argument('--untargeted', action='store_false', dest='targeted', help='away from the true label')
    attack.add_argument('--attack-target', choices=TARGETS,
                        help='of --eval: none is --untargeted, random is --targeted, least-likely aims at the wrong '
                             'label that the network gives the lowest score on the clean image')
    attack.add_argument('--early-stop', action='store_true',
                        help="of --eval with pgd or momentum: leave an image where the attack first succeeds on it, be "
                             "it the start, and spend no more steps there; the verdict is then 'success at any step', "
                             "not that of the last step")
    attack.add_argument('--prob-start-from-clean', type=_probability, metavar='P',
                        help='probability that the training attack of an image starts from the image itself instead of '
                             "a random point (default: the recipe's, 0.2)")
    attack.add_argument('--attack-precision', choices=PRECISIONS,
                        help='what the network computes in under attack; all else stays float32 (default: float32; '
                             'bfloat16 in training where all ranks are on CPUs that have units for it; with --resume '
                             "the run's own)")
    attack.add_argument('--xla', action='store_true', default=None,
                        help="let XLA compile the attack's steps: for GPUs")
    attack.add_argument('--use-fp16xla', action='store_true', default=None,
                        help='the same as --attack-precision float16 --xla')
    attack.add_argument('--attack-gradient', type=_slope_name, metavar='NAME',
                        help="activation whose derivative the attacker's gradient takes (default: the network's own)")

    evaluation = parser.add_argument_group('evaluation attacker')
    evaluation.add_argument('--eval-attack-iter', type=_at_least(1), metavar='STEPS',
                            help='steps of the evaluations during training and of --eval (default: 10; of --eval with '
                                 'feature-denoising 30)')
    evaluation.add_argument('--more-eval-attack-iter', type=_step_list, default=(), metavar='STEPS,STEPS,...',
                            help='also judge with these numbers of steps during training; one graph serves them all')
    evaluation.add_argument('--eval-attack-epsilon', type=lengths.parse, metavar='PIXELS',
                            help="radius during training (default: the training attack's)")
    evaluation.add_argument('--eval-attack-step-size', type=lengths.parse, metavar='PIXELS',
                            help='length of a step during training (default: 1)')

    update = parser.add_argument_group('update')
    update.add_argument('--update-gradient', type=_slope_name, metavar='NAME',
                        help="activation whose derivative the update's gradient takes (default: the network's own)")
    update.add_argument('--label-smoothing', type=_probability, metavar='S', help="(default: the recipe's, 0.1)")
    update.add_argument('--optimizer', choices=OPTIMIZERS, help="(default: the recipe's)")
    update.add_argument('--accumulate', type=_at_least(1), default=1, metavar='K',
                        help="compute a step's gradient in K parts of batch / K images, one after another: the memory of "
                             "one part; each has its own batch statistics (default: %(default)s)")
    update.add_argument('--gradient-compression', choices=('none', 'fp16'), default='none',
                        help='of the gradients that several ranks exchange: fp16 sends half the bytes, rounded to '
                             'float16 (default: %(default)s)')
    update.add_argument('--tf32', action='store_true',
                        help='let GPUs since Ampere train in TF32, which keeps 10 of the 23 bits of what float32 '
                             'convolutions and products read; evaluations never do (default: float32 is float32)')
    update.add_argument('--weight-decay', type=_at_least(0.0, float), metavar='W',
                        help="factor of half the sum of the squared weights (default: the recipe's, 1e-4 or 1e-5)")
    update.add_argument('--base-lr', type=_at_least(0.0, float), metavar='RATE',
                        help='learning rate for 256 images in a step; grows linearly with them (default: the '
                             "recipe's, 0.1 or 0.016)")
    update.add_argument('--warmup-epochs', type=_at_least(0.0, float), metavar='EPOCHS',
                        help="linear warm-up, with momentum from 0.1 to rates above it, with rmsprop from 0 (default: "
                             "the recipe's, 5)")
    update.add_argument('--lr-drop-epochs', type=_epoch_list, metavar='E,E,...',
                        help="the rate is divided by 10 after these epochs (default: the recipe's)")
    update.add_argument('--lr-decay-epochs', type=_positive, metavar='EPOCHS',
                        help="the rate is multiplied by 0.97 after every so many epochs (default: the recipe's, never "
                             'or 2.4)')

    add_architecture_flags(parser)
    return parser


# Flags that only some architectures have.
_ARCHITECTURE_FLAGS = sorted({name for arch in ARCHITECTURES for name in architecture_defaults(arch)})


def resolve_architecture(args, parser):
    """Fill in what the architecture and the recipe decide, and check that the network exists.

    ``args`` has the flags of ``add_architecture_flags``, and ``moving_average_decay``.
    """
    architecture = ARCHITECTURES[args.arch]
    if args.recipe is None:
        args.recipe = architecture.recipe
    defaults = architecture_defaults(args.arch, args.model_name)
    for name in _ARCHITECTURE_FLAGS:
        if name in defaults:
            _default(args, name, defaults[name])
        elif getattr(args, name) is not None:
            parser.error('--{}: --arch {} has none'.format(name.replace('_', '-'), args.arch))
    if 'depth' in defaults and args.depth not in architecture.depths:
        parser.error('--depth {}: choose from {} for --arch {}'.format(
            args.depth, ', '.join(map(str, sorted(architecture.depths))), args.arch))
    if 'group' in defaults and args.res2_bottleneck * args.group % 64:
        parser.error('--res2-bottleneck {} --group {}: their product must be a multiple of 64'.format(
            args.res2_bottleneck, args.group))
    _take_recipe(args, ('activation_name', 'batch_norm_momentum', 'batch_norm_epsilon', 'moving_average_decay') +
                 (('padding',) if 'padding' in defaults else ()))


def _take_recipe(args, names):
    for name in names:
        if getattr(args, name) is None:
            setattr(args, name, getattr(recipes.RECIPES[args.recipe], name))


def parse_args(argv=None):
    """Parse, fill in the recipe and check; a mistake ends the program with one line and exit code 2.

    Args:
        argv (list of str): default sys.argv[1:].
    Returns:
        argparse.Namespace: every value set; ``attack_*`` are those of the attacker that this mode uses. In training
        ``attack_precision`` is None if it was not typed: the machines decide it (``training.decide_precision``).
        ``left_to_server``: see there, in ``sources``; ``notes`` (tuple of str): lines that the program is to say.
    """
    parser = get_parser()
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    mode = _check_mode(args, parser, argv)
    args = parse_with_checkpoint(parser, argv, args.load, training=not (args.eval or args.eval_directory))
    _take_lengths(args, parser)
    typed_epsilon, typed_step_size = args.attack_epsilon, args.attack_step_size
    _check_attack(args, parser)
    _choose_data(args, parser, modes.SERVED in mode)
    resolve_architecture(args, parser)
    recipe = recipes.RECIPES[args.recipe]
    sources.settle_augmentation(args)
    if args.eval:
        # The SAT release has --eval-attack-iter, the Feature Denoising release --attack-iter.
        if args.eval_attack_iter is not None:
            args.attack_iter = args.eval_attack_iter
        _default(args, 'attack_iter', 1 if args.attack == 'fgsm' else recipes.judged_steps(args.recipe))
        if args.attack_iter:
            _default(args, 'attack_step_size', default_step_size(
                args.attack, args.norm, args.attack_iter,
                recipe.attack_epsilon if typed_epsilon is None else typed_epsilon, recipe.eval_attack_step_size))
    if args.eval or args.attack_iter not in (None, recipe.attack_iter):
        # The training step belongs to the training number of steps: SAT's 4 crosses the ball in one.
        _default(args, 'attack_step_size', recipe.eval_attack_step_size)
    _take_recipe(args, ('targeted', 'attack_epsilon', 'attack_iter', 'attack_step_size', 'prob_start_from_clean',
                        'label_smoothing', 'optimizer', 'weight_decay', 'epochs', 'base_lr', 'warmup_epochs',
                        'lr_drop_epochs', 'lr_decay_epochs', 'eval_attack_iter',
                        'eval_attack_step_size'))
    if args.attack_target is None:
        args.attack_target = 'random' if args.targeted else 'none'
    if args.eval:  # which has the same verdicts on every machine
        _default(args, 'attack_precision', 'float32')
    if modes.EVAL not in mode and args.attack_iter == 0:
        _note_unused(args, typed_epsilon, typed_step_size)
    # A run without an attack is still judged by one: the recipe's, or as in the FD release of the radius that is given.
    _default(args, 'eval_attack_epsilon', args.attack_epsilon or recipe.attack_epsilon)
    _check(args, parser)
    if args.attack == 'autoattack':  # which has lengths of its own
        args.attack_iter = args.attack_step_size = None
    return args


def _check_mode(args, parser, argv):
    """The modes of a command (see ``modes_of``); refuses typed flags that mean nothing in them."""
    if args.eval and args.eval_directory:
        parser.error('--eval and --eval-directory: choose one')
    mode = modes.modes_of(args, launched_rank() is not None)
    refusal = modes.refusal(modes.typed(parser, argv), mode)
    if refusal:
        parser.error(refusal)
    return mode


def _take_lengths(args, parser):
    """Turn typed lengths into pixel levels; refuses those of images in [0, 1] in L-infinity."""
    for name in ('attack_epsilon', 'attack_step_size', 'eval_attack_epsilon', 'eval_attack_step_size'):
        length = getattr(args, name)
        if length is None:
            continue
        slip = lengths.slip(length) if args.norm in (None, 'Linf') else None
        if slip:
            parser.error('{} {}'.format(modes.spelling(name, length), slip))
        setattr(args, name, length.levels)


def _choose_data(args, parser, served):
    """Find the data set and with it the number of classes, and what is left to the data server."""
    args.notes = ()
    try:
        if args.data is None and not (args.fake or args.eval_directory):
            args.data = default_data()
        args.left_to_server = sources.left_to_server(args, served)
        sources.settle_classes(args)
    except ValueError as error:
        parser.error(error)


def _note_unused(args, epsilon, step_size):
    """Note the typed lengths of an attack of no steps in training (FD's standard training has an epsilon)."""
    judged = '' if args.fake or args.eval_attack_epsilon is not None else '; its evaluations attack with it'
    for name, value, use in (('attack_epsilon', epsilon, judged), ('attack_step_size', step_size, '')):
        if value:
            args.notes += '{} {:g} is not used: --attack-iter 0 trains on clean images{}'.format(
                modes.spelling(name, value), value, use),


def _default(args, name, value):
    if getattr(args, name) is None:
        setattr(args, name, value)


# What the attacks of --eval have of their own: flags as they are typed.
_STEPS = ('attack_iter', 'eval_attack_iter', 'attack_step_size')
_NOT_FOR = {'pgd': ('autoattack_version',), 'momentum': ('autoattack_version',),
            'fgsm': _STEPS + ('autoattack_version',),
            'autoattack': _STEPS + ('targeted', 'attack_target', 'attack_precision', 'xla', 'use_fp16xla')}


def _check_attack(args, parser):
    """Refuse flags that the attack does not have, while only typed ones are set; then set what needs no recipe."""
    _default(args, 'attack', 'pgd')
    for name in _NOT_FOR[args.attack]:
        if getattr(args, name) is not None:
            parser.error('--attack {} has no {}'.format(args.attack, modes.spelling(name, getattr(args, name))))
    if args.use_fp16xla:
        if args.attack_precision not in (None, 'float16'):
            parser.error('--use-fp16xla and --attack-precision {}: choose one'.format(args.attack_precision))
        args.attack_precision, args.xla = 'float16', True
    args.xla, args.use_fp16xla = bool(args.xla), bool(args.use_fp16xla)
    if args.attack_target is not None:
        if args.targeted not in (None, args.attack_target != 'none'):
            parser.error('--{} and --attack-target {}: choose one'.format(
                'targeted' if args.targeted else 'untargeted', args.attack_target))
        args.targeted = args.attack_target != 'none'
    steps = args.attack_iter if args.eval_attack_iter is None else args.eval_attack_iter
    for flag, typed in (('--attack momentum', args.attack == 'momentum'), ('--norm {}'.format(args.norm), args.norm)):
        if typed and steps == 0:
            parser.error('{} without steps: give --attack-iter of 1 or more'.format(flag))
    if args.early_stop:
        for typed, why in ((args.attack == 'autoattack', '--attack autoattack always stops at the first success'),
                           (args.attack == 'fgsm', '--attack fgsm has only one step'),
                           (steps == 0, '--attack-iter 0 has no steps'),
                           (args.xla, '--xla compiles for one size of a batch, and this shrinks it'),
                           (args.attack_precision not in (None, 'float32'),
                            'what succeeds in {} need not in float32'.format(args.attack_precision))):
            if typed:
                parser.error('--early-stop: {}; leave it out'.format(why))
    if args.norm in ('L2', 'L1') and args.attack_epsilon is None:
        parser.error('--norm {} needs --attack-epsilon, in pixel levels: 255 times that for images in [0, 1]'.format(
            args.norm))
    _default(args, 'norm', 'Linf')
    if args.attack == 'autoattack':
        _default(args, 'autoattack_version', 'standard')
        args.targeted = False


def _check(args, parser):
    if (args.eval or args.eval_directory) and not args.load:
        parser.error('{} needs --load CHECKPOINT'.format('--eval' if args.eval else '--eval-directory'))
    if args.resume and (args.load or args.starting_epoch > 1):
        parser.error("--resume takes the run's own checkpoint and epoch; leave out --load and --starting-epoch")
    if args.starting_epoch > 1 and not args.load:
        parser.error('--starting-epoch {} needs --load CHECKPOINT, the weights at its start'.format(
            args.starting_epoch))
    if args.starting_epoch > args.epochs:
        parser.error('--starting-epoch {} is after --epochs {}'.format(args.starting_epoch, args.epochs))
    try:
        make_policy(args.augment_name, args.randaug_num_layers, args.randaug_magnitude)
    except ValueError as error:
        parser.error(error)
    if args.batch % args.accumulate:
        parser.error('--accumulate {}: --batch {} is no multiple of it'.format(args.accumulate, args.batch))
    if args.load and not published.is_named(args.load):
        try:
            find(args.load)
        except ValueError as error:
            parser.error(error)
    for name in ('data', 'eval_directory'):
        folder = getattr(args, name)
        if folder is not None and not os.path.isdir(folder):
            parser.error("--{} '{}': no such directory".format(name.replace('_', '-'), folder))
    target = os.path.dirname(os.path.abspath(args.prediction_file))
    if args.eval_directory and not (os.path.isdir(target) and os.access(target, os.W_OK)):
        parser.error("--prediction-file '{}': its folder is not there, or not writable".format(args.prediction_file))
    for prefix in ('',) if args.eval else ('', 'eval-'):
        field = prefix.replace('-', '_') + 'attack_'
        if getattr(args, field + 'iter') == 0:
            continue
        if not 0 < getattr(args, field + 'epsilon') <= (255 if args.norm == 'Linf' else float('inf')):
            parser.error('--{}attack-epsilon {:g}: an attack needs a radius in (0, {}] pixel levels'.format(
                prefix, getattr(args, field + 'epsilon'), '255' if args.norm == 'Linf' else 'infinity'))
        if not getattr(args, field + 'step_size') > 0:
            parser.error('--{}attack-step-size 0: an attack needs a positive step'.format(prefix))


def main(argv=None):
    args = parse_args(argv)
    import commands
    try:
        commands.run(args)
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
