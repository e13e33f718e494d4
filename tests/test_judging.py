"""Long evaluations: killed and stopped ones go on as if nothing had been, whatever the ranks and the batch size."""
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import pytest
import tensorflow.compat.v1 as tf

import main
import nets
from attacks.pgd import FGSMAttacker, PGDAttacker
from evaluation import journal
from evaluation.passes import Passes
from evaluation.verdicts import wilson
from files import output_folders
from image_folders import make_noise_folder
from small_runs import ROOT, mpirun, read_json
from third_party.imagenet_utils import open_dataset

CLASSES, COUNT, SIDE = 3, 37, 8
ARCHITECTURE = ['--arch', 'CifarResNet', '-d', '8', '--input-size', str(SIDE), '--num-classes', str(CLASSES)]
TABLE = 'per_example.csv'


def linear_map(_, image):
    """In place of a network's graph: quickly built, and attacked in part at the radius here."""
    return tf.matmul(tf.reshape(image, [-1, 3 * SIDE ** 2]), tf.get_variable('linear/W', [3 * SIDE ** 2, CLASSES]))


class Ensemble:
    """Stands in for AutoAttack: three attacks of growing strength, two with random starts that decide."""

    @staticmethod
    def make_attackers(version, norm, epsilon, num_classes):
        if version not in ('standard', 'weak'):
            raise ValueError("--autoattack-version '{}': choose from standard, weak".format(version))
        options = dict(norm=norm, num_classes=num_classes)
        return [FGSMAttacker(epsilon / 8, **options), PGDAttacker(2, epsilon / 2, epsilon / 4, **options),
                PGDAttacker(5, epsilon, epsilon / 2, **options)]


# What a program of its own runs: main.py with the ensemble above, and with a pause or a signal in the chosen batch.
PROGRAM = '''
import os, sys, time
sys.path.insert(0, {tests!r})
import test_judging
test_judging.run_here(sys.argv[1:])
'''.format(tests=os.path.dirname(os.path.abspath(__file__)))


def run_here(argv):
    """``main.main``; with the variable PAUSE, waits for ever before that judged batch (from 1) of this process."""
    sys.modules.update({'attacks.autoattack': Ensemble, 'attacks.autoattack.ensemble': Ensemble})
    nets.CifarResNetModel.network = linear_map
    pause, judge, calls = int(os.environ.get('PAUSE', 0)), Passes.judge, []

    def paused(self, *args):
        calls.append(None)
        if len(calls) == pause:
            open('paused', 'w').close()
            time.sleep(600)
        return judge(self, *args)
    Passes.judge = paused
    sys.exit(main.main(argv))


WEIGHTS = np.random.default_rng(3).standard_normal([3 * SIDE ** 2, CLASSES]).astype(np.float32)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Noise images in folders of what ``WEIGHTS`` say of them, but for every ninth."""
    folder = make_noise_folder(tmp_path_factory.mktemp('images'), {'val': COUNT}, 'abc')
    for number, path in enumerate(open_dataset(folder, 'val').files):
        answer = (cv2.imread(path).reshape(-1) / 127.5 - 1).dot(WEIGHTS).argmax()
        label = 'abc'[answer if number % 9 else (answer + 1) % CLASSES]
        os.rename(path, os.path.join(folder, 'val', label, '{:02d}-{}'.format(number, os.path.basename(path))))
    return folder


@pytest.fixture(scope='module')
def load(tmp_path_factory):
    """A checkpoint of ``WEIGHTS``."""
    path = str(tmp_path_factory.mktemp('network') / 'weights.npz')
    np.savez(path, **{'linear/W': WEIGHTS})
    return path


def flags(data, load, *more):
    radius = [] if '--threat-models' in more else ['--attack-epsilon', '6']
    return ARCHITECTURE + ['--eval', '--load', load, '--data', data, '--batch', '4', '--augmentation', 'cifar',
                           '--results-dir', 'out', *radius, *more]


ATTACKS = {'pgd': ['--attack-iter', '3', '--targeted'],
           'early-stop': ['--attack-iter', '3', '--targeted', '--early-stop'], 'autoattack': ['--attack', 'autoattack']}
EVERY_ATTACK = pytest.mark.parametrize('attack', ATTACKS)


@pytest.fixture
def here(data, load, tmp_path, monkeypatch):
    """function(flags): an evaluation in this process; its results, and the rows of its table by file."""
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    monkeypatch.chdir(tmp_path)
    for name in ('attacks.autoattack', 'attacks.autoattack.ensemble'):
        monkeypatch.setitem(sys.modules, name, Ensemble)
    monkeypatch.setattr(nets.CifarResNetModel, 'network', linear_map)

    def run(*more):
        with tf.Graph().as_default():
            main.main(flags(data, load, *more))
        return found_in(tmp_path / (more[more.index('--results-dir') + 1] if '--results-dir' in more else 'out'))
    return run


def found_in(folder):
    with open(folder / TABLE, newline='') as f:
        rows = {row['file']: row for row in csv.DictReader(f)}
    return read_json(folder / 'results.json'), rows


@pytest.fixture(scope='module')
def whole(data, load, tmp_path_factory):
    """Results and table of each attack's uninterrupted evaluation."""
    found = {}
    for attack, typed in ATTACKS.items():
        folder = tmp_path_factory.mktemp(attack)
        with pytest.MonkeyPatch.context() as patch, tf.Graph().as_default():
            patch.chdir(folder)
            patch.setitem(sys.modules, 'attacks.autoattack', Ensemble)
            patch.setitem(sys.modules, 'attacks.autoattack.ensemble', Ensemble)
            patch.setattr(nets.CifarResNetModel, 'network', linear_map)
            main.main(flags(data, load, *typed))
        assert sorted(os.listdir(folder / 'out')) == [TABLE, 'results.json']
        found[attack] = found_in(folder / 'out')
    return found


def stop_in(monkeypatch, batch, act):
    """``act`` when a batch has been judged, from 1."""
    judge, calls = Passes.judge, []

    def run(self, *args):
        rows = judge(self, *args)
        calls.append(None)
        if len(calls) == batch:
            act()
        return rows
    monkeypatch.setattr(Passes, 'judge', run)
    return calls


class Killed(BaseException):
    """Ends a run as a kill would: nothing is tidied up, so far as the journal is concerned."""


def kill():
    raise Killed


# What an evaluation of several attacks finds

def test_an_ensemble_attacks_only_what_still_stands_and_says_what_broke_it(here, monkeypatch):
    attacked, run = [], Passes.judge

    def judge(self, session, number, batch, *more):
        attacked.extend((number, index) for index in batch[2] if index >= 0)
        assert len(batch[2]) == 4
        return run(self, session, number, batch, *more)
    monkeypatch.setattr(Passes, 'judge', judge)
    results, rows = here('--attack', 'autoattack')
    files = sorted(rows)
    names = [a['name'] for a in results['attacks']]
    assert names == ['FGSM', 'PGD-2', 'PGD-5'] and len(rows) == COUNT
    standing = set(range(COUNT))
    for number, name in enumerate(['clean'] + names):
        assert sorted(index for n, index in attacked if n == number) == sorted(standing)
        broken = {index for index in standing if rows[files[index]]['broken_by'] == name}
        assert broken, name
        for index in broken:
            row = rows[files[index]]
            assert row['adv_pred'] != row['label'] and (row['clean_pred'] != row['label']) == (name == 'clean')
        standing -= broken
        if number:
            assert (results['attacks'][number - 1]['broken'], results['attacks'][number - 1]['robust_correct'],
                    results['attacks'][number - 1]['num_images']) == (len(broken), len(standing), COUNT)
            assert results['attacks'][number - 1]['robust_accuracy_95'] == wilson(len(standing), COUNT)
    assert standing and {rows[files[index]]['broken_by'] for index in standing} == {'none'}
    assert all(rows[files[index]]['adv_pred'] == rows[files[index]]['label'] for index in standing)
    assert results['adversarial']['top1_correct'] == len(standing)
    assert results['attack']['attacks'] == names and results['complete'] is True
    assert results['threat_model'] == {'norm': 'Linf', 'epsilon': 6.0, 'epsilon_of_unit_images': 6 / 255}
    right = results['clean']['top1_correct']
    assert results['attack_success_rate'] == pytest.approx((right - len(standing)) / right)


@EVERY_ATTACK
@pytest.mark.parametrize('batch', ['1', '7', '37'])
def test_verdicts_do_not_depend_on_the_batch_size(here, whole, attack, batch):
    assert here('--batch', batch, *ATTACKS[attack])[1] == whole[attack][1]


@pytest.mark.parametrize('typed, name', [
    (['--attack', 'fgsm'], 'FGSM'), (['--attack', 'momentum', '--attack-iter', '2'], 'MI-FGSM-2'),
    (['--norm', 'L2', '--attack-epsilon', '100'], 'PGD-10-L2'),
    (['--attack', 'fgsm', '--norm', 'L1', '--attack-epsilon', '600'], 'FGSM-L1'),
    (['--attack', 'apgd', '--attack-iter', '3'], 'APGD-3')])
def test_other_attacks_are_judged_like_pgd(here, typed, name, capsys):
    results, rows = here(*typed)
    assert results['attack']['name'] == name and [a['name'] for a in results['attacks']] == [name]
    assert 0 < results['attacks'][0]['broken'] == sum(
        row['clean_pred'] == row['label'] != row['adv_pred'] for row in rows.values())
    assert list(next(iter(rows.values()))) == ['file', 'label', 'clean_pred', 'adv_pred', 'target']
    assert 'Attack Success Rate: ' in capsys.readouterr().out


def test_a_clean_evaluation_has_no_attacks(here):
    results, _ = here('--attack-iter', '0')
    assert results['attacks'] == [] and results['threat_model'] is None and results['complete'] is True


def test_an_unknown_version_is_refused_in_one_line(here, capsys):
    with pytest.raises(SystemExit) as end:
        here('--attack', 'autoattack', '--autoattack-version', 'strongest')
    err = capsys.readouterr().err
    assert end.value.code == 2 and 'strongest' in err.splitlines()[-1] and 'Traceback' not in err


# Stopping and going on

@EVERY_ATTACK
@pytest.mark.parametrize('batch', [1, 5, 14])
def test_a_killed_evaluation_goes_on_with_the_same_verdicts(here, whole, tmp_path, monkeypatch, attack, batch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_in(patch, batch, kill)
        here(*ATTACKS[attack])
    assert os.listdir(tmp_path / 'out') == [journal.FILE]
    with open(tmp_path / 'out' / journal.FILE, 'a') as f:
        f.write('{"seconds": 1.5, "rows": [[0, 3, 1')  # torn
    again = stop_in(monkeypatch, 0, None)
    results, rows = here('--resume-eval', '--batch', '5', *ATTACKS[attack])
    assert rows == whole[attack][1]
    assert {k: results[k] for k in ('clean', 'adversarial', 'attacks', 'complete')} == {
        k: whole[attack][0][k] for k in ('clean', 'adversarial', 'attacks', 'complete')}
    assert len(again) < {'pgd': 20, 'early-stop': 20, 'autoattack': 30}[attack] - (batch > 1)
    assert sorted(os.listdir(tmp_path / 'out')) == [TABLE, 'results.json']


@EVERY_ATTACK
def test_two_torn_lines_and_a_kill_between_them(here, whole, tmp_path, monkeypatch, attack):
    for batch, more in ((4, []), (6, ['--resume-eval'])):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop_in(patch, batch, kill)
            here(*ATTACKS[attack], *more)
        path = tmp_path / 'out' / journal.FILE
        path.write_bytes(path.read_bytes()[:-7])
    assert here('--resume-eval', *ATTACKS[attack])[1] == whole[attack][1]


@EVERY_ATTACK
@pytest.mark.parametrize('number, code, batch', [
    (signal.SIGTERM, 143, 7), (signal.SIGINT, 130, 13), (signal.SIGUSR1, 143, 13)])
def test_a_signal_leaves_valid_results_of_what_is_judged(here, whole, tmp_path, monkeypatch, capsys, attack, number,
                                                         code, batch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        stop_in(patch, batch, lambda: os.kill(os.getpid(), number))
        here(*ATTACKS[attack])
    assert end.value.code == code and capsys.readouterr().out == ''
    results, rows = found_in(tmp_path / 'out')
    all_rows = whole[attack][1]
    assert results['complete'] is False and results['num_images'] == len(rows) and results['num_unreadable'] == 0
    assert results['clean']['top1_correct'] == sum(row['clean_pred'] == row['label'] for row in rows.values())
    for name, row in rows.items():
        finished = {key: all_rows[name][key] for key in row}
        assert row == finished or row['broken_by'] == ''
    if attack != 'autoattack':
        assert 0 < len(rows) == -(-batch // 2) * 4 < COUNT
    else:
        assert 0 < len(rows) and {'', 'clean'} <= {row['broken_by'] for row in rows.values()}
        for k, entry in enumerate(results['attacks']):
            names = [a['name'] for a in whole[attack][0]['attacks'][:k + 1]]
            broken = sum(all_rows[name]['broken_by'] in names + ['clean'] for name in rows)
            # Of the first images of the order, whatever became of them: not more broken ones than there are.
            assert entry['num_images'] - entry['robust_correct'] <= broken
            assert 0 < entry['num_images'] <= COUNT
    # Continued, they are replaced; nothing else is left.
    assert here('--resume-eval', *ATTACKS[attack])[1] == all_rows
    assert sorted(os.listdir(tmp_path / 'out')) == [TABLE, 'results.json']


def test_a_partial_sample_does_not_depend_on_what_the_attack_did(here, tmp_path, monkeypatch):
    """In the middle of an attack, those broken before it must not outweigh those that are still to be attacked."""
    first_batches = -(-COUNT // 4)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_in(patch, first_batches + 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        here('--attack', 'autoattack')
    results, _ = found_in(tmp_path / 'out')
    order = np.random.default_rng(0).permutation(COUNT)
    right = [row[1] for row in journal_rows(tmp_path) if row[0] == 0 and row[3] == row[2]]
    todo = [index for index in order if index in right]
    attacked = [row[1] for row in journal_rows(tmp_path) if row[0] == 1]
    assert sorted(attacked) == sorted(todo[:12])
    assert results['attacks'][0]['num_images'] == list(order).index(todo[12])


def journal_rows(folder):
    with open(folder / 'out' / journal.FILE) as f:
        return [row for line in list(f)[1:] for row in json.loads(line)['rows']]


def test_a_signal_in_the_last_batch_comes_too_late(here, whole, monkeypatch):
    stop_in(monkeypatch, 20, lambda: os.kill(os.getpid(), signal.SIGTERM))
    results, rows = here(*ATTACKS['pgd'])
    assert results['complete'] is True and rows == whole['pgd'][1]


@pytest.fixture
def stopped(here, monkeypatch):
    """An evaluation that a signal has ended after three batches."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_in(patch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        here('--attack-iter', '3')


@pytest.mark.parametrize('typed, named', [
    (['--attack-epsilon', '5'], ['attack 1: epsilon', '6.0', '5.0']), (['--seed', '1'], ['seed', '0', '1']),
    (['--attack-iter', '4'], ['attack 1: name', 'PGD-3', 'PGD-4']), (['--targeted'], ['targeted', 'False', 'True']),
    (['--norm', 'L2'], ['attack 1: name', 'PGD-3-L2']), (['--early-stop'], ['attack 1: early_stop', 'False', 'True']),
    (['--attack-gradient', 'softplus'], ['attack_gradient']),
    (['--augmentation', 'none'], ['augmentation', 'cifar', 'none'])])
def test_other_settings_are_refused_in_one_line_that_says_which(stopped, here, tmp_path, capsys, typed, named):
    before = {name: (tmp_path / 'out' / name).read_bytes() for name in os.listdir(tmp_path / 'out')}
    with pytest.raises(SystemExit) as end:
        here('--attack-iter', '3', '--resume-eval', *typed)
    line = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and all(part in line for part in named + ['--resume-eval']), line
    assert {name: (tmp_path / 'out' / name).read_bytes() for name in os.listdir(tmp_path / 'out')} == before


def test_another_checkpoint_or_other_data_is_refused(stopped, here, load, data, tmp_path, capsys):
    values = dict(np.load(load))
    np.savez(tmp_path / 'copy.npz', **values)
    values['linear/W'] = values['linear/W'] + 1
    np.savez(tmp_path / 'other.npz', **values)
    more = make_noise_folder(tmp_path / 'more', {'val': COUNT + 1}, 'abc')
    for typed, named in ((['--load', str(tmp_path / 'other.npz')], 'checkpoint content'), (['--data', more], 'data')):
        with pytest.raises(SystemExit) as end:
            here('--attack-iter', '3', '--resume-eval', *typed)
        assert end.value.code == 2 and 'started with {} '.format(named) in capsys.readouterr().err.splitlines()[-1]
    # The same content at another place is the same checkpoint.
    assert here('--attack-iter', '3', '--resume-eval', '--load', str(tmp_path / 'copy.npz'))[0]['complete'] is True


def test_images_that_were_changed_meanwhile_are_refused_and_said(stopped, here, data, tmp_path, capsys):
    before = (tmp_path / 'out' / journal.FILE).read_bytes()
    path = open_dataset(data, 'val').files[5]
    status = os.stat(path)
    try:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10 ** 9))
        with pytest.raises(SystemExit) as end:
            here('--attack-iter', '3', '--resume-eval')
    finally:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert end.value.code == 2 and 'image files have changed' in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / 'out' / journal.FILE).read_bytes() == before
    assert here('--attack-iter', '3', '--resume-eval')[0]['complete'] is True


def test_without_results_dir_the_unfinished_one_of_the_same_attack_is_continued(data, load, here, tmp_path,
                                                                                monkeypatch):
    typed = flags(data, load, '--attack-iter', '3')
    place = typed.index('--results-dir')
    del typed[place:place + 2]
    with monkeypatch.context() as patch, pytest.raises(Killed), tf.Graph().as_default():
        stop_in(patch, 6, kill)
        main.main(typed)
    folder, = os.listdir(tmp_path / 'results')
    with tf.Graph().as_default():
        main.main(typed)  # another one
    assert sorted(os.listdir(tmp_path / 'results')) == [folder, folder + '-2']
    with tf.Graph().as_default():
        main.main(typed + ['--resume-eval'])
    assert sorted(os.listdir(tmp_path / 'results')) == [folder, folder + '-2']
    first, second = (found_in(tmp_path / 'results' / name) for name in (folder, folder + '-2'))
    assert first[1] == second[1] and len(first[1]) == COUNT


def test_a_folder_that_another_evaluation_writes_is_refused_with_its_owner_s_name(stopped, here, tmp_path, capsys):
    before = {name: (tmp_path / 'out' / name).read_bytes() for name in os.listdir(tmp_path / 'out')}
    with output_folders.locked(str(tmp_path / 'out'), ''):
        for more in ([], ['--resume-eval']):
            with pytest.raises(SystemExit) as end:
                here('--attack-iter', '3', *more)
            line = capsys.readouterr().err.splitlines()[-1]
            assert end.value.code == 2 and 'is being written by process {} of'.format(os.getpid()) in line, line
    assert {name: (tmp_path / 'out' / name).read_bytes() for name in os.listdir(tmp_path / 'out')} == before
    assert here('--attack-iter', '3', '--resume-eval')[0]['complete'] is True


def test_a_journal_whose_settings_are_damaged_is_refused(stopped, here, tmp_path, capsys):
    path = tmp_path / 'out' / journal.FILE
    path.write_bytes(path.read_bytes()[3:])
    with pytest.raises(SystemExit) as end:
        here('--attack-iter', '3', '--resume-eval')
    assert end.value.code == 2 and str(journal.FILE) in capsys.readouterr().err.splitlines()[-1]


def test_without_resume_eval_an_evaluation_starts_again_and_the_unfinished_one_is_kept(stopped, here, tmp_path):
    kept = (tmp_path / 'out' / journal.FILE).read_bytes()
    results, rows = here('--attack-iter', '3')
    assert results['complete'] is True and len(rows) == COUNT
    assert (tmp_path / 'out' / 'unfinished.1.jsonl').read_bytes() == kept
    assert read_json(tmp_path / 'out' / 'results.1.json')['complete'] is False


def test_resume_eval_starts_where_there_is_nothing(here, whole):
    assert here('--resume-eval', *ATTACKS['pgd'])[1] == whole['pgd'][1]


def test_an_image_that_cannot_be_read_for_a_later_attack_does_not_count_as_robust(here, data, tmp_path, monkeypatch,
                                                                                  capsys):
    from data import stream
    gone, read = [], stream._Reader.read

    def reader(self, index, *more):
        return None if index in gone else read(self, index, *more)
    monkeypatch.setattr(stream._Reader, 'read', reader)
    stop_in(monkeypatch, 9, lambda: gone.extend(range(COUNT)))
    with pytest.raises(SystemExit) as end:
        here('--attack', 'autoattack')
    assert end.value.code == 2 and 'cannot be read any more' in capsys.readouterr().err.splitlines()[-1]
    del gone[:]
    assert here('--attack', 'autoattack', '--resume-eval')[0]['complete'] is True


def test_seconds_add_up_over_the_parts(stopped, here, tmp_path):
    with open(tmp_path / 'out' / journal.FILE, 'r+') as f:
        run = json.loads(f.readline())['run']
        f.seek(0, os.SEEK_END)
        f.write(journal._line({'run': run, 'seconds': 1000.0, 'rows': []}))
    assert 1000 < here('--attack-iter', '3', '--resume-eval')[0]['seconds'] < 1300


# As programs

def start(data, load, folder, *more, pause=0):
    return subprocess.Popen([sys.executable, '-c', PROGRAM] + flags(data, load, *more), cwd=folder, env=dict(
        os.environ, PAUSE=str(pause), PYTHONPATH=ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(there, job):
    end = time.time() + 120
    while not there():
        assert job.poll() is None and time.time() < end, job.communicate()[1]
        time.sleep(0.05)


@pytest.mark.slow
def test_a_program_killed_half_way_goes_on_with_the_same_verdicts(data, load, whole, tmp_path):
    job = start(data, load, tmp_path, *ATTACKS['autoattack'], pause=15)
    try:
        wait_until((tmp_path / 'paused').exists, job)
    finally:
        job.kill()
        job.communicate()
    assert sorted(os.listdir(tmp_path / 'out')) == [output_folders.LOCK_FILE, journal.FILE]
    assert len(journal_rows(tmp_path)) > COUNT
    job = start(data, load, tmp_path, *ATTACKS['autoattack'], '--resume-eval')
    out, err = job.communicate(timeout=180)
    assert job.returncode == 0, err
    assert found_in(tmp_path / 'out')[1] == whole['autoattack'][1]
    assert 'Top1 Error: {}\n'.format(whole['autoattack'][0]['adversarial']['top1_error']) in out


@pytest.mark.slow
def test_ten_kills_at_random_moments_of_two_evaluations_of_one_folder_lose_and_mix_nothing(
        data, load, whole, here, tmp_path):
    """Of different checkpoints; each goes on with its own as often as it is killed, if the folder lets it."""
    values = {'linear/W': -WEIGHTS}
    np.savez(tmp_path / 'other.npz', **values)
    loads = {'one': load, 'other': str(tmp_path / 'other.npz')}
    rng, jobs, refused = random.Random(0), {}, 0
    program = PROGRAM.replace('test_judging.run_here', """
import time
from evaluation.passes import Passes
judge = Passes.judge
def slowly(self, *args):
    time.sleep(1)
    return judge(self, *args)
Passes.judge = slowly
test_judging.run_here""")

    def begin(name):
        return subprocess.Popen(
            [sys.executable, '-c', program] + flags(data, loads[name], *ATTACKS['pgd'], '--resume-eval'), cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=ROOT), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def refusals(job):
        err = job.communicate()[1]
        assert job.returncode in (0, 2, -signal.SIGKILL) and 'Traceback' not in err, err
        return 'is being written by' in err or 'started with checkpoint content' in err

    def size():
        path = tmp_path / 'out' / journal.FILE
        return path.stat().st_size if path.exists() else None
    killed = 0
    while killed < 10:
        for name in loads:
            if name not in jobs or jobs[name].poll() is not None:
                refused += name in jobs and refusals(jobs[name])
                jobs[name] = begin(name)
        before, end = size(), time.time() + 60
        while size() == before and time.time() < end:  # until one of them works
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 4))
        alive = [job for job in jobs.values() if job.poll() is None]
        if alive:
            job = rng.choice(alive)
            job.kill()
            job.wait()
            killed += 1
    for job in jobs.values():
        job.kill()
        refused += refusals(job)
    assert refused
    owner = None
    for name, path in loads.items():
        with contextlib.suppress(SystemExit):  # the other's
            here(*ATTACKS['pgd'], '--load', path, '--resume-eval')
            owner = owner or name
    assert owner
    tables = {}
    for name, path in loads.items():
        here(*ATTACKS['pgd'], '--load', path, '--results-dir', name)
        tables[name] = (tmp_path / name / TABLE).read_bytes()
    assert found_in(tmp_path / 'one')[1] == whole['pgd'][1] != found_in(tmp_path / 'other')[1]
    found = [path.read_bytes() for path in (tmp_path / 'out').glob('per_example*.csv')]
    assert found and set(found) <= set(tables.values())


@pytest.mark.slow
@EVERY_ATTACK
def test_any_number_of_ranks_gives_the_same_table_byte_for_byte(data, load, tmp_path, attack):
    tables = []
    for ranks in (1, 2, 3):
        ended = mpirun(ranks, '-c', PROGRAM, *flags(data, load, *ATTACKS[attack]), cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        os.rename(tmp_path / 'out', tmp_path / str(ranks))
        tables.append((tmp_path / str(ranks) / TABLE).read_bytes())
    assert tables[0] == tables[1] == tables[2] and tables[0].count(b'\n') == COUNT + 1


@pytest.mark.slow
@pytest.mark.parametrize('before, after', [(2, 3), (3, 1), (1, 2)])
def test_another_number_of_ranks_goes_on(data, load, whole, tmp_path, before, after):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', PYTHONPATH=ROOT,
                       PAUSE='7')
    job = subprocess.Popen(['mpirun', '-np', str(before), '--oversubscribe', '-bind-to', 'none', sys.executable, '-c',
                            PROGRAM] + flags(data, load, *ATTACKS['autoattack']), cwd=tmp_path, env=environment,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until((tmp_path / 'paused').exists, job)
    finally:
        for rank in psutil.Process(job.pid).children(recursive=True):
            rank.kill()
        job.communicate(timeout=60)
    ended = mpirun(after, '-c', PROGRAM, *flags(data, load, *ATTACKS['autoattack'], '--resume-eval'), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert found_in(tmp_path / 'out')[1] == whole['autoattack'][1]


@pytest.mark.slow
def test_a_signal_to_ranks_ends_them_together_with_partial_results(data, load, whole, tmp_path):
    program = PROGRAM.replace('test_judging.run_here', '''
import signal
from evaluation.passes import Passes
judge, calls = Passes.judge, []
def signalled(self, *args):
    calls.append(None)
    if len(calls) == 4 and os.environ['OMPI_COMM_WORLD_RANK'] == '1':
        os.kill(os.getpid(), signal.SIGTERM)
    return judge(self, *args)
Passes.judge = signalled
test_judging.run_here''')
    ended = mpirun(2, '-c', program, *flags(data, load, *ATTACKS['pgd']), cwd=tmp_path)
    assert ended.returncode == 143 and 'Traceback' not in ended.stderr, ended.stderr
    results, rows = found_in(tmp_path / 'out')
    assert results['complete'] is False and len(rows) == 16
    assert 'after 16 of {} images'.format(COUNT) in ended.stderr + ended.stdout
    ended = mpirun(2, '-c', PROGRAM, *flags(data, load, *ATTACKS['pgd'], '--resume-eval'), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert found_in(tmp_path / 'out')[1] == whole['pgd'][1]
