"""Where a run begins, and whether it is the run that its directory holds."""
import json
import os
from typing import NamedTuple, Optional

from tensorpack.callbacks import (
    JSONWriter,
)
from tensorpack.tfutils.sessinit import JustCurrentSession
from tensorpack.utils import logger

from adv_model import PRECISIONS
from files.atomic import write_text
from files.json_files import read_json
from files.typed import anything, list_of, record, whole
from machine.devices import Precisions
from settings import sections
from training.directory import RUN_FILE
from weights.classes import classes_in
from weights.find import newest_whole, open_checkpoint, prefix_of
from weights.match import LoadWeights

_BEFORE_THERE_WERE_OTHERS = {'update_precision': 'float32'}  # what runs had of which no record says it
_STATISTICS = list_of(record({'epoch_num': whole(0, 2 ** 62)}, others=anything, maybe=['epoch_num']), 10 ** 7)


def fixing_a_run():
    """Names of what a resumed run must share with the run it continues: flags, and the number of ranks."""
    return sections.fixing_a_run() + ('ranks',)


def check_same_run(folder, run):
    """Refuse to resume a run with other flags than it was started with; ``run`` maps flags to values.

    Returns:
        dict: the flags that it was started with. Of a precision of None any is right: machines decide it.
    Raises:
        ValueError: names the flag and both values, or that the directory holds no run.
    """
    path = os.path.join(folder, RUN_FILE)
    if not os.path.isfile(path):
        raise ValueError("--resume: '{}' holds no {}; it is not a run's directory".format(folder, RUN_FILE))
    before = {**_BEFORE_THERE_WERE_OTHERS, **read_json(path, record({}, others=anything))}
    for name in fixing_a_run():
        if name in Precisions._fields and run[name] is None:
            continue
        if before.get(name) != json.loads(json.dumps(run[name])):
            raise ValueError("--resume: '{}' was started with {} {}, now it is {}".format(
                folder, name, before.get(name), run[name]))
    return before


def decide_precisions(typed, recorded, fast):
    """What the network computes in under the training attack, and for the update.

    A run that goes on elsewhere keeps its own, so that it may be queued again on machines of another kind.

    Args:
        typed (dict): by the names of ``Precisions``, None where nothing was typed. recorded (dict): flags of the run
            that goes on, or None. fast (Precisions): of ``ranks.precision.agreed_precisions``.
    Returns:
        Precisions, and for each of them why, in words.
    Raises:
        ValueError: the run that goes on has recorded none that there is.
    """
    decided = [_decide(name, typed[name], recorded, fastest) for name, fastest in fast._asdict().items()]
    return Precisions(*(precision for precision, _ in decided)), [why for _, why in decided]


def _decide(name, typed, recorded, fastest):
    if typed:
        return typed, 'as typed'
    if recorded is None:
        return fastest, 'the fastest that all ranks have'
    precision = recorded.get(name)
    if precision not in PRECISIONS:
        raise ValueError('--resume: the run has the {} {}, which is none of {}'.format(
            name, precision, ', '.join(PRECISIONS)))
    return precision, 'as the run began; the fastest that all ranks have is {}'.format(fastest)


def check_same_classes(folder, classes):
    """Refuse to resume a run on data with other classes, or in another order, than it was started with.

    Raises:
        ValueError: they differ.
    """
    before = classes_in(folder)
    if before is not None and before != list(classes):
        raise ValueError("--resume: '{}' was started on {} classes ({}, ...), the data now has {} ({}, ...)".format(
            folder, len(before), before[0], len(classes), classes[0]))


def _statistics(folder):
    path = os.path.join(folder, JSONWriter.FILENAME)
    if not os.path.isfile(path):
        return []
    return read_json(path, _STATISTICS, '; move it away to go on without the statistics so far')


def trim_statistics(folder, next_epoch):
    """Forget statistics of epochs that will run again, so that stats.json goes on without a gap or a double."""
    before = _statistics(folder)
    if before:
        write_text(os.path.join(folder, JSONWriter.FILENAME), json.dumps(
            [entry for entry in before if entry.get('epoch_num', 0) < next_epoch]))


class Start(NamedTuple):
    """Where a run begins; the first rank finds out and tells the others.

    epoch: first epoch, from 1. step: global step to begin at, in that epoch or, if only its evaluation is left, at its
    end. load: checkpoint to start from, or None.
    everything: restore momentum, rate and step counter too, as a resumed run must.
    """
    epoch: int
    step: int
    load: Optional[str]
    everything: bool

    def session_init(self, tuning=None):
        """What to load into the session.

        Args:
            tuning (Tuning): of ``LoadWeights``, in a run that begins.
        Raises:
            ValueError: the checkpoint cannot be read.
        """
        if not self.load:
            return JustCurrentSession()
        values = open_checkpoint(self.load)
        if self.everything or self.step:
            return LoadWeights(self.load, values, self.everything, None if self.everything else self.step)
        return LoadWeights(self.load, values, tuning=tuning)


def find_start(args, folder, resume):
    """Start of a new run, or with ``resume`` behind the last whole checkpoint in ``folder``.

    Raises:
        ValueError: there are checkpoints to resume from, and all are damaged.
    """
    step = newest_whole(folder) if resume else None
    if step is None:
        if resume:
            logger.warning("--resume: '{}' has no checkpoint yet, so the run starts at its beginning".format(folder))
        return Start(args.starting_epoch, (args.starting_epoch - 1) * args.steps_per_epoch, args.load, False)
    epochs, more = divmod(step, args.steps_per_epoch)
    # An epoch is over when it is in the statistics; else the run was stopped before its evaluation, or in it.
    over = more == 0 and epochs in (entry.get('epoch_num') for entry in _statistics(folder))
    return Start(epochs + bool(more or over), step, prefix_of(folder, step), True)
