"""A new optimizer is one function and its entry: it trains, decays, is saved and goes on; nothing else knows of it.

An option of its own is one field.
"""
import dataclasses

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import convert
import main
from settings import sections
from settings.checks import probability
from settings.fields import option
from settings.modes import TRAINED
from settings.update import Update
from small_runs import BATCH, LEAN, differing, read_json, start_training, variables
from test_main import refusal
from training import optimizers
from weights.find import read_checkpoint
from weights.identity import is_of_training

KEPT = 0.25  # of the momentum in a step
START, PEAK, WARMUP, DECAY = 0.004, 0.02, 4, 0.25  # learning rates, steps of the warm-up, weight decay
NEW = ['--optimizer', 'sign', '--base-lr', str(PEAK * 256 / BATCH), '--warmup-epochs', str(WARMUP), '--weight-decay',
       str(DECAY), '--kept-momentum', str(KEPT), *LEAN, '--steps-per-epoch', '1']


class SignOfMomentum(tf.train.Optimizer):
    def __init__(self, rate, kept):
        super().__init__(False, 'SignOfMomentum')
        self.rate, self.kept = rate, kept

    def _create_slots(self, var_list):
        for v in var_list:
            self._zeros_slot(v, 'momentum', 'SignedMomentum')

    def _resource_apply_dense(self, grad, var):
        momentum = self.get_slot(var, 'momentum')
        moved = momentum.assign(self.kept * momentum + grad, read_value=True)
        return var.assign_sub(self.rate * tf.sign(moved), read_value=False)


def sign_of_momentum(rate, settings):
    return SignOfMomentum(rate, settings.kept_momentum)


ENTRY = optimizers.Optimizer(sign_of_momentum, START, ('SignedMomentum',), decoupled=True)


@dataclasses.dataclass(frozen=True)
class OwnUpdate(Update):
    kept_momentum: float = option('--kept-momentum', TRAINED, 'of sign (default: %(default)s)', default=0.5,
                                  check=probability, unit='M', fixes_run=True)


@dataclasses.dataclass(frozen=True)
class OwnSettings(sections.Settings):
    update: OwnUpdate


@pytest.fixture(scope='module')
def new():
    """The optimizer and its option, as long as this module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(optimizers.OPTIMIZERS, 'sign', ENTRY)
        patch.setattr(sections, 'ALL', OwnSettings)
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
    assert read_json(run / 'run.json')['kept_momentum'] == KEPT


def test_an_option_of_its_own_reaches_it(new, tmp_path):
    """With a rate of 0 each step has the same gradient."""
    start_training(None, tmp_path / 'run', *NEW, '--base-lr', '0', '--epochs', '2')
    first, second = (variables(tmp_path / 'run', step)['linear/b/SignedMomentum'] for step in (1, 2))
    assert np.abs(first).max() > 0
    np.testing.assert_allclose(second, (1 + KEPT) * first, rtol=1e-5, atol=1e-7)


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


def test_the_command_line_tells_of_it(capsys, run):
    shown = ' '.join(main.get_parser().format_help().split())
    assert '--optimizer {momentum,rmsprop,adamw,sign}' in shown
    assert 'with rmsprop from 0, with adamw from 0, with sign from 0.004 to rates above it' in shown
    for other, said in ((['--optimizer', 'momentum'], 'optimizer sign, now it is momentum'),
                        (['--kept-momentum', '0.5'], 'kept_momentum 0.25, now it is 0.5')):
        assert said in refusal(capsys, lambda argv: start_training(None, run, *argv), [*NEW, *other, '--resume'])


def test_without_its_entry_there_is_nothing_of_it(capsys, monkeypatch):
    monkeypatch.delitem(optimizers.OPTIMIZERS, 'sign', raising=False)
    assert not is_of_training('conv0/W/SignedMomentum')
    assert '--optimizer' in refusal(capsys, main.parse_args, ['--optimizer', 'sign'])
