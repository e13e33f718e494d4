"""A run's log directory: its name, and which one is the last."""
import os

from files import output_folders
from nets import network_name
from settings.attack import LINF

RUN_FILE = 'run.json'


def log_directory(args, size):
    """Name of a training run's directory, as the releases build it; a --logdir with a slash is taken as it is."""
    if args.logdir and os.sep in args.logdir:
        return args.logdir.rstrip(os.sep)
    name = 'train_log/{}-{}-Batch{}-{}GPUs-iter{}-epsilon{}-step{}'.format(
        args.attack.upper(), network_name(args), args.batch, size, args.attack_iter, args.attack_epsilon,
        args.attack_step_size)
    return name + ('' if args.norm == LINF else '-' + args.norm) + ('-' + args.logdir if args.logdir else '')


def open_log_directory(base, resume):
    """The directory to write to: a new one, or with ``resume`` that of the last run.

    Raises:
        ValueError: nothing to resume. OSError: it cannot be made.
    """
    if not resume:
        return output_folders.make_new(base)
    found, _ = output_folders.numbered(base)
    if not found:
        raise ValueError("--resume: there is no run '{}'; without --resume a new one starts".format(base))
    return found[-1]


def last_run(base):
    """Directory of the last run named ``base`` that got as far as writing its flags; None if there is none."""
    runs = [folder for folder in output_folders.numbered(base)[0] if os.path.isfile(os.path.join(folder, RUN_FILE))]
    return runs[-1] if runs else None
