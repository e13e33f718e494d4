"""How long cells take: the time of a pass through the network is measured, and the passes are counted."""
import json
import os
import subprocess
import sys
import tempfile

from files.atomic import write_text
from files.json_files import read_json
from files.typed import number, record
from machine import gpus
from machine.programs import ROOT
from studies.running import Failed
from studies.scales import OF_UPDATE

_STEPS = 5
_ON_PROCESSORS = 4  # images of a step at full scale


def seconds_of_pass(cell, scale, cores):
    """Seconds that one image's pass takes here, measured by a few steps of training on constant images.

    Args:
        cell (Cell): says what network. scale (Scale). cores (list of int): that the training may use.
    Raises:
        Failed: the training did.
    """
    from training.epochs import read_epochs
    # A GPU's step must be as large as the study's; a processor's time is in proportion to the images.
    batch = scale.batch if scale.ranks == 1 or gpus.visible() else _ON_PROCESSORS
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, os.path.join(ROOT, 'main.py'), '--fake', *cell.network, *scale.train,
                 '--batch', str(batch), '--epochs', '2', '--steps-per-epoch', str(_STEPS), '--warmup-epochs', '0',
                 '--logdir', os.path.join(folder, 'run')]
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, cores)
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        finally:
            os.sched_setaffinity(0, before)
        if done.returncode:
            raise Failed('measuring a step: {}'.format((done.stderr.strip().split('\n') or [''])[-1]))
        seconds = read_epochs(os.path.join(folder, 'run'))[-1].seconds
    return seconds / (_STEPS * batch * (scale.steps + OF_UPDATE))


class Speeds:
    """Seconds of a pass by network, each measured once and kept in ``path``."""

    def __init__(self, path, scale, cores, say):
        self.path, self.scale, self.cores, self.say = path, scale, cores, say
        self._known = read_json(path, record({}, others=number(0)), '; move it away') if os.path.exists(path) else {}

    def of(self, cell):
        key = ' '.join([*cell.network, '{} cores'.format(len(self.cores))])
        if key not in self._known:
            self.say('measuring the time of a step: {}'.format(' '.join(cell.network)))
            self._known[key] = seconds_of_pass(cell, self.scale, self.cores)
            write_text(self.path, json.dumps(self._known) + '\n')
        return self._known[key]


def in_words(seconds):
    """'2 h 5 min'."""
    minutes = max(1, round(seconds / 60))
    return '{} min'.format(minutes) if minutes < 60 else '{} h {} min'.format(*divmod(minutes, 60))
