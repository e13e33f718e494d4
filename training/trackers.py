"""Services that people follow runs with, told of flags, epochs and results: Weights & Biases, MLflow, TensorBoard.

What they do of themselves is theirs to decide, by their own variables: WANDB_MODE=offline, WANDB_PROJECT,
MLFLOW_TRACKING_URI=file:/a/folder, MLFLOW_EXPERIMENT_NAME.
"""
import importlib.util
import json
import os
import queue
import signal
import sys
import threading

from tensorpack.utils import logger

from files.atomic import write_text
from files.json_files import read_json
from files.typed import record, text, whole
from settings.run import MLFLOW, TENSORBOARD, WANDB
from training.services import MLflow, TensorBoard, WeightsAndBiases
from training.stopping import exit_code

SERVICES = {WANDB: WeightsAndBiases, MLFLOW: MLflow, TENSORBOARD: TensorBoard}
FINISHED, FAILED, KILLED = 'FINISHED', 'FAILED', 'KILLED'
# Until a service that does not answer at the end is left: W&B gives up a start after 90; who sends a signal may soon
# send another.
_SECONDS, _SECONDS_STOPPED = 100, 10
_KNOWN = record({'run': text(1000), 'epoch': whole(0, 2 ** 62)})


def check(names):
    """Refuse services whose package is not installed.

    Raises:
        ValueError: says what to type.
    """
    for name in names:
        if importlib.util.find_spec(SERVICES[name].module) is None:
            raise ValueError('--track {}: it is not installed here; type: {} -m pip install {}'.format(
                name, sys.executable, SERVICES[name].package))


class Trackers:
    """The services that follow one run: a context, at whose end they are told how it ended.

    Each has a thread of its own for all that it does, so that no run waits for a network. One that fails is said once,
    and left out from then on. With what is kept in the run's folder it goes on, under --resume, in the service's run.

    Args:
        names (sequence of str): of ``SERVICES``. folder (str): of the run. flags (dict): name to value.
        num_classes (int).
    """

    def __init__(self, names, folder, flags, num_classes):
        self.num_classes = num_classes
        self._epochs = []
        self._results = {}
        self._threads = [_Service(name, folder, {flag: _plain(value) for flag, value in flags.items()})
                         for name in names]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __call__(self, epochs):
        """Tell them of the ``epochs`` (list of Epoch) of a training, all so far, of which some may be known."""
        self._epochs = [(epoch.number, figures(epoch, self.num_classes)) for epoch in epochs]
        self._results = _last_and_best(self._epochs)
        for thread in self._threads:
            thread.tasks.put(self._epochs)

    def tell_results(self, results):
        """Tell them of the content of results.json: its numbers, under its names."""
        self._results = dict(_numbers(results))

    def __exit__(self, kind, error, traceback):
        stopped = kind is KeyboardInterrupt or (kind is SystemExit and error.code in map(exit_code, signal.Signals))
        how = FINISHED if kind is None else KILLED if stopped else FAILED
        patience = _SECONDS_STOPPED if stopped else _SECONDS
        for thread in self._threads:
            thread.tasks.put((self._results, how))
        for thread in self._threads:
            thread.join(patience)
            if thread.is_alive():
                logger.warning('--track {}: no answer within {} s; what it has not taken yet is lost to it'.format(
                    thread.name, patience))


class _Service(threading.Thread):
    """One service: ``tasks`` takes the epochs so far, again and again, and at last (results, how it ended)."""

    def __init__(self, name, folder, flags):
        super().__init__(name=name, daemon=True)
        self.tasks = queue.Queue()
        self._folder, self._flags = folder, flags
        self._path = os.path.join(folder, 'tracked-by-{}.json'.format(name))

    def run(self):
        try:
            known = read_json(self._path, _KNOWN) if os.path.isfile(self._path) else {'run': '', 'epoch': 0}
            service = SERVICES[self.name](self._folder, self._flags, known['run'])
            self._note(service.run, known['epoch'])
            logger.info('--track {}: {}'.format(self.name, service.place))
            self._work(service, known['epoch'])
        except BaseException as error:  # whatever another's program may raise, SystemExit too
            logger.warning('--track {}: {}; the run goes on without it'.format(
                self.name, ' '.join(str(error).split()) or type(error).__name__))

    def _work(self, service, known):
        while True:
            task = self.tasks.get()
            if isinstance(task, tuple):
                return service.end(*task)
            for number, values in task:
                if number > known:
                    service.log(values, number)
                    known = number
            self._note(service.run, known)

    def _note(self, run, epoch):
        write_text(self._path, json.dumps({'run': run, 'epoch': epoch}) + '\n')


def figures(epoch, num_classes):
    """What is known of an ``Epoch``, name to number; top-5 figures where there are more classes than five."""
    shown = 'train/{}'.format('robust_' if epoch.attacked else '')
    found = {'step': epoch.step, 'learning_rate': epoch.learning_rate, 'train/cost': epoch.cost,
             shown + 'accuracy': _rest(epoch.train_error), shown + 'top5_accuracy': _rest(epoch.train_top5_error),
             'train/attack_success_rate': epoch.attack_success_rate, 'train/seconds': epoch.seconds,
             'eval/seconds': epoch.evaluation_seconds, 'overfitting/went_back_to_epoch': epoch.went_back_to}
    if epoch.overfitting:
        found['overfitting/' + epoch.overfitting] = 1
    for judged in epoch.judged:
        name = 'eval{}/{}_'.format('-ema' if judged.averaged else '', judged.attack)
        found.update({name + 'accuracy': judged.top1_accuracy, name + 'top5_accuracy': _rest(judged.top5_error),
                      name + 'attack_success_rate': judged.success_rate, name + 'images': judged.num_images})
    return {name: value for name, value in found.items()
            if value is not None and (num_classes > 5 or 'top5' not in name)}


def _rest(error):
    return None if error is None else 1 - error


def _last_and_best(epochs):
    """Of a training the results: each accuracy of an evaluation as it was last, and at its best."""
    found = {}
    for number, values in epochs:
        for name, value in values.items():
            if name.startswith('eval') and name.endswith('accuracy'):
                found['last/' + name] = value
                if value > found.get('best/' + name, -1):
                    found.update({'best/' + name: value, 'best/{}_epoch'.format(name): number})
    return found


def _numbers(found, names=()):
    """Numbers of nested dicts and lists, by the names on the way to them."""
    if isinstance(found, dict):
        parts = [(key, value) for key, value in found.items() if key not in ('args', 'versions', 'source', 'attack')]
    elif isinstance(found, list):
        parts = [(str(part.get('name', place)) if isinstance(part, dict) else str(place), part)
                 for place, part in enumerate(found)]
    else:
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        return [('/'.join(names), found)] if number else []
    return [each for key, value in parts for each in _numbers(value, (*names, key))]


def _plain(value):
    """A flag's value as services take it."""
    return value if isinstance(value, (bool, int, float)) else '' if value is None else (
        ','.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
