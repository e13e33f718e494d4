"""files/output_folders.py: a folder for each program, and one writer at a time, whatever ends it."""
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from files import output_folders
from files.output_folders import LOCK_FILE, locked, make_new
from small_runs import ROOT

# Appends its name to a file of the folder, whole words at a time, as long as it may; says when it has the lock.
WRITER = '''
import os, sys, time
from files import output_folders
folder, word, times = sys.argv[1:]
try:
    with output_folders.locked(folder, 'give another --results-dir'):
        print('locked', flush=True)
        with open(os.path.join(folder, 'words'), 'a', buffering=1) as f:
            f.write('begin ' + word + '\\n')
            for _ in range(int(times)):
                f.write(word + '\\n')
                time.sleep(0.001)
except ValueError as error:
    print(error)
    sys.exit(2)
'''


def start(folder, word, times=10 ** 6):
    return subprocess.Popen([sys.executable, '-c', WRITER, str(folder), word, str(times)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def owner(tmp_path):
    """A program that writes to ``tmp_path``."""
    process = start(tmp_path, 'owner')
    assert process.stdout.readline() == 'locked\n'
    yield process
    process.kill()
    process.communicate()


def lock(folder):
    with locked(str(folder), 'give another --results-dir'):
        pass


def test_a_folder_that_is_written_is_refused_with_its_owner_s_name(owner, tmp_path):
    with pytest.raises(ValueError) as error:
        lock(tmp_path)
    assert re.fullmatch(r"'{}' is being written by process {} of \S+, since \d+-\d+-\d+ \d+:\d+:\d+: -c {} owner "
                        '1000000; wait for its end, or give another --results-dir'.format(tmp_path, owner.pid,
                                                                                          tmp_path),
                        str(error.value))


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_dead_owner_s_lock_frees_itself(owner, tmp_path, number):
    owner.send_signal(number)
    owner.wait()
    began = time.monotonic()
    lock(tmp_path)
    # at once: without a wait for its next sign of life, which would be 30 s
    assert time.monotonic() - began < output_folders.DEAD_AFTER / 2 and LOCK_FILE not in os.listdir(tmp_path)


def test_the_lock_is_this_process_s_too_and_ends_with_its_context(tmp_path):
    with locked(str(tmp_path), ''):
        assert os.listdir(tmp_path) == [LOCK_FILE]
        with pytest.raises(ValueError, match='process {} of'.format(os.getpid())):
            lock(tmp_path)
    lock(tmp_path)
    assert os.listdir(tmp_path) == []


def test_of_programs_that_come_at_once_one_at_a_time_has_the_folder(tmp_path):
    inside, most, refused, held = [], [], [], []

    def run():
        for _ in range(100):
            try:
                with locked(str(tmp_path), ''):
                    inside.append(1)
                    most.append(len(inside))
                    held.append(1)
                    inside.pop()
            except ValueError:
                refused.append(1)
    threads = [threading.Thread(target=run) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert set(most) == {1} and held and len(held) + len(refused) == 400 and os.listdir(tmp_path) == []


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A lock file that a process of another host has left on a shared disk."""
    monkeypatch.setattr(output_folders, 'DEAD_AFTER', 1.0)
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps(dict(output_folders._this_process(), host='node17', boot='another')))
    return path


def test_another_host_s_owner_lives_as_long_as_it_renews_its_lock(elsewhere, tmp_path, caplog):
    """Where the file system keeps locks within one host, so that this host's is granted."""
    ended = threading.Event()

    def renew():
        while not ended.wait(0.1):
            os.utime(elsewhere)
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(ValueError, match='process {} of node17'.format(os.getpid())):
            lock(tmp_path)
    finally:
        ended.set()
        thread.join()
    began = time.monotonic()
    lock(tmp_path)  # dead since it has not renewed it
    assert 1 <= time.monotonic() - began < 15 and os.listdir(tmp_path) == []
    warned = [entry.getMessage() for entry in caplog.records if entry.name.startswith('files.')]
    assert warned and all('node17' in line for line in warned)


def test_an_owner_renews_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(output_folders, 'RENEWED_EVERY', 0.05)
    with locked(str(tmp_path), ''):
        before, end = os.stat(tmp_path / LOCK_FILE).st_mtime_ns, time.monotonic() + 10
        while os.stat(tmp_path / LOCK_FILE).st_mtime_ns == before:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize('content', ['', 'null', '{"pid": 1e999}', '[' * 10 ** 5, '\0'])
def test_a_damaged_lock_file_is_survived(tmp_path, monkeypatch, content):
    monkeypatch.setattr(output_folders, 'DEAD_AFTER', 0.1)
    (tmp_path / LOCK_FILE).write_text(content)
    lock(tmp_path)
    assert os.listdir(tmp_path) == []


def test_without_locks_the_owner_s_renewals_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(output_folders, 'DEAD_AFTER', 1.0)
    monkeypatch.setattr(output_folders, 'RENEWED_EVERY', 0.05)

    def flock(*_):
        raise OSError(output_folders.errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(output_folders.fcntl, 'flock', flock)
    with locked(str(tmp_path), ''):
        with pytest.raises(ValueError, match='is being written'):
            lock(tmp_path)
    lock(tmp_path)


def test_programs_that_start_together_get_a_folder_each(tmp_path):
    names = []
    threads = [threading.Thread(target=lambda: names.extend(make_new(str(tmp_path / 'a' / 'run')) for _ in range(20)))
               for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(set(names)) == 80 and str(tmp_path / 'a' / 'run') in names and str(tmp_path / 'a' / 'run-80') in names


def test_ten_kills_at_random_moments_of_two_writers_mix_nothing(tmp_path):
    rng, jobs, words = random.Random(0), {}, tmp_path / 'words'
    words.touch()
    for _ in range(10):
        for word in 'ab':
            if word not in jobs or jobs[word].poll() is not None:
                jobs[word] = start(tmp_path, word)
        before, end = words.stat().st_size, time.monotonic() + 30
        while words.stat().st_size < before + 20:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        killed = rng.choice([job for job in jobs.values() if job.poll() is None])
        killed.kill()
        killed.wait()
    for job in jobs.values():
        job.kill()
        out, err = job.communicate()
        assert out in ('locked\n', '') or 'is being written by' in out, (out, err)
    owner, *lines = words.read_text().split('\n')[:-1]
    for line in lines:
        if line.startswith('begin '):
            owner = line
        assert line.split()[-1] == owner.split()[-1]
    assert len(lines) > 50
