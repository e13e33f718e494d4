"""The command line of ``main.py``: its options are those of ``settings``.

The help of each mode shows these commands, which the tests run.

Training:

    python main.py --data cifar10 --arch CifarResNet -d 8 --batch 64
    python main.py --data cifar10 --arch CifarResNet -d 8 --attack-iter 0
    python main.py --load CKPT --new-classifier --recipe fine-tune --data cifar10

Evaluation:

    python main.py --eval --load zoo:Res50-silu --data /path/to/imagenet
    python main.py --eval --load CKPT --data photographs --attack-epsilon 8
    mpirun -np 2 python main.py --eval --load CKPT --data photographs

Classification:

    python main.py --eval-directory path/to/image/directory --load zoo:Res50-silu
"""
import os
import sys

import nets
from attacks.registry import KINDS
from commands import sources
from data.folders import default_data
from data.policies import policy_of
from machine import programs
from ranks.command_line import OneLineParser, OneScreen, examples, helped
from ranks.launched import launched_rank
from settings import attacking, checks, flags, modes, recipes, resolve, sections
from tables import TABLES, told
from weights.find import find_checkpoint
from weights.flags import parse_with_checkpoint
from zoo import published

DESCRIPTION = 'Smooth Adversarial Training: train, judge and apply the networks of ``nets.py``.'
_ARCHITECTURE = 'architecture'  # a group of flags
# By mode: what its help says of it, what is typed, and the place of its examples above.
_HELP = {
    modes.TRAINING: ('Train a network, by default under attack, as the recipe of its kind does.',
                     'python main.py', 'Training'),
    modes.EVAL: ('Judge a network, clean and under attack; its checkpoint says which one it is.',
                 'python main.py --eval --load CHECKPOINT', 'Evaluation'),
    modes.DIRECTORY: ('Classify every image of a folder.',
                      'python main.py --eval-directory DIR --load CHECKPOINT', 'Classification')}


def add_architecture_flags(parser, depth=None, arch='ResNet', brief=False):
    """Add the flags that say which network to build; ``depth``: the default to tell of, where it is another.
    ``brief``: the most used ones alone."""
    options = flags.most_used(sections.options()) if brief else sections.options()
    flags.add(parser, [option for option in options if option.flag.group == _ARCHITECTURE], TABLES,
              {'arch': arch}, {**told(), **({'depth': depth} if depth else {})})


def add_averages_flag(parser, default=None):
    """Add the flag by which a program that does not train chooses the weights or their moving averages."""
    shown = "the recipe's, 0 or 0.9999" if default is None else default
    parser.add_argument('--moving-average-decay', type=checks.below_one, metavar='D', default=default, help=(
        "0 takes the checkpoint's weights, another number their moving averages (default: {})".format(shown)))


def add_flags(parser, options, **words):
    """Add to a parser some of ``settings.sections.options()``; ``words``: of ``settings.flags.add``."""
    flags.add(parser, options, TABLES, told=told(), **words)


def get_parser():
    """The argument parser of this program; ``parse_args`` also fills in the recipe and checks."""
    return helped(_parser)


def _parser(typed):
    """See ``ranks.command_line.Maker``."""
    if typed is None:
        parser = OneLineParser(description=DESCRIPTION, allow_abbrev=False, add_help=False)
        add_flags(parser, sections.options())
        return parser
    mode, *_ = modes.modes_of(typed, launched_rank() is not None)
    # What is typed with --fake is what a training has.
    description, command, place = _HELP[modes.TRAINING if mode == modes.FAKE else mode]
    others = ['  {} -h'.format(programs.spelt(words)) for _, words, _ in _HELP.values() if words != command]
    parser = OneLineParser(
        usage='{} [FLAGS]'.format(programs.spelt(command)), description=description, allow_abbrev=False, add_help=False,
        formatter_class=OneScreen,
        epilog='\n'.join([examples(__doc__.split(place + ':\n\n')[1].split('\n\n')[0]), '', 'others:', *others]))
    add_flags(parser, flags.most_used(sections.options(), [mode]), described=False)
    return parser


def resolve_architecture(args, parser):
    """Fill in what the architecture and the recipe decide, and check that the network exists.

    ``args`` has the flags of ``add_architecture_flags``, and ``moving_average_decay``.
    """
    try:
        resolve.take_network(args, nets.ARCHITECTURES)
    except ValueError as error:
        parser.error(error)


def parse_args(argv=None):
    """Parse, fill in the recipe and check; a mistake ends the program with one line and exit code 2.

    Args:
        argv (list of str): default sys.argv[1:].
    Returns:
        argparse.Namespace: every value set, of which ``settings.resolve`` makes settings; ``attack_*`` are those of the
        attacker that this mode uses. In training ``attack_precision`` and ``update_precision`` are None where they were
        not typed: the machines decide them (``training.resume.decide_precisions``). ``left_to_server``: see there, in
        ``sources``; ``notes`` (tuple of str): lines that the program is to say.
    """
    parser = get_parser()
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    try:
        mode = _check_mode(args, parser, argv)
        args = parse_with_checkpoint(parser, argv, args.load, training=not (args.eval or args.eval_directory),
                                     new_classifier=args.new_classifier)
        return _resolve(args, mode)
    except ValueError as error:
        parser.error(error)


def _check_mode(args, parser, argv):
    """The modes of a command (see ``modes_of``); refuses typed flags that mean nothing in them."""
    if args.eval and args.eval_directory:
        raise ValueError('--eval and --eval-directory: choose one')
    mode = modes.modes_of(args, launched_rank() is not None)
    refusal = flags.refusal(flags.typed(parser, argv), mode)
    if refusal:
        raise ValueError(refusal)
    return mode


def _resolve(args, mode):
    attacking.take_lengths(args)
    epsilon, step_size = args.attack_epsilon, args.attack_step_size  # that were typed
    recipe = recipes.RECIPES[args.recipe or nets.ARCHITECTURES[args.arch].recipe]
    attacking.check_kind(args, KINDS, recipe)
    _choose_data(args, modes.SERVED in mode)
    resolve.take_network(args, nets.ARCHITECTURES)
    sources.settle_augmentation(args)
    attacking.settle(args, recipe, epsilon, KINDS)
    resolve.take_outputs(args)
    resolve.take_recipe(args)
    if modes.EVAL not in mode and args.attack_iter == 0:
        attacking.note_unused(args, epsilon, step_size)
    # Where the warm-up begins from next to nothing, and is all that there is.
    if args.warmup_from is not None and args.warmup_epochs >= args.epochs:
        args.notes += '--warmup-epochs {:g}: the rate does not come to --base-lr within {} epochs'.format(
            args.warmup_epochs, args.epochs),
    # A run without an attack is still judged by one: the recipe's, or as in the FD release of the radius that is given.
    attacking.default(args, 'eval_attack_epsilon', args.attack_epsilon or recipe.attack_epsilon)
    resolve.check(args)
    _check_classifier(args)
    _check_files(args)
    attacking.check_lengths(args)
    if KINDS[args.attack].step_size is None:  # it has steps of its own
        args.attack_iter = args.attack_step_size = None
    attacking.take_threat_models(args, recipe, KINDS[args.attack])
    return args


def _choose_data(args, served):
    """Find the data set and with it the number of classes, and what is left to the data server."""
    args.notes = ()
    if args.data is None and not (args.fake or args.eval_directory):
        args.data = default_data()
    args.left_to_server = sources.left_to_server(args, served)
    sources.settle_classes(args)


def _check_classifier(args):
    for name in ('new_classifier', 'classifier_rate'):
        if getattr(args, name) and nets.ARCHITECTURES[args.arch].classifier is None:
            raise ValueError('--{}: it is not known which variables are the last layer of --arch {}'.format(
                name.replace('_', '-'), args.arch))


def _check_files(args):
    policy_of(sections.view_of(vars(args)))
    if args.load and not published.is_named(args.load):
        find_checkpoint(args.load)
    for name in ('data', 'eval_directory'):
        folder = getattr(args, name)
        if folder is not None and not os.path.isdir(folder):
            raise ValueError("--{} '{}': no such directory".format(name.replace('_', '-'), folder))
    target = os.path.dirname(os.path.abspath(args.prediction_file))
    if args.eval_directory and not (os.path.isdir(target) and os.access(target, os.W_OK)):
        raise ValueError("--prediction-file '{}': its folder is not there, or not writable".format(
            args.prediction_file))
