"""Moving averages of the weights against NumPy, under the names of the released checkpoints; judging with them."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

from networks import make_network
from training.averaging import AverageWeights
from weights.identity import AVERAGE


class Trainer:
    """As much of a trainer as AverageWeights looks at."""
    global_step = epoch_num = 0

    def __init__(self, sess):
        self.sess = sess

    def step(self, average):
        self.global_step += 1
        average.trigger_step()


@pytest.fixture
def trainer(sess):
    return Trainer(sess)


def make_variables():
    """Two of a network's variables, and three of training."""
    tf.get_variable('W', [3], initializer=tf.random_normal_initializer())
    tf.get_variable('bn/moving_mean', [2], initializer=tf.constant_initializer(5.0), trainable=False)
    tf.get_variable('W/RMSProp', [3])
    tf.get_variable('learning_rate', initializer=0.1)
    tf.train.get_or_create_global_step()


def start(trainer, decay, **options):
    """AverageWeights on the variables, all initialized."""
    average = AverageWeights(decay, **options)
    average.setup_graph(trainer)
    trainer.sess.run(tf.global_variables_initializer())
    return average


def values(sess):
    return sess.run({v.op.name: v for v in tf.global_variables()})


def set_value(sess, name, value):
    variable, = (v for v in tf.global_variables() if v.op.name == name)
    variable.load(value, sess)


# With 0.5 the bound is reached in the seventh step, (1 + 8) / (10 + 8) = 0.5 being the eighth's.
@pytest.mark.parametrize('decay, options', [(0.9999, {}), (0.5, {}), (0.15, {}), (0.8, {'ramp': False})])
def test_averages_move_from_the_first_weights_towards_the_weights_of_each_step(trainer, decay, options):
    make_variables()
    average = start(trainer, decay, **options)
    first = values(trainer.sess)
    want = {name: first[name].astype(np.float64) for name in ('W', 'bn/moving_mean')}
    for n in range(1, 13):
        for seed, name in enumerate(want):
            value = np.random.RandomState(100 * seed + n).standard_normal(want[name].shape)
            set_value(trainer.sess, name, value)
            factor = min(decay, (1 + n) / (10 + n)) if options.get('ramp', True) else decay
            want[name] = factor * want[name] + (1 - factor) * value
        trainer.step(average)
        got = values(trainer.sess)
        for name in want:
            np.testing.assert_allclose(got[name + AVERAGE], want[name], rtol=1e-5, atol=1e-6)


def test_averages_start_at_the_first_weights(trainer):
    make_variables()
    start(trainer, 0.9999)
    found = values(trainer.sess)
    assert np.abs(found['W']).min() > 0
    for name in ('W', 'bn/moving_mean'):
        np.testing.assert_array_equal(found[name + AVERAGE], found[name])


def test_what_only_training_has_is_not_averaged(trainer):
    make_variables()
    start(trainer, 0.9999)
    assert {name for name in values(trainer.sess) if name.endswith(AVERAGE)} == {
        'W' + AVERAGE, 'bn/moving_mean' + AVERAGE}


def test_averages_do_not_become_weights_of_the_network(trainer):
    make_variables()
    start(trainer, 0.9999)
    assert not [v.op.name for v in tf.trainable_variables() if v.op.name.endswith(AVERAGE)]


def test_averages_of_efficientnet_have_the_names_of_the_released_checkpoints(graph, load_json):
    model = make_network('--arch', 'EfficientNet', '--data-format', 'NHWC')
    with TowerContext('', is_training=False):
        model.get_logits(tf.zeros([1, 224, 224, 3]))
    before = tf.global_variables()
    average = AverageWeights(0.9999)
    average.setup_graph(Trainer(None))
    got = [v.op.name for v in tf.global_variables() if v not in before]
    assert sorted(got) == sorted(load_json('variables.json.gz')['efficientnet-b0']['moving_averages'])


class Failed(Exception):
    """What ends an evaluation."""


@pytest.mark.parametrize('failure', [None, Failed(), KeyboardInterrupt()])
def test_inside_the_weights_are_the_averages_and_after_it_what_they_were_to_the_last_bit(trainer, failure):
    make_variables()
    average = start(trainer, 0.9999)
    for number in range(3):
        set_value(trainer.sess, 'W', np.random.RandomState(number).standard_normal(3))
        trainer.step(average)
    set_value(trainer.sess, 'W', [np.float32(1) / 3, np.inf, np.nan])
    before = values(trainer.sess)
    inside = None
    try:
        with average.in_place():
            inside = values(trainer.sess)
            if failure:
                raise failure
    except (Failed, KeyboardInterrupt) as error:
        assert error is failure
    for name in ('W', 'bn/moving_mean'):
        np.testing.assert_array_equal(inside[name], before[name + AVERAGE])
    assert np.isfinite(inside['W']).all() and (inside['W'] != before['W']).all()
    for name, value in values(trainer.sess).items():
        assert value.tobytes() == before[name].tobytes(), name


def test_averages_move_only_with_a_step(trainer):
    make_variables()
    average = start(trainer, 0.9999)
    set_value(trainer.sess, 'W', [7.0, 8.0, 9.0])
    before = values(trainer.sess)['W' + AVERAGE]
    with average.in_place():
        average.trigger_epoch()
    np.testing.assert_array_equal(values(trainer.sess)['W' + AVERAGE], before)
    trainer.step(average)
    assert (values(trainer.sess)['W' + AVERAGE] != before).all()
