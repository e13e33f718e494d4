"""The callbacks that time the steps of ``training_step.py``, and say what they took."""
import json
import select
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.callbacks import Callback
from tensorpack.train import StopTraining

import measure
from ranks.gather import gather_texts

WARM_UP = 2  # steps; TensorFlow prepares its graph in the first one
GRADIENT_TIMES = 'gradient_times'


class StepClock(Callback):
    """Times the steps behind the warm-up and hands the result over; with others at work, keeps them company then until
    they are done as well.

    Args:
        ranks (Ranks). batch (int): images of one rank in a step. steps (int): to be timed. among_others,
        gradient_times (bool): see ``training_step.train``.
    """
    _chief_only = False

    def __init__(self, ranks, batch, steps, among_others, gradient_times):
        self.ranks, self.batch, self.steps = ranks, batch, steps
        self.among_others, self.gradient_times = among_others, gradient_times

    def _before_train(self):
        self.before, self.times = measure.resident(), []

    def _before_run(self, _):
        return tf.train.SessionRunArgs([GRADIENT_TIMES + ':0'] if self.gradient_times else [])

    def _after_run(self, _, values):
        self.times += [times.tolist() for times in values.results]

    def _trigger_step(self):
        done = self.global_step - WARM_UP
        if done == 0:
            if self.among_others:
                measure.say('ready')
                sys.stdin.readline()
            self.begin = time.perf_counter()
        elif done == self.steps:
            self.hand_over(time.perf_counter() - self.begin)
        if done >= self.steps and not (self.among_others and not closed(sys.stdin)):
            raise StopTraining()

    def hand_over(self, seconds):
        """Say what the steps took, on the first rank."""
        result = {'images': self.steps * self.batch * self.ranks.size, 'seconds': seconds, 'before': self.before,
                  'peak': measure.resident(), 'batch': self.batch}
        if self.gradient_times:
            texts = gather_texts(self.ranks, json.dumps(self.times[-self.steps:]))
            on_all = np.array([json.loads(text) for text in texts]).max(axis=0)  # [steps, gradients]
            result['ready'] = np.stack([on_all.min(axis=1), on_all.max(axis=1)], axis=1).tolist()
        if self.ranks.is_chief:
            measure.say(result)


class TurnClock(StepClock):
    """Times as many steps behind the warm-up for every line that comes; training ends with the lines."""

    def _trigger_step(self):
        done = self.global_step - WARM_UP
        if done < 0 or done % self.steps:
            return
        if done:
            self.hand_over(time.perf_counter() - self.begin)
        else:
            measure.say('ready')
        if not sys.stdin.readline():
            raise StopTraining()
        self.begin = time.perf_counter()


def closed(stream):
    """Whether the other end of a pipe that nothing more is written to has been closed."""
    return bool(select.select([stream], [], [], 0)[0])
