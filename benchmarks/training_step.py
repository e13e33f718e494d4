#!/usr/bin/env python
"""Training steps of main.py's flags on its fake data, timed: what memory.py, scaling.py and train_speed.py start.

    .venv/bin/python benchmarks/training_step.py --steps 3 --arch CifarResNet --batch 8

Trainer, input, session and the callbacks that belong to a step are those of a real run; checkpoints and logs are left
out. Under mpirun the ranks train together.
"""
import argparse
import os
import sys

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import measure
from ranks.launched import launched_rank
from ranks.sessions import session_config
from ranks.start import start_ranks

PROGRAM = os.path.abspath(__file__)
MANY = 10 ** 9  # steps of the epoch; the clock ends it


def command(steps, flags, *more):
    """The command for this program, which says what ``train`` does."""
    return [sys.executable, PROGRAM, '--steps', str(steps), *more, *flags]


def add_flags(parser, defaults):
    """Add the flags of a benchmark whose variants are flags of main.py; ``defaults``: what they are, in words."""
    parser.add_argument('--variant', type=measure.variant, action='append', metavar="'NAME: FLAGS'",
                        help='what to measure, again and again; the first is the reference (default: {})'.format(
                            defaults))
    parser.add_argument('--steps', type=measure.positive, default=3, metavar='N',
                        help='timed steps of a measurement (default: %(default)s)')
    measure.add_flags(parser)


def commands(own, flags, defaults, environment=(), more=()):
    """{variant: (command, environment)}.

    Args:
        own: the flags of ``add_flags``. flags (list of str): main.py's, of all variants. defaults (tuple of str):
            variants where none are given, as ``measure.variant`` takes them. environment (dict): of all. more: flags
            of this program.
    """
    return {variant.name: (command(own.steps, flags + variant.flags, *more), dict(environment, **variant.environment))
            for variant in own.variant or map(measure.variant, defaults)}


def figures(result, quantities):
    """{name: number} of what ``train`` says; ``quantities`` (dict): {Quantity: function of that}."""
    return {quantity.name: value(result) for quantity, value in quantities.items()}


def speed(result):
    """Images per second, of what ``train`` says."""
    return result['images'] / result['seconds']


def note_gradients(trainer):
    """Make a trainer that is not set up yet add a tensor GRADIENT_TIMES to its graph: when each gradient was ready."""
    import tensorflow.compat.v1 as tf

    from step_clock import GRADIENT_TIMES
    exchange = trainer.allreduce

    def noted(gradients):
        times = []
        for gradient, _ in gradients:
            with tf.control_dependencies([gradient]):
                times.append(tf.timestamp())
        tf.stack(times, name=GRADIENT_TIMES)
        return exchange(gradients)
    trainer.allreduce = noted


def peak(result):
    """MiB of the largest resident memory, of what ``train`` says."""
    return result['peak'] / 2 ** 20


def train(flags, steps, among_others=False, gradient_times=False, in_turns=False):
    """Train with ``main.py``'s flags (list of str); the first rank says, by ``measure.say``, a dict.

    ``images``, in the timed steps of all ranks together; ``seconds``, of these steps; ``before`` and ``peak``, this
    rank's largest resident memory up to the first step and up to the end, in bytes; ``batch``, of one rank. With
    ``gradient_times`` also ``ready``: for each step, when the first and the last gradient were ready on all ranks, in
    seconds since the epoch by the ranks' clocks. ``in_turns``: one such dict for every line that this process reads.
    """
    import tensorflow.compat.v1 as tf
    from tensorpack.callbacks import RunUpdateOps
    from tensorpack.tfutils.sesscreate import NewSessionCreator
    from tensorpack.tfutils.sessinit import JustCurrentSession
    from tensorpack.utils import logger

    from commands.command_line import parse_args
    from commands.networks import make_training_model
    from data.stream import FakeStream
    from ranks.precision import agreed_precisions
    from settings.resolve import resolve
    from step_clock import StepClock, TurnClock
    from training.callbacks import FeedTrainingStep, GiveBackMemory
    from training.inputs import local_input, staged
    from training.resume import decide_precisions
    from training.trainer import make_trainer

    args = parse_args(['--fake'] + flags)
    ranks = start_ranks()
    args.attack_precision, args.update_precision = decide_precisions(vars(args), None, agreed_precisions(ranks))[0]
    logger.setLevel('ERROR')
    model = make_training_model(resolve(args), ranks.rank)
    tf.set_random_seed(args.seed)
    trainer = make_trainer(ranks, args.gradient_compression)
    if gradient_times:
        note_gradients(trainer)
    source = local_input(FakeStream(args.batch, args.input_size, args.num_classes), 0)
    trainer.setup_graph(model.get_input_signature(), staged(source), model.build_graph, model.get_optimizer)
    clock = (TurnClock if in_turns else StepClock)(ranks, args.batch, steps, among_others, gradient_times)
    trainer.train([FeedTrainingStep(), GiveBackMemory(), RunUpdateOps(), clock], [],
                  NewSessionCreator(config=session_config(ranks)), JustCurrentSession(), MANY, 1, 1)


def _cores(text):
    return [int(core) for core in text.split(',')]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--steps', type=measure.positive, default=3, help='timed steps (default: %(default)s)')
    parser.add_argument('--cores', type=_cores, metavar='C,C,...', help='run rank k on the k-th of these cores only')
    for name in ('--among-others', '--gradient-times', '--in-turns'):
        parser.add_argument(name, action='store_true', help=argparse.SUPPRESS)
    return parser.parse_known_args()


def main():
    own, flags = parse_args()
    if own.cores:  # before there are threads
        os.sched_setaffinity(0, {own.cores[launched_rank() or 0]})
    train(flags, own.steps, own.among_others, own.gradient_times, own.in_turns)


if __name__ == '__main__':
    main()
