"""A new optimizer is one function and its entry: it trains, decays, is saved and goes on, and nothing else knows of it."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import convert
import main
from small_runs import BATCH, LEAN, differing, read_json, start_training, variables
from test_main import refusal
from training import optimizers
from weights.find import read_checkpoint
from weights.identity import is_of_training

KEPT = 0.5  # of the momentum in a step
START, PEAK, WARMUP, DECAY = 0.004, 0.02, 4, 0.25  # learning rates, steps of the warm-up, weight decay
NEW = ['--optimizer', 'sign', '--base-lr', str(PEAK * 256 / BATCH), '--warmup-epochs', str(WARMUP), '--weight-decay',
       str(DECAY), *LEAN, '--steps-per-epoch', '1']


class SignOfMomentum(tf.train.Optimizer):
    def __init__(self, rate):
        super().__init__(False, 'SignOfMomentum')
        self.rate = rate

    def _create_slots(self, var_list):
        for v in var_list:
            self._zeros_slot(v, 'momentum', 'SignedMomentum')

    def _resource_apply_dense(self, grad, var):
        momentum = self.get_slot(var, 'momentum')
        moved = momentum.assign(KEPT * momentum + grad, read_value=True)
        return var.assign_sub(self.rate * tf.sign(moved), read_value=False)


ENTRY = optimizers.Optimizer(lambda rate, settings: SignOfMomentum(rate), START, ('SignedMomentum',), decoupled=True)


@pytest.fixture(scope='module')
def new():
    """The optimizer, as long as this module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(optimizers.OPTIMIZERS, 'sign', ENTRY)
        yield


@pytest.fixture(scope='module')
def run(new, tmp_path_factory):
    """Log directory of a run of three steps with it, each an epoch."""
    folder = tmp_path_factory.mktemp('new') / 'run'
    start_training(None, folder, *NEW, '--epochs', '3')
    return folder


def test_its_steps_are_those_of_its_formula_with_weight_decay_beside_them(run):
    for step in (1, 2):  # from 0, of which the rate of the warm-up is
        before, after = (variables(run, number) for number in (step, step + 1))
        rate = np.float64(START + (PEAK - START) * step / WARMUP)
        assert before['learning_rate'] == np.float32(rate)
        moved = [name[:-len('/SignedMomentum')] for name in after if name.endswith('/SignedMomentum')]
        assert {'conv0/W', 'conv0/bn/gamma', 'linear/W', 'linear/b'} < set(moved)
        for name in moved:
            momentum = after[name + '/SignedMomentum']
            lost = rate * DECAY * before[name] if name.endswith('/W') else 0.0
            np.testing.assert_allclose(after[name], before[name] - lost - rate * np.sign(momentum), rtol=1e-6,
                                       atol=1e-7, err_msg=name)
            assert not np.array_equal(momentum, KEPT * before[name + '/SignedMomentum']), name


def test_its_loss_has_no_weight_decay(run):
    for entry in read_json(run / 'stats.json'):
        assert entry['cost'] == entry['xentropy-loss'] and entry['l2_regularize_loss'] == 0


def test_a_run_with_it_goes_on_as_if_uninterrupted(run, tmp_path):
    start_training(None, tmp_path / 'run', *NEW, '--epochs', '1')
    start_training(None, tmp_path / 'run', *NEW, '--epochs', '3', '--resume')
    assert differing(variables(run, 3), variables(tmp_path / 'run', 3)) == []


def test_its_variables_are_not_the_network_s(run, tmp_path):
    values = variables(run, 3)
    own = {name for name in values if name.endswith('/SignedMomentum')}
    assert own and all(map(is_of_training, own))
    convert.main(['weights', '--load', str(run), str(tmp_path / 'plain.npz')])
    assert set(read_checkpoint(str(tmp_path / 'plain.npz'))) == set(values) - own - {'learning_rate', 'global_step'}
    start_training(None, tmp_path / 'again', *NEW, '--load', str(run), '--starting-epoch', '2', '--epochs', '2')
    assert variables(tmp_path / 'again', 2).keys() == values.keys()


def test_the_command_line_tells_of_it(new, capsys, run, tmp_path):
    shown = ' '.join(main.get_parser().format_help().split())
    assert '--optimizer {momentum,rmsprop,sign}' in shown
    assert 'with rmsprop from 0, with sign from 0.004 to rates above it' in shown
    assert 'optimizer sign, now it is momentum' in refusal(
        capsys, lambda argv: start_training(None, run, *argv), [*NEW, '--optimizer', 'momentum', '--resume'])


def test_without_its_entry_there_is_nothing_of_it(capsys, monkeypatch):
    monkeypatch.delitem(optimizers.OPTIMIZERS, 'sign', raising=False)
    assert not is_of_training('conv0/W/SignedMomentum')
    assert '--optimizer' in refusal(capsys, main.parse_args, ['--optimizer', 'sign'])
