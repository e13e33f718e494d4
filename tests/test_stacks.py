"""Environments of unlike Python and TensorFlow agree: what one writes the others read, and judge alike.

`make test-stacks` makes the environments and names their Pythons in SAT_STACKS.
"""
import itertools
import os
import shutil
import subprocess

import pytest

from small_runs import MAIN, ROOT

STACKS = [python for python in os.environ.get('SAT_STACKS', '').split(os.pathsep) if python]
pytestmark = [pytest.mark.stacks, pytest.mark.skipif(len(STACKS) < 2, reason='needs two environments in SAT_STACKS')]

NETWORK = ['--arch', 'CifarResNet', '-d', '8', '--activation-name', 'silu']  # and the digits, its data by default
TRAINING = ['--batch', '32', '--attack-iter', '1', '--attack-epsilon', '32', '--attack-step-size', '16',
            '--epochs', '3', '--base-lr', '0.4', '--warmup-epochs', '0', '--eval-attack-iter', '1']
EVALUATION = ['--attack-iter', '10', '--attack-epsilon', '16', '--attack-step-size', '4', '--batch', '64']
NUM_IMAGES = 299  # in the validation split of the digits


def name(python):
    """The environment's: the folder that bin/python is in."""
    return os.path.basename(os.path.dirname(os.path.dirname(python)))


def run(python, *command, cwd):
    ended = subprocess.run([python, *command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env=dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL='2'))
    assert ended.returncode == 0, (name(python), command, ended.stdout)
    return ended.stdout


def version(python):
    return run(python, '-c', 'import importlib.metadata as m; print(m.version("tensorflow-cpu"))', cwd=ROOT).strip()


@pytest.fixture(scope='module', params=[STACKS[:1], STACKS[-1:]], ids=['newest', 'oldest'])
def checkpoints(request, tmp_path_factory):
    """A network trained in the newest or the oldest environment: its two forms of a checkpoint."""
    (python,), folder = request.param, tmp_path_factory.mktemp('trained')
    run(python, MAIN, *NETWORK, *TRAINING, '--logdir', str(folder / 'run'), cwd=folder)
    last = max((folder / 'run').glob('model-*.index'), key=lambda path: int(path.stem.split('-')[1]))
    written = str(last.with_suffix(''))
    run(python, os.path.join(ROOT, 'convert.py'), 'weights', '--load', written, 'weights.npz', cwd=folder)
    return written, str(folder / 'weights.npz')


def judge(python, checkpoint, folder):
    """The table of verdicts, one line for each image."""
    run(python, MAIN, '--eval', '--load', checkpoint, *NETWORK, *EVALUATION, '--results-dir', name(python), cwd=folder)
    with open(folder / name(python) / 'per_example.csv') as f:
        return f.read().splitlines()


def test_every_set_gives_each_image_the_same_verdict(checkpoints, tmp_path):
    for number, checkpoint in enumerate(checkpoints):
        folder = tmp_path / str(number)
        folder.mkdir()
        tables = {python: judge(python, checkpoint, folder) for python in STACKS}
        first = tables[STACKS[0]]
        rows = [row.split(',') for row in first[1:]]
        standing = sum(row[1] == row[3] for row in rows)
        assert len(rows) == NUM_IMAGES and 0.2 < standing / NUM_IMAGES < 0.95, first[:3]
        for python in STACKS[1:]:
            assert tables[python] == first, (name(STACKS[0]), name(python))


@pytest.mark.parametrize('room, package', [('third_party', 'zmq_ops'), ('native', 'smooth_ops')])
def test_a_library_for_another_tensorflow_is_refused_in_words(room, package, tmp_path):
    versions = {version(python): python for python in STACKS}
    if len(versions) < 2:
        pytest.skip('one TensorFlow only')
    for (theirs, _), (ours, python) in itertools.permutations(versions.items(), 2):
        folder = tmp_path / ours / package
        path = folder / 'build' / ('tensorflow-' + ours) / 'lib{}.so'.format(package)
        path.parent.mkdir(parents=True)
        shutil.copy(os.path.join(ROOT, room, package, 'build', 'tensorflow-' + theirs, path.name), path)
        said = run(python, '-c', '''
from native import op_library
try:
    op_library.load({!r})
except ImportError as error:
    print(error)
'''.format(str(folder)), cwd=tmp_path)
        assert '{} does not fit TensorFlow {}; delete it and run `make setup`'.format(path, ours) in said
