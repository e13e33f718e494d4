"""Exported steps: XLA's program computes what TensorFlow computes, and a table says what was measured of it."""
import gzip
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

BENCHMARKS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'benchmarks')
import gpu_export
import gpu_speed
import measure
from commands.command_line import parse_args
from gpu import plan, products, steps, tables

TINY = measure.variant('tiny: --arch CifarResNet -d 8 --input-size 8 --num-classes 10 --activation-name silu')
# A Python with JAX: this one, or another that the environment names.
JAX_PYTHON = os.environ.get('JAX_PYTHON') or (sys.executable if importlib.util.find_spec('jax') else None)
# What the other Python does: the results of a program, of the arguments in a file.
IN_JAX = '''
import sys
import jax, numpy as np
from gpu.xla_worker import Loaded
path, given, found = sys.argv[1:]
arguments = np.load(given)
results = Loaded(path).run([jax.device_put(arguments[str(number)]) for number in range(len(arguments.files))])
np.savez(found, **{str(number): np.asarray(result) for number, result in enumerate(results)})
'''


def written(folder, step, precision, layout):
    gpu_export.export(str(folder), TINY, step, precision, layout, 4)
    path = str(folder / '-'.join((step, 'tiny', precision, layout)))
    with open(path + '.json') as f:
        return path, json.load(f)


def test_an_exported_step_takes_its_variables_and_gives_back_what_it_changed(tmp_path):
    path, said = written(tmp_path, 'train', 'bfloat16', 'NHWC')
    names = [parameter['name'] for parameter in said['parameters']]
    assert names[:3] == ['image', 'label', 'step'] and 'conv0/W' in names
    results = {result['name']: result['feeds'] for result in said['results']}
    assert results['next_step'] == 'step' and results['cost'] is None
    assert {'conv0/W', 'conv0/W/Momentum', 'conv0/bn/mean/EMA'} <= set(results)
    assert 'learning_rate' in names and 'learning_rate' not in results  # it is read alone
    assert all(feeds in names for feeds in results.values() if feeds)
    assert said['batch'] == 4 and said['trains'] and said['parameters'][0]['shape'] == [4, 8, 8, 3]
    with gzip.open(path + '.hlo.gz') as f:
        hlo = f.read()
    assert len(hlo) < 1e6 and b'/home/' not in hlo and b'.py' not in hlo  # no weights, nothing of where it was made


def test_what_a_skipped_step_would_keep_is_given_back_and_what_branches_read_is_not(tmp_path):
    _, said = written(tmp_path, 'train', 'float16', 'NHWC')
    results = {result['name'] for result in said['results']}
    assert {'conv0/W', 'conv0/W/Momentum', 'loss_scale/scale', 'loss_scale/skipped_steps'} <= results
    assert 'learning_rate' not in results


def test_products_are_those_of_the_layers():
    args = parse_args(['--fake', *TINY.flags])
    first = 8 * 8 * 16 * 27
    forward = first + 2 * 8 * 8 * 16 * 144 + 4 * 4 * 32 * (144 + 288) + 2 * 2 * 64 * (288 + 576) + 64 * 10
    assert products.of_passes(args) == (2 * 2 * forward, 2 * (3 * forward - first))


@pytest.mark.skipif(JAX_PYTHON is None, reason='there is no JAX; JAX_PYTHON may name a Python that has it')
@pytest.mark.parametrize('step, precision, layout, near', [
    ('train', 'float32', 'NHWC', 1e-5), ('train', 'float32', 'NCHW', 1e-5), ('train', 'bfloat16', 'NHWC', 5e-3),
    ('train', 'float16', 'NHWC', 5e-3),
    ('pgd', 'float32', 'NHWC', 1e-6), ('apgd', 'float32', 'NHWC', 1e-6)])
def test_xla_computes_what_tensorflow_computes(step, precision, layout, near, tmp_path):
    path, said = written(tmp_path, step, precision, layout)
    random = np.random.RandomState(0)
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        made, _ = steps.build(step, TINY.flags, 4, precision, layout)
        variables = {variable.op.name: variable for variable in tf.global_variables()}
        given = {'image': random.randint(0, 256, [4, 8, 8, 3]).astype(np.uint8), 'label': np.arange(4, dtype=np.int32),
                 'step': np.int64(7)}
        if step != 'train':
            given['image'] = given['image'] / np.float32(127.5) - 1
            given['start'] = np.clip(given['image'] + np.float32(0.01), -1, 1)
            if step == 'apgd':
                given['start'] = given['start'].reshape(4, -1) / 2 + 0.5
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            given.update(session.run(variables))
            found = session.run(made.results, {tensor: given[name] for name, tensor in made.inputs.items()})
            found.update(session.run(variables))
    np.savez(tmp_path / 'given.npz', **{
        str(number): given[parameter['name']] for number, parameter in enumerate(said['parameters'])})
    subprocess.run([JAX_PYTHON, '-c', IN_JAX, path, tmp_path / 'given.npz', tmp_path / 'found.npz'], check=True,
                   env=dict(os.environ, PYTHONPATH=BENCHMARKS, JAX_PLATFORMS='cpu'))
    theirs = np.load(tmp_path / 'found.npz')
    for number, result in enumerate(said['results']):
        ours, other = found[result['name']], theirs[str(number)]
        assert other.shape == tuple(result['shape']) and other.dtype == result['type']
        # A gradient that is 0 but for rounding has another sign here and there, and its pixel another value.
        assert (np.abs(ours - other) <= near * (1 + np.abs(ours))).mean() > 0.97, result['name']
    assert any(not np.array_equal(found[result['name']], given.get(result['name'])) for result in said['results'])


def said_of(step='train', network='resnet50', precision='bfloat16', layout='NHWC'):
    return {'name': '-'.join((step, network, precision, layout)), 'step': step, 'network': network, 'batch': 128,
            'precision': precision, 'layout': layout, 'trains': step == 'train', 'passes': 1 if step == 'train' else 4,
            'operations': 5e12, 'path': step}


def test_the_training_step_in_bfloat16_is_measured_first_then_the_attacks():
    exported = [said_of(layout='NCHW'), said_of('apgd'), said_of('pgd'), said_of(network='convnext-t'),
                said_of(precision='float32'), said_of()]
    order = [task.said['name'] for task in plan.tasks(exported, ['XLA'], 'cpu')]
    assert order[:3] == [said_of(step)['name'] for step in ('train', 'pgd', 'apgd')] and len(order) == 6
    both = [task.name for task in plan.tasks(exported, ['XLA', 'PyTorch'], 'cuda')]
    assert both[:3] == ['XLA, train-resnet50-bfloat16-NHWC', 'PyTorch, train-resnet50-bfloat16, graph',
                        'PyTorch, train-resnet50-bfloat16, reduce-overhead']
    assert len(both) == len(set(both)) == 6 + 5 * 4  # PyTorch has one layout
    assert both.index('PyTorch, train-resnet50-bfloat16, max-autotune') == 6 + 5 * 2


def test_rows_say_rates_and_the_ratio_to_pytorchs_best():
    found = {'XLA, train-resnet50-bfloat16-NHWC': {'seconds': 0.032, 'bytes': 2 ** 30, 'compiling': 40.0},
             'PyTorch, train-resnet50-bfloat16, graph': {'seconds': 0.064, 'bytes': 2 ** 31},
             'PyTorch, train-resnet50-bfloat16, eager': {'error': 'out of memory'},
             'PyTorch, train-resnet50-bfloat16, max-autotune': {'seconds': 0.04, 'bytes': 2 ** 29}}
    row, = tables.rows([said_of(), said_of('pgd')], found, {'bfloat16': 625e12})
    assert (row['xla'], row['best'], row['torch']['graph']) == (4000, 'max-autotune', 2000)
    assert row['ratio'] == pytest.approx(1.25) and row['part'] == pytest.approx(0.25) and row['torch_bytes'] == 2 ** 29
    where = {'card': 'NVIDIA H100 80GB HBM3', 'driver': '1.2', 'date': 'then',
             'sides': {'XLA': {'versions': {'JAX': '3'}}}}
    limits = {'bfloat16': 625e12, 'tf32': 3e14, 'float32': 5e13, 'copy': 3e12}
    out = tables.text(where, limits, [row], ['XLA, some'])
    assert 'NVIDIA H100 80GB HBM3, driver 1.2; JAX 3; then' in out and 'bfloat16 625 TFLOP/s' in out
    assert '| train | resnet50 | bfloat16 | NHWC | 128 | 4,000.0 | 3,200.0 | max-autotune | 1.25 | 156.2 | 25% |' in out
    # 1,190 times 989 / 312, by hand.
    assert 'at more than 3,772 images/s' in out and ': 4,000, reached' in out and '1.25 times that, reached' in out
    assert out.endswith('Left out, as the time was up: XLA, some')


class Slow:
    """Answers after ``seconds`` of a clock of its own."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.asked = clock, seconds, []

    def ask(self, most, *request):
        self.clock.left -= self.seconds
        self.asked.append((most, request))
        return {'seconds': 0.5}


def test_nothing_is_begun_when_the_time_is_up(capsys):
    clock = gpu_speed.Clock.__new__(type('Clock', (), {'left': 100}))
    worker = Slow(clock, 50)
    tasks = plan.tasks([said_of(), said_of('pgd'), said_of('apgd')], ['XLA'], 'cpu')
    found, left_out = gpu_speed.run(tasks, {'XLA': worker}, clock, 70)
    assert list(found) == [tasks[0].name, tasks[1].name] and left_out == [tasks[2].name]
    assert worker.asked == [(70, ('step', 'train')), (50, ('step', 'pgd'))]
    assert 'XLA, train-resnet50-bfloat16-NHWC: 256.0 images/s' in capsys.readouterr().out


def test_what_is_missing_is_said_in_a_line_each(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(said_of()))
    command = [sys.executable, os.path.join(BENCHMARKS, 'gpu_speed.py'), '--hlo', str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and 'no exported step; make them with' in done.stderr
    (tmp_path / 'a.hlo.gz').write_bytes(b'')
    nothing = ['--jax-python', sys.executable + '-none', '--torch-python', 'false']
    done = subprocess.run(command + nothing, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and 'nothing to measure with' in done.stderr and 'Traceback' not in done.stderr
    assert [line.split(' is left out: ')[0] for line in done.stdout.splitlines()] == ["JAX's XLA", 'PyTorch']
