"""What is known of each epoch of a run: one record an epoch, for all that show a run or follow it.

The records are those of stats.json. It holds all that there is to say of an epoch, is written whole before each
checkpoint, goes on under ``--resume`` without a gap or a double (``trim_statistics``), and is read here by a check of
its content: a second file could only contradict it.
"""
import os
import time
from typing import NamedTuple, Optional, Tuple

from tensorpack.callbacks import Callback, JSONWriter

from evaluation.during_training import (
    LARGEST_CLASS,
    NUM_IMAGES,
    NUM_UNREADABLE,
    SECONDS_OF_EVALUATION,
    SUCCESS,
    TOP1,
    TOP5,
    prefix,
)
from evaluation.verdicts import CLEAN, wilson
from files.json_files import read_checked
from files.typed import anything, list_of, number, optional, parse, record, whole
from training.callbacks import LOSS_SCALE, SKIPPED_STEPS, TRAINING_ERROR
from training.overfitting import ENDED, KINDS, NOTED, WENT_BACK_TO

SECONDS_OF_STEPS = 'seconds-of-steps'
_COUNTS = [prefix(averaged) + name for averaged in (False, True) for name in (NUM_IMAGES, NUM_UNREADABLE)]
_SCALARS = ['learning_rate', 'cost', TRAINING_ERROR, 'train-error-top1', 'train-error-top5', 'attack_success_rate',
            SECONDS_OF_STEPS, SECONDS_OF_EVALUATION, LOSS_SCALE]
_OVERFITTING = [*(NOTED + kind for kind in KINDS), WENT_BACK_TO, ENDED]
_FIELDS = {**dict.fromkeys(['epoch_num', 'global_step', SKIPPED_STEPS, *_COUNTS, *_OVERFITTING],
                           optional(whole(0, 2 ** 62))),
           **dict.fromkeys(_SCALARS, optional(number()))}
_ENTRIES = list_of(record(_FIELDS, others=anything, maybe=list(_FIELDS)), 10 ** 7)
_SHARE = optional(number(0, 1))


class Judged(NamedTuple):
    """What an evaluation of the whole validation set has found, without an attack or under one.

    Attributes:
        attack (str): CLEAN, '10step' for PGD of 10 steps, else the attacker's name; as in the scalars' names.
        averaged (bool): of the moving averages of the weights.
        num_images (int): that could be read and were judged; None in a run of before it was counted.
        num_unreadable (int): that could not; likewise.
        top1_error, top5_error (float): fractions of ``num_images``.
        success_rate (float): of the attack, see ``evaluation.verdicts.attack_success``; None for CLEAN.
    """
    attack: str
    averaged: bool
    num_images: Optional[int]
    num_unreadable: Optional[int]
    top1_error: float
    top5_error: Optional[float]
    success_rate: Optional[float]

    @property
    def top1_accuracy(self):
        """float: fraction of the images that are right; under an attack, the robust accuracy."""
        return 1 - self.top1_error

    @property
    def top1_correct(self):
        """int: images that are right; None without their number."""
        return self.num_images and round(self.top1_accuracy * self.num_images)

    @property
    def top1_accuracy_95(self):
        """list [low, high] of float: the accuracy's 95% Wilson interval; None without the number of images."""
        return wilson(self.top1_correct, self.num_images) if self.num_images else None


class Epoch(NamedTuple):
    """What is known after an epoch; None stands for what is not known, as the loss of an epoch whose steps were all
    before the run was resumed, or not finite.

    Attributes:
        number (int): from 1. step (int): training steps so far, over all epochs.
        learning_rate (float): of the last step. cost (float): loss and weight decay.
        train_error, train_top5_error (float): fraction of wrong training images, as they enter the loss: under the
            training attack if ``attacked``, else clean; of mixed images against the largest label.
        attacked (bool): whether training attacks its images. Then there is no clean training accuracy: no pass of the
            network sees them clean. attack_success_rate (float): of the training attack.
        counted (bool): whether ``train_error`` is of all images of the epoch and of all ranks (see
            ``TrainingAccuracy``). In a run of before that was counted, and always ``cost``, ``train_top5_error`` and
            ``attack_success_rate``, are running averages over steps, in each of which the weight of what was before
            falls by 0.95, on the first rank.
        judged (tuple of Judged): plain weights first, clean first; () if the epoch had no evaluation.
        seconds (float): of the steps (with --resume of those since), evaluation_seconds (float): of the evaluations.
        skipped_steps (int): whose gradients were not finite (see ``WatchLossScale``), None for none.
        loss_scale (float): after the epoch; None but for updates in float16.
        largest_class (float): part of the judged images that one class has at most.
        overfitting (str): of ``overfitting.KINDS``, where it was first seen after this epoch. went_back_to (int): the
            epoch with whose weights the run went on for it. ended (bool): whether it ended for it.
    """
    number: int
    step: Optional[int]
    learning_rate: Optional[float]
    cost: Optional[float]
    train_error: Optional[float]
    train_top5_error: Optional[float]
    attacked: bool
    attack_success_rate: Optional[float]
    judged: Tuple[Judged, ...]
    seconds: Optional[float]
    evaluation_seconds: Optional[float]
    counted: bool = True
    skipped_steps: Optional[int] = None
    loss_scale: Optional[float] = None
    largest_class: Optional[float] = None
    overfitting: Optional[str] = None
    went_back_to: Optional[int] = None
    ended: bool = False

    def of(self, attack, averaged=False):
        """The ``Judged`` of this attack, or None."""
        return next((each for each in self.judged if (each.attack, each.averaged) == (attack, averaged)), None)


def read_epochs(folder):
    """The epochs of a run, in order, each once.

    Args:
        folder (str): its log directory.
    Returns:
        list of Epoch: empty before the first one is over.
    Raises:
        ValueError: stats.json is damaged.
    """
    path = os.path.join(folder, JSONWriter.FILENAME)
    if not os.path.isfile(path):
        return []
    return read_checked(path, epochs_in)


def epochs_in(content):
    """Likewise, from the text of stats.json (str or bytes), which raises Malformed."""
    found = {}
    for entry in parse(content, _ENTRIES, 'in it'):
        if entry.get('epoch_num'):  # what was noted before the first step is of no epoch
            found.setdefault(entry['epoch_num'], {}).update(entry)
    return [_epoch(found[key]) for key in sorted(found)]


def _epoch(entry):
    return Epoch(entry['epoch_num'], entry.get('global_step'), entry.get('learning_rate'), entry.get('cost'),
                 entry.get(TRAINING_ERROR, entry.get('train-error-top1')), entry.get('train-error-top5'),
                 'attack_success_rate' in entry, entry.get('attack_success_rate'),
                 (*_judged(entry, False), *_judged(entry, True)), entry.get(SECONDS_OF_STEPS),
                 entry.get(SECONDS_OF_EVALUATION), TRAINING_ERROR in entry, entry.get(SKIPPED_STEPS),
                 entry.get(LOSS_SCALE), _SHARE(entry.get(prefix(False) + LARGEST_CLASS), LARGEST_CLASS),
                 next((kind for kind in KINDS if entry.get(NOTED + kind)), None), entry.get(WENT_BACK_TO),
                 bool(entry.get(ENDED)))


def _judged(entry, averaged):
    mine, other = prefix(averaged), prefix(True)
    names = [name[len(mine):-len(TOP1)] for name in entry if name.startswith(mine) and name.endswith(TOP1)
             and (averaged or not name.startswith(other))]
    for name in sorted(names, key=lambda name: name != CLEAN):
        top1, top5, success = (_SHARE(entry.get(mine + name + what), name) for what in (TOP1, TOP5, SUCCESS))
        if top1 is not None:
            yield Judged(name, averaged, entry.get(mine + NUM_IMAGES), entry.get(mine + NUM_UNREADABLE), top1, top5,
                         success)


class FollowEpochs(Callback):
    """Tells others of each epoch when it is over, its checkpoint is saved and its record written; on the first rank.

    Must come after the ``CheckpointSaver``, which writes the record.

    Args:
        folder (str): log directory.
        listeners (list): functions of a list of ``Epoch``, all of the run so far, of which the last is the new one.
    """

    def __init__(self, folder, listeners):
        self.folder, self.listeners = folder, listeners

    def _before_epoch(self):
        self._begin = time.time()

    def _after_epoch(self):
        self.trainer.monitors.put_scalar(SECONDS_OF_STEPS, time.time() - self._begin)

    def _trigger_epoch(self):
        epochs = read_epochs(self.folder)
        for listener in self.listeners:
            listener(epochs)
