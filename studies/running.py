"""Filling cells: several at a time, each on cores of its own; what is finished is never done again."""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

from files.atomic import write_text
from files.json_files import read_json
from files.typed import anything, list_of, number, record, text
from machine.processors import processor_kind, processor_name
from machine.versions import library_versions, source_version
from studies.cells import LANDSCAPE, TRAIN
from studies.places import published
from studies.reading import read

_TEXT = 10000
_JOB = record({'words': list_of(text(_TEXT), _TEXT), 'command': text(_TEXT), 'seconds': number(0), 'found': anything})
_CELL = record({'cell': text(_TEXT), 'jobs': record({}, others=_JOB), 'machine': anything, 'source': anything,
                'versions': anything, 'date': text(_TEXT)})


class Failed(Exception):
    """A job's program failed; the message says which, and where to read on."""


def finished(place, cell):
    """The content of a cell's file, or None where there is none yet.

    Raises:
        ValueError: it is damaged, or of other commands than this cell's.
    """
    path = place.cell_file(cell.name)
    if not os.path.exists(path):
        return None
    content = read_json(path, _CELL, '; move it away, and the cell is filled anew')
    if {name: job['words'] for name, job in content['jobs'].items()} != {
            job.name: list(job.words) for job in cell.jobs}:
        raise ValueError("'{}' is of other commands than {} has now; move it away, or give another --results".format(
            path, cell.name))
    return content


def core_sets(at_once):
    """The cores of this process in ``at_once`` parts.

    Raises:
        ValueError: there are fewer cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if at_once > len(cores):
        raise ValueError('--at-once {}: this process may use {} cores'.format(at_once, len(cores)))
    return [cores[part::at_once] for part in range(at_once)]


class Fill:
    """Fills those of ``cells`` that are not filled yet.

    Args:
        place (Place). cells (list of Cell): each behind those that it needs.

    Attributes:
        todo (list of Cell): that are not filled, and those whose weights they need and that are not here.
    """

    def __init__(self, place, cells):
        self.place = place
        named = {cell.name: cell for cell in cells}
        todo = {cell.name for cell in cells if finished(place, cell) is None}
        # A published cell's weights are not published; who needs them trains it again.
        todo |= {need for name in list(todo) for need in named[name].needs if not self._is_trained(named[need])}
        self.todo = [cell for cell in cells if cell.name in todo]
        self._waiting, self._missing = list(self.todo), set(todo)
        self._processes, self._changed = {}, threading.Condition()
        self._failed, self._ending = [], False

    def _is_trained(self, cell):
        return all(os.path.exists(self.place.job_file(cell.name, job.name)) for job in cell.jobs if job.kind == TRAIN)

    def done(self, cell):
        """How much of a cell is done, 0 to 1, about."""
        return sum(job.passes * self._part(cell, job) for job in cell.jobs) / max(cell.passes, 1)

    def _part(self, cell, job):
        if os.path.exists(self.place.job_file(cell.name, job.name)):
            return 1
        try:
            with open(os.path.join(self.place.work, cell.name, job.name, 'stats.json')) as f:
                over = f.read().count('"epoch_num"')
        except OSError:  # no training, or in its first epoch
            return 0
        return min(1, over / int(job.words[job.words.index('--epochs') + 1]))

    def run(self, at_once, show=lambda: None):
        """Fill them, ``at_once`` at a time; ``show`` is called every second.

        Raises:
            Failed: of some, programs failed; all others that do not need these are filled.
            KeyboardInterrupt: SIGINT or SIGTERM came; what ran was ended, and goes on from there the next time.
        """
        lanes = [threading.Thread(target=self._lane, args=(cores,)) for cores in core_sets(at_once)]
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for lane in lanes:
                lane.start()
            while any(lane.is_alive() for lane in lanes):
                show()
                time.sleep(1)
        finally:
            self._end()
            for lane in lanes:
                lane.join()
            signal.signal(signal.SIGTERM, before)
        if self._failed:
            raise Failed('; '.join(self._failed))

    def _end(self):
        """Let no lane begin anything, and end what runs; SIGTERM lets the programs save what they have."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            for process in self._processes.values():
                process.send_signal(signal.SIGTERM)

    def _lane(self, cores):
        os.sched_setaffinity(0, cores)  # of this thread, and of the programs that it starts
        while True:
            cell = self._next()
            if cell is None:
                return
            try:
                self._fill(cell, len(cores))
            except (Failed, OSError, ValueError) as error:
                self._give_up(cell, error)
            else:
                with self._changed:
                    self._missing.discard(cell.name)
                    self._changed.notify_all()

    def _next(self):
        """The next cell whose needs are there, waited for; None where there is none."""
        with self._changed:
            while self._waiting and not self._ending:
                for cell in self._waiting:
                    if not self._missing & set(cell.needs):
                        self._waiting.remove(cell)
                        return cell
                self._changed.wait()
            return None

    def _give_up(self, cell, error):
        with self._changed:
            if not self._ending:
                self._failed.append(str(error) if isinstance(error, Failed) else '{}: {}'.format(cell.name, error))
            lost = {cell.name}
            for other in self.todo:  # each behind those that it needs
                if lost & set(other.needs):
                    lost.add(other.name)
            self._waiting = [other for other in self._waiting if other.name not in lost]
            self._changed.notify_all()

    def _fill(self, cell, cores):
        if finished(self.place, cell) is not None:  # somebody else's, without its weights
            for job in cell.jobs:
                if job.kind == TRAIN:
                    self._do(cell, job)
            return
        jobs = {job.name: self._do(cell, job) for job in cell.jobs}
        last = jobs[cell.jobs[-1].name]
        content = {'cell': cell.name, 'jobs': {name: job['record'] for name, job in jobs.items()},
                   'machine': dict(last['machine'], cores=cores), 'source': last['source'],
                   'versions': last['versions'], 'date': time.strftime('%Y-%m-%d')}
        os.makedirs(os.path.dirname(self.place.cell_file(cell.name)), exist_ok=True)
        for job in cell.jobs:
            if job.kind == LANDSCAPE:
                picture = os.path.join(jobs[job.name]['folder'], jobs[job.name]['record']['found']['picture'])
                shutil.copyfile(picture, self.place.picture_file(cell.name))
        write_text(self.place.cell_file(cell.name), json.dumps(content, indent=1) + '\n')

    def _do(self, cell, job):
        """Do a job unless it is done; what is known of it."""
        done = self.place.job_file(cell.name, job.name)
        if os.path.exists(done):
            return read_json(done, anything)
        words, folder = self.place.command(cell, job)
        os.makedirs(os.path.dirname(done), exist_ok=True)
        begin = time.time()
        self._run(cell, job, words)
        found = read(job, folder)
        content = {'folder': folder, 'machine': {'processor': processor_name(), 'kind': processor_kind()},
                   'source': found.source or source_version(), 'versions': library_versions(),
                   'record': {'words': list(job.words), 'command': published(cell, job),
                              'seconds': round(found.seconds or time.time() - begin, 1), 'found': found.figures}}
        write_text(done, json.dumps(content) + '\n')
        return content

    def _run(self, cell, job, words):
        log = os.path.join(self.place.work, cell.name, job.name + '.log')
        with open(log, 'ab') as output:
            with self._changed:
                if self._ending:
                    raise Failed('ended')
                process = self._processes[cell.name] = subprocess.Popen(
                    [sys.executable, '-m', 'studies.child', str(os.getpid()), *words], stdin=subprocess.DEVNULL,
                    stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            code = process.wait()
            with self._changed:
                del self._processes[cell.name]
        if code:
            raise Failed('{}, {}: the program ended with exit code {}; its words are in {}'.format(
                cell.name, job.name, code, log))
