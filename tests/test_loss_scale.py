"""The loss scale of updates in float16: which steps are skipped, what follows, what is said and kept of it."""
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import adv_model
from settings.update import Update
from small_runs import LEAN, differing, mpirun, read_json, variables
from training.optimizers import OPTIMIZERS, make_optimizer
from training.step import loss_scale
from training.step.loss_scale import INITIAL, LossScale, ScaledOptimizer, step_is_skipped
from weights.identity import is_of_training

W, B = np.float32([[1, -2], [3, 0.5]]), np.float32([0.25, -1])
DECAY = 0.125


class Trained:
    """A matrix `layer/W` and a vector, and an optimizer on gradients that are fed."""

    def __init__(self, name, scaled, settings=None):
        with tf.Graph().as_default():
            variables = [tf.get_variable('layer/W', initializer=W), tf.get_variable('layer/b', initializer=B)]
            optimizer = make_optimizer(name, settings, DECAY, '.*/W', 'layer/b')
            optimizer = ScaledOptimizer(optimizer) if scaled else optimizer
            self.gradients = [tf.placeholder(tf.float32, v.shape) for v in variables]
            self.step = optimizer.apply_gradients(list(zip(self.gradients, variables)))
            self.variables, self.skipped = tf.global_variables(), step_is_skipped()
            self.sess = tf.Session()
            self.sess.run(tf.global_variables_initializer())

    def run(self, *gradients):
        """Whether the step was skipped."""
        return self.sess.run([self.step, self.skipped], dict(zip(self.gradients, gradients)))[1]

    def values(self, own=True):
        """By name, without those of the loss scale, or they alone."""
        found = dict(zip((v.op.name for v in self.variables), self.sess.run(self.variables)))
        return {name: value for name, value in found.items() if name.startswith('loss_scale/') != own}


def gradients_of(number):
    random = np.random.RandomState(number)
    return [random.standard_normal(v.shape).astype(np.float32) for v in (W, B)]


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('rate', [None, 10.0])
def test_steps_are_those_of_the_optimizer_and_a_skipped_one_changes_nothing_of_it(name, rate):
    settings = Update(**{'label_smoothing': 0.1, 'optimizer': name, 'weight_decay': DECAY}, classifier_rate=rate)
    plain, scaled = Trained(name, False, settings), Trained(name, True, settings)
    for number in range(3):
        assert not plain.run(*gradients_of(number))
        scale = INITIAL / 2 ** number
        assert not scaled.run(*(scale * g for g in gradients_of(number)))
        got, want = scaled.values(), plain.values()
        assert got.keys() == want.keys() and len(got) > 2
        for each in want:
            np.testing.assert_allclose(got[each], want[each], rtol=1e-6, atol=1e-12, err_msg=each)
        bad = gradients_of(number)
        bad[number % 2].flat[1] = [np.inf, np.nan, -np.inf][number]
        assert scaled.run(*bad)
        assert not differing(got, scaled.values())
        assert scaled.values(own=False) == {'loss_scale/scale': scale / 2, 'loss_scale/good_steps': 0,
                                            'loss_scale/skipped_steps': number + 1}


def test_the_scale_is_doubled_after_enough_good_steps_in_a_row_up_to_its_limit(monkeypatch):
    monkeypatch.setattr(loss_scale, 'GOOD_STEPS', 3)
    monkeypatch.setattr(loss_scale, 'LARGEST', 4 * INITIAL)
    trained, fine, bad = Trained('momentum', True), gradients_of(0), [np.full_like(W, np.inf), B]
    scales = []
    for gradients in 2 * [fine] + [bad] + 13 * [fine]:
        trained.run(*gradients)
        scales.append(trained.values(own=False)['loss_scale/scale'] / INITIAL)
    assert scales == [1, 1, 0.5, 0.5, 0.5, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 4]


def test_the_usual_numbers():
    assert (loss_scale.INITIAL, loss_scale.GOOD_STEPS, loss_scale.LARGEST) == (32768, 2000, 16777216)


def test_gradients_are_larger_by_the_scale_and_values_are_not(sess):
    x = tf.constant(3.0)
    state = LossScale()
    y = state.enlarge(tf.square(x))
    sess.run(tf.global_variables_initializer())
    state.scale.load(8.0, sess)
    assert sess.run([y, *tf.gradients(y, x)]) == [9, 48]


def test_a_network_does_not_know_its_variables_and_a_conversion_leaves_them_out():
    assert all(is_of_training('loss_scale/' + name) for name in ('scale', 'good_steps', 'skipped_steps'))
    assert not is_of_training('layer/loss_scale/scale')


# Runs

HALF = [*LEAN, '--update-precision', 'float16']


def said(folder, pattern):
    return re.findall(pattern, (folder / 'log.log').read_text())


@pytest.mark.slow
def test_a_run_goes_on_as_if_it_had_not_stopped_and_says_what_it_skipped(train, tmp_path, monkeypatch):
    """Two steps of the first epoch are skipped; in the second the scale is doubled."""
    monkeypatch.setattr(loss_scale, 'GOOD_STEPS', 4)
    skip_first = patched_loss(lambda step: step < 2)
    monkeypatch.setattr(adv_model, 'smoothed_cross_entropy', skip_first)
    averaged = [*HALF, '--moving-average-decay', '0.5']
    train(tmp_path / 'whole', *averaged)
    train(tmp_path / 'parts', *averaged, '--epochs', '1')
    after_two, = said(tmp_path / 'parts', 'epoch 1/1: .*')
    assert ', 2 steps skipped, loss scale 8192, ' in after_two
    train(tmp_path / 'parts', *averaged, '--resume')
    assert not differing(variables(tmp_path / 'whole', 6), variables(tmp_path / 'parts', 6))
    last, = said(tmp_path / 'whole', 'epoch 2/2: .*')
    assert 'skipped' not in last
    first, second = read_json(tmp_path / 'whole' / 'stats.json')
    assert (first['loss_scale'], first['skipped-steps'], second['loss_scale']) == (8192, 2, 16384)
    assert 'skipped-steps' not in second


def patched_loss(bad):
    """``smoothed_cross_entropy``, infinite in steps for which ``bad(step)``."""
    original = adv_model.smoothed_cross_entropy

    def loss(*arguments):
        step = tf.get_default_graph().get_tensor_by_name(adv_model.TRAINING_STEP + ':0')
        return original(*arguments) * tf.where(bad(step), np.inf, 1.0)
    return loss


def test_a_run_whose_gradients_are_never_finite_ends_in_one_line_with_its_weights_as_they_were(
        train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adv_model, 'smoothed_cross_entropy', patched_loss(lambda step: step >= 3))
    monkeypatch.setattr(loss_scale, 'INITIAL', 4.0)
    flags = [*HALF, '--steps-per-epoch', '9', '--moving-average-decay', '0.5', '--keep-checkpoints', '9']
    with pytest.raises(SystemExit) as end:
        train(tmp_path / 'run', *flags, '--epochs', '9')
    assert end.value.code == 2
    assert re.search(r'gradients in float16 are not finite at step 20, with a loss scale of 6.10352e-05 and after 17 '
                     r"skipped steps; .*model-18.*; --update-precision bfloat16 or float32, or a lower --base-lr, may "
                     r'help\n', capsys.readouterr().err)
    one, two = (variables(tmp_path / 'run', step) for step in (9, 18))
    # Six of the nine steps of the first epoch were skipped and all of the second's.
    changed = differing(one, two)
    assert {'loss_scale/scale', 'loss_scale/skipped_steps', 'global_step'} <= set(changed)
    assert not [name for name in changed if name.endswith(('/W', '/gamma', '/Momentum', '/W/ExponentialMovingAverage'))]
    assert all(np.isfinite(value).all() for value in two.values())


# argv: a file for what each rank finds.
RANK = '''
import sys
import tensorflow.compat.v1 as tf
from third_party import utils
ranks = utils.start_ranks()
from machine.graph_mode import use_graphs
use_graphs()
from training.step.loss_scale import ScaledOptimizer, step_is_skipped
from training.trainer import make_trainer
found = []
for compression in 'none', 'fp16':
    with tf.Graph().as_default():
        v = tf.get_variable('v', initializer=1.0)
        large = tf.placeholder(tf.float32, [])
        trainer = make_trainer(ranks, compression)
        step = ScaledOptimizer(tf.train.GradientDescentOptimizer(1.0)).apply_gradients(trainer.allreduce([(large, v)]))
        with tf.Session() as sess:
            sess.run(tf.global_variables_initializer())
            for mine in (2.0 ** 15, 2.0 ** 14)[ranks.rank], (float('inf'), 1.0)[ranks.rank], (1e5, 0.0)[ranks.rank]:
                skipped = sess.run([step, step_is_skipped()], {large: mine})[1]
                found.append('{}{:g}'.format('skipped ' if skipped else '', sess.run(v)))
open(sys.argv[1] + str(ranks.rank), 'w').write(', '.join(found))
'''


@pytest.mark.slow
def test_ranks_skip_the_same_steps(tmp_path):
    """Ranks have 1 and 1/2 times the scale; one an infinity; one what float16, which they may exchange, has not."""
    (tmp_path / 'rank.py').write_text(RANK)
    job = mpirun(2, tmp_path / 'rank.py', tmp_path / 'found', cwd=tmp_path)
    assert job.returncode == 0, job.stderr
    in_float32 = 0.25 - 50000 / 2 ** 14
    want = '0.25, skipped 0.25, {:g}, 0.25, skipped 0.25, skipped 0.25'.format(in_float32)
    assert [(tmp_path / name).read_text() for name in ('found0', 'found1')] == [want] * 2
