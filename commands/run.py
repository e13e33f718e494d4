"""Running a command: its ranks, its weights, and how it ends."""
import contextlib
import logging
import threading

import tensorflow.compat.v1 as tf

from commands import sources
from commands.classify import classify_directory
from commands.judge import evaluate
from commands.train import train
from ranks.end import end_by, fail
from ranks.gather import together
from ranks.heartbeats import Heartbeats
from ranks.launched import launched_rank
from ranks.start import start_ranks
from ranks.terminal import ROOMS, open_terminal, say
from training.stopping import StopSignal, signals_of
from weights.flags import refuse_another_network
from zoo import published
from zoo.fetch import bring


def run(args):
    """Do what the flags ask for; what is not this program's fault, such as a full disk, ends it with one line.

    Returns:
        int: the program's exit code; None for a good end.
    """
    if args.eval:
        try:
            sources.check(args)  # before a checkpoint is brought here
        except ValueError as error:
            fail(error, launched_rank() or 0)
    try:
        with _quiet_threads():
            if args.eval_directory:
                with _started(args) as ranks:
                    classify_directory(args, ranks)
            else:
                numbers = signals_of(args.eval, launched_rank() is not None)
                with StopSignal(numbers) as signals, _started(args) as ranks, contextlib.ExitStack() as held:
                    (evaluate if args.eval else train)(args, ranks, signals, held)
    except (OSError, tf.errors.OpError) as error:
        end_by(error)
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def _started(args):
    """The ranks, with heartbeats while they are at work and the weights of ``--load`` here, which are those of the
    network; only the first one speaks."""
    # tensorpack 0.11 reports a failed run with a malformed logging call, whose own traceback would hide the failure.
    logging.raiseExceptions = False
    open_terminal(args.verbose)
    ranks = start_ranks()
    if not ranks.is_chief:
        for name in ROOMS:
            logging.getLogger(name).setLevel(logging.ERROR)
    with Heartbeats(ranks):
        bring_weights(args.load, ranks)
        if args.load:
            together(ranks, lambda: refuse_another_network(args, args.new_classifier))
        yield ranks


@contextlib.contextmanager
def _quiet_threads():
    """Without the traceback of TensorFlow's thread that writes events; it has logged the failure in a line."""
    hook = threading.excepthook
    threading.excepthook = lambda failed: isinstance(failed.exc_value, tf.errors.OpError) or hook(failed)
    try:
        yield
    finally:
        threading.excepthook = hook


def bring_weights(load, ranks):
    """Download what ``--load zoo:NAME`` means, by the first rank of each machine, while the others wait."""
    if published.is_named(load):
        together(ranks, lambda: ranks.local_rank == 0 and bring(load, say if ranks.is_chief else None))
