"""A run's log directory: its name, and which one is the last."""
import glob
import os
import re
import time

from files import output_folders
from nets import network_name
from settings.attack import LINF

RUN_FILE = 'run.json'
_WHEN = '-%Y-%m-%d-%H%M'
_BEHIND = re.compile(r'-\d{4}-\d\d-\d\d-\d{4}(-\d+)?')  # of a base: when, and its number among those of that minute


def log_directory(args, size):
    """Base of the name of a training run's directory: what is trained, under which attack, by how many ranks. A
    --logdir with a slash is the name itself."""
    if is_whole_name(args.logdir):
        return args.logdir.rstrip(os.sep)
    attack = '{}{}-eps{:g}{}'.format(args.attack.upper(), args.attack_iter, args.attack_epsilon,
                                     '' if args.norm == LINF else '-' + args.norm) if args.attack_iter else 'clean'
    return os.path.join('train_log', '-'.join([network_name(args), args.activation_name.replace(':', ''), attack] +
                                              ['batch{}'.format(args.batch), '{}rank{}'.format(size, 's' * (size > 1))]
                                              + ([args.logdir] if args.logdir else [])))


def released_directory(args, size):
    """The name that a run's directory had in the releases, with GPUs for ranks, and here until names had a date."""
    name = 'train_log/{}-{}-Batch{}-{}GPUs-iter{}-epsilon{}-step{}'.format(
        args.attack.upper(), network_name(args), args.batch, size, args.attack_iter, args.attack_epsilon,
        args.attack_step_size)
    return name + ('' if args.norm == LINF else '-' + args.norm) + ('-' + args.logdir if args.logdir else '')


def is_whole_name(logdir):
    """Whether a --logdir names the directory itself."""
    return bool(logdir) and os.sep in logdir


def runs_of(args, size):
    """The directories that runs of these flags have been given, the last one last."""
    base = log_directory(args, size)
    if is_whole_name(args.logdir):
        return output_folders.numbered(base)[0]
    dated = [path for path in glob.glob(glob.escape(base) + '-*') if _BEHIND.fullmatch(path[len(base):])]
    return output_folders.numbered(released_directory(args, size))[0] + sorted(dated, key=_age)


def _age(path):
    """Key that sorts directories of one base: by when, then by number."""
    when, number = re.search(r'(-\d{4}-\d\d-\d\d-\d{4})(?:-(\d+))?$', path).groups()
    return when, int(number or 1)


def open_log_directory(args, size):
    """The directory to write to: a new one, or with ``--resume`` that of the last run.

    Raises:
        ValueError: nothing to resume. OSError: it cannot be made.
    """
    base = log_directory(args, size)
    if not args.resume:
        return output_folders.make_new(base if is_whole_name(args.logdir) else base + time.strftime(_WHEN))
    found = runs_of(args, size)
    if not found:
        raise ValueError("--resume: there is no run '{}'; without --resume a new one starts".format(base))
    return found[-1]


def last_run(args, size):
    """Directory of the last run of these flags that got as far as writing its flags; None if there is none."""
    runs = [folder for folder in runs_of(args, size) if os.path.isfile(os.path.join(folder, RUN_FILE))]
    return runs[-1] if runs else None
