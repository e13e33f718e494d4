#!/usr/bin/env python
"""The SAT release's EfficientNet command: its flags, in the syntax of absl, on the evaluation of the main program.

    python efficientnet/main.py --mode=eval --model_name=efficientnet-b0 --ckpt_path=... --data_dir=... \
        --use_tpu=false --use_bfloat16=false --transpose_input=false --strategy=gpus --batch_norm_momentum=0.9 \
        --batch_norm_epsilon=1e-5 --sat_preprocessing=True --moving_average_decay=0

What is no flag of the release is the main program's, as ``--attack-iter 10``. Every image is judged once; the release
leaves out the last ones that fill no batch.
"""
import argparse
import os
import re
import shlex
import sys
from typing import Any, Callable, NamedTuple, Optional, Tuple

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

from commands.command_line import parse_args
from data.folders import default_data, open_dataset
from efficientnet.scaling import SIZES
from nets import ARCHITECTURES, architecture_defaults
from ranks.command_line import OneLineParser
from ranks.start import start_ranks
from settings import sections
from weights.flags import checkpoint_words

ARCH = 'EfficientNet'
MODES = ('train_and_eval', 'train', 'eval')
_DATA_FORMATS = {'channels_first': 'NCHW', 'channels_last': 'NHWC'}


def boolean(text):
    """A boolean as absl reads it."""
    if text.lower() in ('true', 't', '1'):
        return True
    if text.lower() in ('false', 'f', '0'):
        return False
    raise argparse.ArgumentTypeError("'{}' is neither true nor false".format(text))


class Flag(NamedTuple):
    """A flag of the release that says what to judge. ``same``: the main program's flag of the same meaning."""
    kind: Callable
    default: Any
    help: str
    same: Optional[str] = None
    choices: Optional[Tuple] = None


_OPTIONS = {option.dest: option for option in sections.options()}


def _like(name, default, shown, choices=None):
    """The ``Flag`` of an option of the main program by its name there."""
    option = _OPTIONS[name]
    return Flag(option.kind, default, shown, option.flag.names[-1], choices)


# Defaults are the release's; None stands for those that the main program shares.
EVALUATION = {
    'mode': Flag(str, MODES[0], 'one of {}; only eval is done here'.format(', '.join(MODES)), choices=MODES),
    'model_name': _like('model_name', architecture_defaults(ARCH)['model_name'], 'size of the network', tuple(SIZES)),
    'ckpt_path': Flag(str, None, "checkpoint to judge (default: model_dir's newest)"),
    'model_dir': Flag(str, None, 'folder of checkpoints; the results go to its sub-folder eval or eval_<eval_name>'),
    'eval_name': Flag(str, None, 'part of the name of the folder of results, model_dir or else results/'),
    'data_dir': Flag(str, None, "as the main program's --data, with its default; the release's is a bucket of made-up "
                                'images'),
    'eval_batch_size': Flag(int, 64, 'images in a step, over all ranks'),
    'num_eval_images': Flag(int, None, 'how many images there must be; all are judged (default: any number)'),
    'input_image_size': _like('input_size', None, "pixels per side (default: the size's)"),
    'num_label_classes': _like('num_classes', None, '(default: 1000)'),
    'sat_preprocessing': Flag(boolean, False, 'scale images to [-1, 1], not by means and standard deviations'),
    # The release's default, channels_first, is for its accelerators; the main program chooses by the device.
    'data_format': Flag(str, None, "channels_first or channels_last (default: the device's)",
                        choices=tuple(_DATA_FORMATS)),
    'batch_norm_epsilon': _like('batch_norm_epsilon', 1e-3, 'SAT evaluates with 1e-5'),
    'moving_average_decay': _like('moving_average_decay', 0.9999,
                                  "judge the weights' moving averages, with 0 the weights themselves"),
    'width_coefficient': _like('width_coefficient', None, "of the channels (default: the size's)"),
    'depth_coefficient': _like('depth_coefficient', None, "of the repeats of a block (default: the size's)"),
}

# The release's flags of training: by what name the main program has them, and their kind and its flag.
_TRAINING = {
    'train_batch_size': 'batch', 'batch_norm_momentum': 'batch_norm_momentum', 'dropout_rate': 'dropout_rate',
    'survival_prob': 'survival_prob', 'base_learning_rate': 'base_lr', 'lr_decay_epoch': 'lr_decay_epochs',
    'weight_decay': 'weight_decay', 'label_smoothing': 'label_smoothing', 'augment_name': 'augment_name',
    'randaug_num_layers': 'randaug_num_layers', 'randaug_magnitude': 'randaug_magnitude'}
TRAINING = {
    **{name: (_OPTIONS[same].kind, _OPTIONS[same].flag.names[-1]) for name, same in _TRAINING.items()},
    'mixup_alpha': (float, None), 'train_steps': (int, None), 'steps_per_eval': (int, None),
    'num_train_images': (int, None), 'iterations_per_loop': (int, None), 'log_step_count_steps': (int, None),
    'archive_ckpt': (boolean, None)}
TRAIN_DEFAULTS = {'train_batch_size': 2048, 'batch_norm_momentum': 0.99}  # SAT release; the batch is that of all ranks

# The release's other flags: their kind, values that ask for nothing, and what the rest asks for that is not here.
ABSENT = {
    'strategy': (str, ('gpus', ''), 'other strategy than one process for each GPU'),
    'use_tpu': (boolean, (False,), 'TPU'), 'tpu': (str, ('',), 'TPU'), 'tpu_zone': (str, ('',), 'TPU'),
    'gcp_project': (str, ('',), 'Google Cloud'), 'use_bfloat16': (boolean, (False,), 'bfloat16'),
    'transpose_input': (boolean, (False,), 'transposed input'), 'use_xla': (boolean, (False,), 'XLA'),
    'skip_host_call': (boolean, (False,), 'host call'), 'use_cache': (boolean, (False,), 'cache of images'),
    'num_parallel_calls': (int, (64,), 'other number of readers than that of the cores'),
    'holdout_shards': (int, (0,), 'validation on training shards'),
    'use_async_checkpointing': (boolean, (False,), 'asynchronous checkpoint'),
    'eval_timeout': (int, (), 'waiting for checkpoints'),
    'export_dir': (str, ('',), 'export'), 'export_to_tpu': (boolean, (False,), 'export'),
    'bigtable_project': (str, ('',), 'Bigtable'), 'bigtable_instance': (str, ('',), 'Bigtable'),
    'bigtable_table': (str, ('', 'imagenet'), 'Bigtable'), 'bigtable_train_prefix': (str, ('',), 'Bigtable'),
    'bigtable_eval_prefix': (str, ('',), 'Bigtable'), 'bigtable_column_family': (str, ('',), 'Bigtable'),
    'bigtable_column_qualifier': (str, ('',), 'Bigtable')}

_KINDS = {name: flag[0] for table in (EVALUATION, TRAINING, ABSENT) for name, flag in table.items()}
_WORD = re.compile(r'--?(\w+)(=.*)?', re.DOTALL)
# The main program's flags with which an attack is wanted.
_ATTACK = re.compile(r'--(eval-)?attack([-=].*)?|--norm(=.*)?|--(un)?targeted', re.DOTALL)


def get_parser():
    """The parser of the release's flags, in the spelling of ``_spelt_out``."""
    parser = OneLineParser(description=__doc__.split('\n')[0], allow_abbrev=False, epilog=(
        "Booleans are --flag, --noflag or --flag=true. All flags of the main program may be added: `python main.py "
        "--help` lists them. Without one of its attack flags the evaluation is clean, as the release's."))
    group = parser.add_argument_group('evaluation')
    for name, flag in EVALUATION.items():
        shown = ' (default: %(default)s)' if flag.default is not None else ''
        group.add_argument('--' + name, type=flag.kind, default=flag.default, choices=flag.choices,
                           metavar=flag.kind.__name__.upper(), help=flag.help + shown)
    group = parser.add_argument_group('training', 'accepted with --mode=eval, where they have no meaning')
    for name, (kind, same) in TRAINING.items():
        group.add_argument('--' + name, type=kind, metavar=kind.__name__.upper(),
                           help='{} of the main program'.format(same) if same else 'not in the main program')
    group = parser.add_argument_group('not here', 'accepted with the values that are named, which ask for nothing')
    for name, (kind, harmless, what) in ABSENT.items():
        values = ' or '.join(str(value).lower() or "''" for value in harmless) or 'none'
        group.add_argument('--' + name, type=kind, metavar=kind.__name__.upper(), help='{}: {}'.format(what, values))
    return parser


def _spelt_out(word):
    """A flag of the release in absl's spelling, as argparse knows it: two dashes, booleans with a value."""
    found = _WORD.fullmatch(word)
    if not found:
        return word
    name, value = found.groups()
    if value is None and _KINDS.get(name) is boolean:
        return '--{}=true'.format(name)
    if value is None and name.startswith('no') and _KINDS.get(name[2:]) is boolean:
        return '--{}=false'.format(name[2:])
    return '--' + word.lstrip('-') if name in _KINDS else word


def parse(argv=None):
    """Parse, and refuse what is not here; a mistake ends the program with one line and exit code 2.

    Args:
        argv (list of str): default sys.argv[1:].
    Returns:
        argparse.Namespace of the release's flags, and ``typed``, the names of those of ``EVALUATION`` that were typed;
        list of the main program's.
    """
    parser = get_parser()
    words = [_spelt_out(word) for word in (sys.argv[1:] if argv is None else argv)]
    flags, others = parser.parse_known_args(words)
    typed, _ = parser.parse_known_args(words, argparse.Namespace(**dict.fromkeys(EVALUATION)))
    flags.typed = {name for name in EVALUATION if getattr(typed, name) is not None}
    for name, (_, harmless, what) in ABSENT.items():
        value = getattr(flags, name)
        if value is not None and value not in harmless:
            parser.error('--{}={}: there is no {} here; leave the flag out'.format(name, str(value).lower(), what))
    if flags.mode != 'eval':
        parser.error('--mode={}: the main program trains, adversarially if --attack-iter 0 is left out:  {}'.format(
            flags.mode, _training_command(flags)))
    try:
        flags.data_dir = flags.data_dir or default_data()
    except ValueError as error:
        parser.error(error)
    if not flags.data_dir:
        parser.error('--mode=eval needs --data_dir DIR, or SAT_DATA')
    if not (flags.ckpt_path or flags.model_dir):
        parser.error('--mode=eval needs --ckpt_path CHECKPOINT, or --model_dir DIR')
    return flags, others


def _network_arguments(flags, names=EVALUATION):
    """The main program's flags that both modes share, for the release's ``names``."""
    # The main program crops small images in another way if it is not told.
    words = ['--arch', ARCH, '--augmentation', ARCHITECTURES[ARCH].augmentation]
    if 'sat_preprocessing' in names:
        words += ['--input-scaling', 'sat' if flags.sat_preprocessing else 'mean-std']
    if flags.data_format:
        words += ['--data-format', _DATA_FORMATS[flags.data_format]]
    for name, flag in EVALUATION.items():
        if flag.same and name in names and getattr(flags, name) is not None:
            words += [flag.same, str(getattr(flags, name))]
    return words


def _training_command(flags):
    words = _network_arguments(flags) + ['--data', flags.data_dir or 'DIR', '--attack-iter', '0']
    typed = {name: getattr(flags, name) for name in TRAINING if getattr(flags, name) not in (None, '')}
    for name, value in dict(TRAIN_DEFAULTS, **typed).items():
        if TRAINING[name][1]:
            words += [TRAINING[name][1], str(value)]
    lost = ['--' + name for name, value in typed.items() if value and not TRAINING[name][1]]
    return '{}  (--batch is for each rank{})'.format(
        _command(words), '; without {}'.format(', '.join(lost)) if lost else '')


def _command(words):
    return ' '.join(shlex.quote(word) for word in ['python', 'main.py'] + words)


def evaluation_arguments(flags, others, num_ranks):
    """The main program's argument list for an evaluation.

    Args:
        flags, others: from ``parse``. num_ranks (int): processes that share a batch.
    Returns:
        list of str.
    Raises:
        ValueError: the batch cannot be shared, or the checkpoint cannot be read.
    """
    if flags.eval_batch_size % num_ranks:
        raise ValueError('--eval_batch_size {}: no multiple of the {} ranks that share it'.format(
            flags.eval_batch_size, num_ranks))
    load = flags.ckpt_path or flags.model_dir
    # A checkpoint that says what it is knows better than the release's defaults.
    names = flags.typed if checkpoint_words(load) else EVALUATION
    words = ['--eval', '--load', load, '--data', flags.data_dir,
             '--batch', str(flags.eval_batch_size // num_ranks)] + _network_arguments(flags, names)
    if flags.model_dir or flags.eval_name:
        words += ['--results-dir', os.path.join(flags.model_dir or 'results',
                                                'eval_' + flags.eval_name if flags.eval_name else 'eval')]
    if not any(map(_ATTACK.fullmatch, others)):
        words += ['--attack-iter', '0']
    return words + others


def main(argv=None):
    flags, others = parse(argv)
    ranks = start_ranks()
    try:
        words = evaluation_arguments(flags, others, ranks.size)
        args = parse_args(words)
        if flags.num_eval_images is not None:
            found = len(open_dataset(args.data, 'val').files)
            if found != flags.num_eval_images:
                raise ValueError("--num_eval_images {}: '{}' has {}, and all are judged; leave the flag out".format(
                    flags.num_eval_images, args.data, found))
    except ValueError as error:
        get_parser().error(error)
    if ranks.is_chief:
        print('The same of the main program:  {}'.format(_command(words)), flush=True)
    from commands.run import run  # as in main.py
    return run(args)


if __name__ == '__main__':
    sys.exit(main())
