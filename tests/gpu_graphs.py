"""The graphs of main.py's commands as a machine with a GPU builds them, without a session to run them in.

The programs ask in one way whether there is a GPU, ``tf.config.list_physical_devices``; here it says that there is. All
else is main.py's own, from the flags to where the graph is whole: there ``Built`` ends the command.
"""
import contextlib
import os
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

import main
from adv_model import AdvImageNetModel
from commands import classify, judge
from commands.classify import classify_directory
from commands.judge import evaluate
from commands.train import train
from ranks.launched import Ranks
from training import run
from training.trainer import make_trainer


class Built(Exception):
    """The graph of a command is whole."""


class Graph(NamedTuple):
    """A command's graph, and the names of its ops that were made for attacks."""
    graph: tf.Graph
    attack_ops: set


def _end(*_):
    raise Built


class Machine:
    """A machine with a GPU, of which only the graphs are.

    Args:
        monkeypatch (pytest.MonkeyPatch): undoes what this changes. folder (pathlib.Path): for what commands write.
        images (str): a data set, with classes of which one is named a.
    """

    def __init__(self, monkeypatch, folder, images):
        self._folder, self._images, self._attack_ops = folder, images, set()
        self._weights = folder / 'weights.npz'
        np.savez(self._weights, none=np.zeros(1))
        monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['a GPU'])
        monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda device: {})
        monkeypatch.delenv('NVIDIA_TF32_OVERRIDE', raising=False)  # which the tests set, and machines of users do not
        for command in judge, classify:
            monkeypatch.setattr(command, 'matched', _end)  # what they do with a graph that is whole
        monkeypatch.setattr(run, 'make_trainer', self._trainer_that_ends(make_trainer))
        monkeypatch.setattr(AdvImageNetModel, 'attack', self._noted(AdvImageNetModel.attack))

    @staticmethod
    def _trainer_that_ends(make_trainer):
        def make(*args):
            trainer = make_trainer(*args)
            trainer.initialize = _end  # called when the callbacks have added their ops
            return trainer
        return make

    def _noted(self, attack):
        def watch(*args, **options):
            graph = tf.get_default_graph()
            before = len(graph.get_operations())
            result = attack(*args, **options)
            self._attack_ops.update(op.name for op in graph.get_operations()[before:])
            return result
        return watch

    def flags(self, mode, *flags):
        """A whole command line: ``mode`` is 'train', 'eval' or 'eval-directory'."""
        given = {'train': ['--logdir', str(self._folder / 'run')], 'eval': ['--eval'],
                 'eval-directory': ['--eval-directory', os.path.join(self._images, 'val', 'a')]}[mode]
        if mode != 'train':
            given += ['--load', str(self._weights)]
        if mode != 'eval-directory' and '--fake' not in flags:
            given += ['--data', self._images]
        return given + ['--num-classes', '1000'] * ('--num-classes' not in flags) + list(flags)

    def build(self, mode, *flags, ranks=Ranks()):
        """The ``Graph`` of a command; see ``flags``."""
        args = main.parse_args(self.flags(mode, *flags))
        command = {'train': train, 'eval': evaluate}.get(mode)
        self._attack_ops = set()
        with tf.Graph().as_default() as graph, contextlib.ExitStack() as held, contextlib.suppress(Built):
            if command:
                command(args, ranks, None, held)
            else:
                classify_directory(args, ranks)
            raise AssertionError('{} ended without a graph'.format(flags))
        return self.of(graph)

    def of(self, graph):
        """The ``Graph`` of the last command, or of what was built by hand before there was any."""
        return Graph(graph, self._attack_ops)
