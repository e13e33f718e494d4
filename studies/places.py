"""Where a study's images, work and results are."""
import os
import shlex
import sys
from typing import NamedTuple, Tuple

from data.folders import open_dataset
from files import output_folders
from machine.programs import ROOT
from studies.cells import COUNT, DATA, JUDGE, LANDSCAPE, PART, SWEEP, TRAIN, run_of

PER_CLASS = 100  # images of each class in the part of the test images
_PROGRAMS = {TRAIN: ('main.py',), JUDGE: ('main.py', '--eval'), SWEEP: ('-m', 'analysis', 'sweep'),
             LANDSCAPE: ('-m', 'analysis', 'report'), COUNT: ('-m', 'studies.count')}
_OF_RANKS = (TRAIN, JUDGE)  # the others are programs of one process
_OUTPUT = {TRAIN: '--logdir', COUNT: '--json'}  # else --results-dir


class Place(NamedTuple):
    """Folders of a study.

    data: the images. work: trainings, logs, results of jobs. kept: the results that are published.
    launcher: words before the Python of a cell's training or evaluation by several ranks; '{}' stands for their
    number.
    """
    data: str
    work: str
    kept: str
    launcher: Tuple[str, ...] = ('mpirun', '-np', '{}')

    def cell_file(self, cell):
        return os.path.join(self.kept, 'cells', cell + '.json')

    def picture_file(self, cell):
        return os.path.join(self.kept, 'cells', cell + '.png')

    def job_file(self, cell, job):
        return os.path.join(self.work, cell, job + '.json')

    def training(self, cell):
        """The log directory of a cell."""
        return os.path.join(self.work, cell, TRAIN)

    @property
    def part(self):
        """The folder whose test images are a part of all."""
        return os.path.join(self.work, 'part')

    def written(self, words):
        """A job's words with its folders instead of what stands for them."""
        def place(word):
            word = word.replace(DATA, self.data).replace(PART, self.part)
            while '{run:' in word:
                cell = word.split('{run:')[1].split('}')[0]
                word = word.replace(run_of(cell), self.training(cell))
            return word
        return [place(word) for word in words]

    def command(self, cell, job):
        """(words that start a job, its folder)."""
        folder, own = os.path.join(self.work, cell.name, job.name), []
        if job.kind in (SWEEP, LANDSCAPE):  # cannot go on with what another process began
            folder = output_folders.numbered(folder)[1]
        elif job.kind == TRAIN:
            own = ['--resume-if-any']
        elif job.kind == JUDGE:
            own = ['--resume-eval']
        program = list(_PROGRAMS[job.kind])
        if program[0] != '-m':
            program[0] = os.path.join(ROOT, program[0])
        return [*self._launcher(cell, job), sys.executable, *program, *self.written(job.words), _output(job), folder,
                *own], folder

    def _launcher(self, cell, job):
        return [word.format(cell.ranks) for word in self.launcher] if cell.ranks > 1 and job.kind in _OF_RANKS else []

    def shown(self, cell, job):
        """A job's command as a person types it, in a line."""
        return shlex.join([*self._launcher(cell, job), 'python', *_PROGRAMS[job.kind], *self.written(job.words),
                           _output(job), os.path.join(self.work, cell.name, job.name)])


def _output(job):
    return _OUTPUT.get(job.kind, '--results-dir')


def published(cell, job):
    """A job's command with names instead of a machine's folders, in a line."""
    return Place('DATA', 'studies_log', '').shown(cell, job)


def make_part(place, per_class=PER_CLASS):
    """Make the folder of links whose test images are the first of each class, by their names.

    Raises:
        ValueError: the images are not there.
    """
    images = open_dataset(place.data, 'val')
    by_class = {}
    for path in sorted(images.files):
        by_class.setdefault(os.path.basename(os.path.dirname(path)), []).append(path)
    os.makedirs(place.part, exist_ok=True)
    _link(os.path.join(os.path.abspath(place.data), 'train'), os.path.join(place.part, 'train'))
    for name, files in by_class.items():
        folder = os.path.join(place.part, 'test', name)
        os.makedirs(folder, exist_ok=True)
        for path in files[:per_class]:
            _link(os.path.abspath(path), os.path.join(folder, os.path.basename(path)))


def _link(target, link):
    if not os.path.lexists(link):
        os.symlink(target, link)
