"""Stopping a run before its end, on all ranks after the same step: by a signal, or because of its loss."""
import os
import signal
import sys
import threading

import tensorflow.compat.v1 as tf
from tensorpack.callbacks import Callback
from tensorpack.utils import logger

from ranks.end import fail
from ranks.gather import largest_over_ranks, together
from training.step.loss_scale import step_is_skipped
from weights.find import name_latest

# What batch systems and launchers send before a time limit or a preemption.
SIGNALS = signal.SIGTERM, signal.SIGUSR1
EXIT_CODE = 128 + signal.SIGTERM  # for both: a requeueing script asks only whether the run can be continued


def signals_of(evaluation, launched):
    """The signals that end a run in order; the others end it at once.

    Who interrupts a program of one process, or an evaluation, is left what it has so far. Ranks in training do not see
    a Ctrl-C: it goes to their launcher.

    Args:
        evaluation (bool): not a training. launched (bool): whether mpirun or srun started this process.
    """
    return SIGNALS + (signal.SIGINT,) * (evaluation or not launched)


def exit_code(number):
    """Exit code of a program that this signal has ended."""
    return 128 + number if number == signal.SIGINT else EXIT_CODE


class StopSignal:
    """As a context, in the main thread: remembers a signal of ``numbers``, or ends a program that is still starting.

    A second SIGINT, if that is one of them, ends the process at once.

    Attributes:
        number (int): of the last signal, 0 before there was one.
        deferred (bool): set when somebody looks at ``number`` from time to time.
    """

    def __init__(self, numbers=SIGNALS):
        self.number, self.deferred = 0, False
        self._numbers = numbers

    def __enter__(self):
        self._before = [(number, signal.signal(number, self._receive)) for number in self._numbers]
        ends, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._woken_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        threading.Thread(target=self._count_interrupts, args=[ends], name='interrupts', daemon=True).start()
        return self

    def __exit__(self, *_):
        signal.set_wakeup_fd(self._woken_before)
        os.close(self._wake)  # which ends the thread
        for number, handler in self._before:
            signal.signal(number, handler)

    def _count_interrupts(self, numbers):
        """Read the signals that arrive. The handler waits for the main thread, which may be in a step of a minute."""
        found = 0
        with open(numbers, 'rb', buffering=0) as arriving:
            while found < 2:
                number = arriving.read(1)
                if not number:
                    return
                found += number[0] == signal.SIGINT and signal.SIGINT in self._numbers
                if found == 1 and number[0] == signal.SIGINT and self.deferred:
                    logger.warning('Ctrl-C: the run ends in order after its running step or batch; a second one ends '
                                   'it at once')
        os.write(2, b'ended by a second Ctrl-C\n')  # whatever locks the main thread may hold
        os._exit(exit_code(signal.SIGINT))

    def _receive(self, number, _):
        self.number = number
        if not self.deferred:
            logger.warning('stopped by {} before the first step'.format(signal.Signals(number).name))
            sys.exit(exit_code(number))


class StopTogether(Callback):
    """Ends the run on all ranks after the same step, when a signal reached any of them or a loss is not finite.

    The signals travel with each step, so a run of several ranks ends with the step after the running one at the latest.
    Then the first rank saves a checkpoint and the exit code is 143, or 130 after SIGINT. A loss that is not finite ends
    the run with one line and exit code 2; nothing is saved, because the step has spoilt the weights; unless a loss
    scale has skipped it.

    Must come after the callbacks that belong to a step.

    Args:
        signals (StopSignal). ranks (Ranks). folder (str): log directory.
        saver (CheckpointSaver): on the first rank; None on others.
        accuracy (TrainingAccuracy): whose counts of the epoch are kept too.
    """
    _chief_only = False

    def __init__(self, signals, ranks, folder, saver, accuracy):
        self.signals, self.ranks, self.folder, self.saver, self.accuracy = signals, ranks, folder, saver, accuracy
        self._stopped_by = 0

    def _setup_graph(self):
        cost, = self.get_tensors_maybe_in_tower(['cost:0'])
        self._signal = tf.placeholder(tf.int32, [], name='stop_signal')
        self._bad_loss = tf.where(tf.is_finite(cost) | step_is_skipped(), 0, 1 + self.ranks.rank)
        self._found = largest_over_ranks(self.ranks, tf.stack([self._signal, self._bad_loss]), 'reasons_to_stop')

    def _before_train(self):
        self.signals.deferred = True

    def _before_run(self, _):
        return tf.train.SessionRunArgs(self._found, {self._signal: self.signals.number})

    def _after_run(self, _, run):
        self._number, self._bad_rank = run.results

    def _trigger_step(self):
        if self._bad_rank:
            fail("the loss{} is not finite at step {}; {}; a lower --base-lr may help".format(
                ' of rank {}'.format(self._bad_rank - 1) if self.ranks.size > 1 else '', self.global_step,
                name_latest(self.folder)), self.ranks.rank)
        self._stop_by(self._number if self.ranks.size > 1 else self.signals.number)

    def watched(self, batches):
        """``batches`` (ValidationBatches) for an evaluation that a signal ends after the running batch."""
        return _Watched(batches, self._check)

    def _check(self):
        self._stop_by(self.trainer.sess.run(
            self._found, {self._signal: self.signals.number, self._bad_loss: 0})[0])

    def _stop_by(self, number):
        if number:
            self._stopped_by = int(number)  # sys.exit would print one of NumPy
            sys.exit(exit_code(self._stopped_by))

    def _after_train(self):
        if self._stopped_by:
            counted = self.accuracy.counted()
            # All ranks wait for the first: a launcher kills those that are left when one has ended.
            together(self.ranks, lambda: self.saver and self.saver.save(lambda: self.accuracy.keep(*counted)))
            logger.warning('stopped by {} after step {}; checkpoint saved; continue with --resume'.format(
                signal.Signals(self._stopped_by).name, self.global_step))


class _Watched:
    """Batches with a ``check`` before each, and as many checks on all ranks: those with fewer batches check on."""

    def __init__(self, batches, check):
        self._batches, self._check = batches, check

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        for batch in self._batches:
            self._check()
            yield batch
        for _ in range(self._batches.rounds - len(self)):
            self._check()
