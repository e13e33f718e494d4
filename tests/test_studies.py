"""The studies: cells that are filled once, paired differences, claims, the commands of a cluster."""
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import stats

import studies.__main__
from commands.command_line import parse_args
from documented import ROOT
from image_folders import make_folder, make_noise_folder
from studies import cluster, places, published, running, tables
from studies.__main__ import main
from studies.cells import JUDGE, TRAIN, Cell, Job, in_order
from studies.places import Place
from studies.registry import STUDIES
from studies.report import write, write_page
from studies.scales import FULL, SCALES, SMALL
from studies.statistics import mean, paired, verdict

CELLS = [(name, scale) for name in STUDIES for scale in SCALES]


def cells_of(study, scale, seeds=None):
    scale = study.scaled(scale)
    return in_order([*study.others(scale), *(cell for _, _, cell in study.rows(scale, seeds))])


# ----- statistics -----
def test_a_mean_has_students_interval():
    values = [0.31, 0.29, 0.335, 0.30]
    found = mean(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose([found.value, found.low, found.high], [np.mean(values), low, high], rtol=1e-12)
    assert mean([0.5]).low is None and mean([0.5]).value == 0.5


def test_a_difference_is_of_the_same_seeds_alone():
    """What all arms of a seed share cancels: here 10 points from seed to seed, and a difference of exactly 1."""
    base = {1: 0.3, 2: 0.4, 3: 0.5}
    found = paired({1: 0.31, 2: 0.41, 3: 0.51, 4: 0.9}, base)
    assert found.count == 3 and found.value == pytest.approx(0.01) and found.high - found.low < 1e-12
    independent = stats.ttest_rel([0.35, 0.41, 0.56], list(base.values())).confidence_interval()
    found = paired({1: 0.35, 2: 0.41, 3: 0.56}, base)
    np.testing.assert_allclose([found.low, found.high], independent, rtol=1e-9)
    assert paired({4: 0.1}, base) is None


def test_a_claim_is_decided_only_where_the_interval_leaves_out_zero():
    above, around, one = mean([0.02, 0.021, 0.022]), mean([-0.02, 0.03, 0.01]), mean([0.5])
    assert verdict(above, 1) == 'supported' and verdict(above, -1) == 'contradicted'
    assert verdict(around, 1) == verdict(one, 1) == verdict(None, 1) == 'open'


# ----- cells -----
@pytest.mark.parametrize('name, scale', CELLS)
def test_every_word_of_every_job_is_a_flag_of_its_program(name, scale, tmp_path):
    """Of the first seed, as main.py's own parser and checks read it."""
    place = Place('', str(tmp_path), str(tmp_path))
    weights = str(tmp_path / 'weights.npz')
    np.savez(weights, unknown=np.zeros(1))
    for cell in cells_of(STUDIES[name], SCALES[scale], 1):
        for job in cell.jobs:
            if job.kind in (TRAIN, JUDGE):
                words = list(place.written(job.words))
                for flag in ('--data', '--subset'):  # there are no images
                    if flag in words:
                        del words[words.index(flag):words.index(flag) + 2]
                if '--load' in words:
                    words[words.index('--load') + 1] = weights
                args = parse_args(['--eval'] * (job.kind == JUDGE) + words)
                assert args.eval == (job.kind == JUDGE)


@pytest.mark.parametrize('name, scale', CELLS)
def test_arms_of_a_seed_differ_in_their_own_flags_alone(name, scale):
    study, at = STUDIES[name], SCALES[scale]
    names = [cell.name for cell in cells_of(study, at)]
    assert len(names) == len(set(names)) and not any(set(name) & set(' ,/') for name in names)
    assert not any(',' in arm.name for arm in study.arms(study.scaled(at)))  # --arms takes a list
    for arm, seed, cell in study.rows(study.scaled(at)):
        for job in cell.jobs:
            if job.kind == TRAIN:
                assert job.words[-2:] == ('--seed', str(seed))
                assert all(word in job.words for word in arm.words if not word.startswith('{'))


def test_studies_share_their_cells():
    relu = {name: [cell for cell in cells_of(STUDIES[name], SMALL) if cell.name == 'small-relu-1']
            for name in ('activations', 'gradients', 'cifar10', 'sanity', 'transfer_learning')}
    assert all(found == relu['activations'] and len(found) == 1 for found in relu.values())


def test_a_cell_stands_behind_those_that_it_needs():
    def cell(name, *needs):
        return Cell(name, (), needs)
    found = in_order([cell('c', 'b'), cell('a'), cell('b', 'a'), cell('a')])
    assert [each.name for each in found] == ['a', 'b', 'c']
    for wrong, words in (([cell('a', 'b')], 'needs the cell b'), ([cell('a'), cell('a', 'b'), cell('b')], 'two cells'),
                         ([cell('a', 'b'), cell('b', 'a')], 'circle')):
        with pytest.raises(ValueError, match=words):
            in_order(wrong)


# ----- filling, with a program that only takes its time -----
PROGRAM = '''
import json, os, sys, time
folder, seconds, right = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
with open(folder + '.starts', 'a') as f:
    f.write('.')
time.sleep(seconds)
os.makedirs(folder)
part = {'top1_correct': right, 'top1_error': 1 - right / 100}
with open(os.path.join(folder, 'results.json'), 'w') as f:
    json.dump({'num_images': 100, 'clean': part, 'adversarial': part, 'seconds': seconds,
               'source': {'commit': 'c' * 40, 'changed': False}}, f)
'''
FILLED = '''
import sys
from machine.quiet_tensorflow import quieten_tensorflow
quieten_tensorflow()
sys.path.insert(0, {tests!r})
from test_studies import fill_slowly
fill_slowly(*sys.argv[1:])
'''


class Pretended(Place):
    """A place whose jobs are ``PROGRAM``; a job's words are its seconds and what is right."""

    def command(self, cell, job):
        folder = os.path.join(self.work, cell.name, job.name)
        return [sys.executable, '-c', PROGRAM, folder, *job.words], folder


def pretended_cells(seconds):
    return [Cell('cell-{}'.format(k), (Job('first', JUDGE, (str(seconds), str(40 + k)), 1),
                                       Job('second', JUDGE, (str(seconds), str(30 + k)), 1))) for k in range(4)]


def fill_slowly(work, kept, seconds):
    running.Fill(Pretended('data', work, kept), pretended_cells(float(seconds))).run(1)


def starts(work, number):
    found = [os.path.join(work, 'cell-{}'.format(number), name + '.starts') for name in ('first', 'second')]
    return [os.path.getsize(path) if os.path.exists(path) else 0 for path in found]


@pytest.mark.parametrize('number', [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_killed_study_goes_on_and_repeats_no_finished_job(tmp_path, number):
    work, kept, calm = (str(tmp_path / name) for name in ('work', 'kept', 'calm'))
    program = FILLED.format(tests=os.path.join(ROOT, 'tests'))
    study = subprocess.Popen([sys.executable, '-c', program, work, kept, '0.4'], stderr=subprocess.PIPE, text=True)
    while not starts(work, 1)[0]:  # the first cell is filled, the second one is begun
        assert study.poll() is None, study.stderr.read()
        time.sleep(0.02)
    study.send_signal(number)
    study.communicate(timeout=30)
    assert study.returncode != 0
    assert len(os.listdir(os.path.join(kept, 'cells'))) == 1

    place = Pretended('data', work, kept)
    running.Fill(place, pretended_cells(0.4)).run(2)
    assert starts(work, 0) == [1, 1] and starts(work, 3) == [1, 1]
    undisturbed = Pretended('data', str(tmp_path / 'other'), calm)
    running.Fill(undisturbed, pretended_cells(0.4)).run(2)

    def contents(place):
        return [{name: job['found'] for name, job in running.finished(place, cell)['jobs'].items()}
                for cell in pretended_cells(0.4)]
    assert contents(place) == contents(undisturbed)
    assert running.Fill(place, pretended_cells(0.4)).todo == []


def test_of_a_failing_program_its_log_is_named_and_all_that_does_not_need_it_is_filled(tmp_path):
    place = Pretended('data', str(tmp_path / 'work'), str(tmp_path / 'kept'))
    good, bad = (Job('first', JUDGE, ('0', right), 1) for right in ('40', 'nonsense'))
    cells = [Cell('bad', (bad,)), Cell('behind', (good,), ('bad',)), Cell('good', (good,)),
             Cell('far', (good,), ('behind',))]
    words = '^bad, first: the program ended with exit code 1; its words are in .*log$'
    with pytest.raises(running.Failed, match=words):
        running.Fill(place, cells).run(1)
    with open(place.job_file('bad', 'first').replace('.json', '.log')) as f:
        assert 'nonsense' in f.read()
    assert [cell.name for cell in running.Fill(place, cells).todo] == ['bad', 'behind', 'far']


def test_a_cell_of_other_commands_is_refused(tmp_path):
    place = Pretended('data', str(tmp_path / 'work'), str(tmp_path / 'kept'))
    running.Fill(place, pretended_cells(0)[:1]).run(1)
    with pytest.raises(ValueError, match="cell-0.json' is of other commands than cell-0 has now"):
        running.Fill(place, pretended_cells(0.1)[:1])
    with open(place.cell_file('cell-0')) as f:
        content = json.load(f)
    del content['jobs']['first']['words']
    with open(place.cell_file('cell-0'), 'w') as f:
        json.dump(content, f)
    with pytest.raises(ValueError, match="cell-0.json' is damaged .*lacks words.*; move it away"):
        running.Fill(place, pretended_cells(0)[:1])
    with open(place.cell_file('cell-0'), 'a') as f:
        f.write('}')
    with pytest.raises(ValueError, match="cell-0.json' is damaged"):
        running.Fill(place, pretended_cells(0)[:1])


def test_a_published_cell_is_not_filled_again_but_trained_where_its_weights_are_needed(tmp_path):
    place = Pretended('data', str(tmp_path / 'work'), str(tmp_path / 'kept'))
    first = Cell('first', (Job('train', JUDGE, ('0', '50'), 1),))
    running.Fill(place, [first]).run(1)
    elsewhere = place._replace(work=str(tmp_path / 'elsewhere'))
    trained = first._replace(jobs=(first.jobs[0]._replace(kind=TRAIN),))
    assert running.Fill(elsewhere, [trained]).todo == []
    other = Cell('other', (Job('judged', JUDGE, ('0', '60'), 1),), ('first',))
    assert [cell.name for cell in running.Fill(elsewhere, [trained, other]).todo] == ['first', 'other']


@pytest.mark.slow
def test_the_same_cell_again_is_the_same_and_arms_of_a_seed_begin_alike(tmp_path):
    """Real programs on noise, on a core of its own each."""
    data = make_noise_folder(tmp_path / 'data', {'train': 256, 'test': 40}, 'abcdefghij')
    scale = SMALL._replace(epochs=1, pgd_steps=2)
    # A rate of zero: what is judged are the weights that training begins with.
    still = ('--base-lr', '0', '--warmup-epochs', '0')
    cells = [scale.cell('relu', ('--activation-name', 'relu'), 1),
             scale.cell('update', ('--activation-name', 'relu', '--update-gradient', 'parametric_softplus', *still), 1),
             scale.cell('neither', ('--activation-name', 'relu', *still), 1)]
    found = []
    for turn in ('first', 'second'):
        place = Place(data, str(tmp_path / turn / 'work'), str(tmp_path / turn / 'results'))
        os.makedirs(place.work)
        places.make_part(place)
        running.Fill(place, cells).run(1)
        found.append([{name: figures_of(job['found']) for name, job in
                       running.finished(place, cell)['jobs'].items()} for cell in cells])
    assert found[0] == found[1]
    _, update, neither = found[0]
    assert update['PGD']['clean'] == neither['PGD']['clean']
    assert running.finished(place, cells[0])['source']['commit']


def figures_of(found):
    """Without the times."""
    epochs = [{name: value for name, value in epoch.items() if name != 'seconds'} for epoch in found.get('epochs', [])]
    return {**{name: value for name, value in found.items() if name != 'epochs'}, 'epochs': epochs}


# ----- tables and the page -----
def pretend(place, study, scale, right):
    """Files of all cells of a study whose columns are clean, PGD and AutoAttack; ``right``: (arm, seed) → of 100."""
    os.makedirs(os.path.join(place.kept, 'cells'), exist_ok=True)
    for arm, seed, cell in study.rows(scale):
        found = {'num_images': 100, 'clean': {'top1_correct': right(arm.name, seed) + 20},
                 'adversarial': {'top1_correct': right(arm.name, seed)}}
        content = {'cell': cell.name, 'date': '2026-11-28', 'versions': {'tensorflow': '2.21.0'},
                   'machine': {'processor': 'some', 'kind': 'other', 'cores': 1}, 'source': {'commit': 'c' * 40},
                   'jobs': {job.name: {'words': list(job.words), 'command': '', 'seconds': 60, 'found': found}
                            for job in cell.jobs}}
        with open(place.cell_file(cell.name), 'w') as f:
            json.dump(content, f)


def test_a_table_has_means_paired_differences_and_what_becomes_of_the_claims(tmp_path):
    place = Place('', '', str(tmp_path / 'results'))
    study = STUDIES['gradients']
    gained = {'relu': 0, 'attacker': 3, 'update': -2, 'both': 0}
    pretend(place, study, SMALL, lambda arm, seed: 40 + 5 * seed + gained[arm] + (arm == 'attacker') * (seed == 2))
    text = write(study, SMALL, place)
    assert '| attacker | 3 | 73.3 (+3.3, 1.9 to 4.8) | 53.3 (+3.3, 1.9 to 4.8) |' in text
    assert '| a smooth derivative for the attacker raises robustness | +3.3, 1.9 to 4.8 (3 seeds) | supported |' in text
    assert 'for the update raises robustness | -2.0, -2.0 to -2.0 (3 seeds) | contradicted |' in text
    assert '| for both it raises robustness | +0.0, 0.0 to 0.0 (3 seeds) | open |' in text
    assert '12 of 12 cells filled' in text
    with open(os.path.join(place.kept, 'gradients-small.json')) as f:
        content = json.load(f)
    both = next(arm for arm in content['arms'] if arm['arm'] == 'both')
    assert both['figures']['PGD']['by_seed'] == {'1': 0.45, '2': 0.5, '3': 0.55}
    for ending in ('png', 'svg', 'md'):
        assert os.path.getsize(os.path.join(place.kept, 'gradients-small.' + ending)) > 1000
    before = [open(os.path.join(place.kept, 'gradients-small.' + ending), 'rb').read() for ending in ('png', 'svg')]
    write(study, SMALL, place)
    assert before == [open(os.path.join(place.kept, 'gradients-small.' + ending), 'rb').read()
                      for ending in ('png', 'svg')]
    with open(write_page(place)) as f:
        page = f.read()
    assert '## gradients, small' in page and 'results/gradients-small.png' in page and '## scaling' not in page


def test_the_published_page_is_that_of_the_published_cells(tmp_path):
    """docs/results.md and all that it is made of but its pictures, made anew."""
    kept = tmp_path / 'results'
    shutil.copytree(os.path.join(ROOT, 'docs', 'results'), kept)
    place = Place('', '', str(kept))
    for study in STUDIES.values():
        for scale in SCALES.values():
            write(study, scale, place)
    write_page(place)
    for path in [tmp_path / 'results.md', *kept.glob('*.md'), *kept.glob('*.json')]:
        with open(os.path.join(ROOT, 'docs', path.relative_to(tmp_path))) as f:
            assert f.read() == path.read_text(), path.name


def test_figures_of_others_have_a_source_and_are_named_by_a_study():
    named = {name for study in STUDIES.values() for name in study.published}
    assert named == set(published.PUBLISHED)
    for each in sum(published.PUBLISHED.values(), []):
        assert each.source and not (each.clean is each.pgd is each.autoattack is None)
    lines = published.table(('bai2021',))
    assert '| 66.77 | 32.26 (PGD-100) | 26.41 |' in lines[2] and '67.38 | 40.27 (PGD-100) | 35.51' in lines[3]


# ----- a cluster -----
def test_the_commands_of_a_cluster_are_whole_and_their_hours_counted(monkeypatch):
    place = Place('/data/imagenet', 'work', 'kept')
    cells = cells_of(STUDIES['activations'], FULL, 1)[:2]
    lines = [line for line in cluster.commands(cells, FULL, place) if not line.startswith('#')]
    assert lines[0] == 'python third_party/serve-data.py --data /data/imagenet --batch 32'
    train = shlex.split(lines[1])
    assert train[:5] == ['mpirun', '-np', '16', 'python', 'main.py']
    args = parse_args(train[5:train.index('--data')])
    assert (args.arch, args.depth, args.epochs, args.attack_iter, args.attack_epsilon, args.attack_step_size) == (
        'ResNet', 50, 100, 1, 4, 4)
    assert sum('main.py --eval' in line for line in lines) == 4 and '{' not in ''.join(lines)
    # 1.2 million images, 100 epochs, at 100 images/s of a GPU: 356 hours, and the evaluations.
    trained = [Cell(cell.name, cell.jobs[:1], network=cell.network) for cell in cells[:1]]
    monkeypatch.setattr(cluster.gpus, 'visible', lambda: [])
    said = cluster.hours(trained, FULL, lambda cell: 1.0, 100)
    assert said.startswith('about {:,.0f} GPU-hours'.format(1281167 * 100 / 100 / 3600))
    assert 'no GPU' in cluster.hours(trained, FULL, lambda cell: 1.0)


def test_what_is_wrong_is_said_in_a_line(tmp_path, monkeypatch, capsys):
    def say(*words):
        with pytest.raises(SystemExit) as end:
            main(words)
        return end.value.code, capsys.readouterr().err.strip().split('\n')[-1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['studies'])
    done = subprocess.run([sys.executable, '-m', 'studies', 'activation', '--data', 'x'], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert "'activations'" in done.stderr.strip().split('\n')[-1]
    code, line = say('activations')
    assert code == 2 and '--data: which images?' in line
    code, line = say('activations', '--data', 'nowhere', '--results', 'r')
    assert code == 2 and 'no such directory' in line
    code, line = say('gradients', '--data', '.', '--run')
    assert code == 2 and '--run, --images-per-second: they are of --scale full' in line
    code, line = say('gradients', '--data', '.', '--seeds', '0')
    assert code == 2 and '--seeds: 0 is below 1' in line
    code, line = say('gradients', '--data', '.', '--arms', 'silu')
    assert code == 2 and "'silu' is none of the arms of gradients: relu, " in line


def test_arms_may_be_of_several_studies(tmp_path, monkeypatch):
    filled = []
    monkeypatch.setattr(studies.__main__, '_fill', lambda args, cells, *_: filled.extend(cell.name for cell in cells))
    monkeypatch.setattr(studies.__main__, 'make_part', lambda place: None)
    monkeypatch.setattr(sys, 'argv', ['studies'])
    monkeypatch.chdir(tmp_path)
    main(['activations', 'gradients', '--arms', 'gelu,attacker', '--data', '.', '--work', 'w', '--results', 'r'])
    assert sorted(filled) == ['small-{}-{}'.format(arm, seed) for arm in ('attacker', 'gelu') for seed in (1, 2, 3)]


def test_a_part_of_the_test_images_is_the_first_of_each_class(tmp_path):
    data = tmp_path / 'data'
    make_folder(data, ['{}/{}/{}.png'.format(split, c, k) for split, count in (('train', 1), ('test', 3))
                       for c in 'ab' for k in range(count)])
    place = Place(str(data), str(tmp_path / 'work'), '')
    os.makedirs(place.work)
    for _ in range(2):  # again where it is there
        places.make_part(place, per_class=2)
    found = sorted(os.path.relpath(path, place.part) for path in
                   (os.path.join(root, name) for root, _, names in os.walk(place.part, followlinks=True)
                    for name in names))
    assert [path for path in found if path.startswith('test')] == ['test/{}/{}'.format(c, n) for c in 'ab' for n in
                                                                  sorted(os.listdir(data / 'test' / c))[:2]]
    assert len([path for path in found if path.startswith('train')]) == 2


def test_tables_say_in_how_many_cells_a_study_is_missing(tmp_path):
    place = Place('', '', str(tmp_path))
    figures = tables.gather(STUDIES['activations'], SMALL, place)
    assert figures.cells == {} and figures.missing == 14 and write(STUDIES['activations'], SMALL, place) == ''


def test_the_demo_shows_the_figures_of_the_study_beside_its_own(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location('demo', os.path.join(ROOT, 'scripts', 'demo.py'))
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    monkeypatch.setattr(demo, 'ROOT', str(tmp_path))
    assert demo.activations_compared().endswith('On CIFAR-10: see docs/results.md')
    place = Place('', '', str(tmp_path / 'docs' / 'results'))
    pretend(place, STUDIES['activations'], SMALL, lambda arm, seed: 40 + seed + (arm == 'silu'))
    write(STUDIES['activations'], SMALL, place)
    assert demo.activations_compared().endswith(
        'relu 62.0 clean and 42.0 under PGD-50 (3 seeds); silu 63.0 clean and 43.0 under PGD-50 (3 seeds); '
        'see docs/results.md')
