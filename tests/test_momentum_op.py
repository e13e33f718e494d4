"""The compiled step of momentum: TensorFlow's own step, bit by bit, of a gradient with weight decay in it."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from native import smooth_ops
from training.optimizers import make_optimizer
from training.optimizers.decay import CoupledDecay, Decay

RATE, DECAY = 0.1, 0.03  # make_optimizer's first rate


def numpy_step(weights, sums, gradient, decay):
    """Nesterov's momentum of 0.9, each operation rounded to float32."""
    rate, momentum = np.float32(RATE), np.float32(0.9)
    gradient = gradient + np.float32(decay) * weights
    sums = sums * momentum + gradient
    return weights - (gradient * rate + sums * momentum * rate), sums


@pytest.mark.parametrize('size', [1, 3, 17, 100003])
def test_steps_are_numpy_s_bit_by_bit(sess, size):
    """Of a weight that decays, and of one that does not."""
    random = np.random.RandomState(size)
    start, *gradients = random.normal(0, 1, [4, size]).astype(np.float32)
    of_step = tf.placeholder(tf.float32, [size])
    both = [tf.get_variable(name, initializer=start) for name in ('conv0/W', 'conv0/b')]
    step = make_optimizer('momentum', None, DECAY, '/W$').apply_gradients([(of_step, v) for v in both])
    assert sum(op.type == 'SmoothMomentum' for op in tf.get_default_graph().get_operations()) == 2
    sess.run(tf.global_variables_initializer())
    wanted = [(start, np.zeros_like(start))] * 2
    slots = [v for v in tf.global_variables() if v.op.name.endswith('/Momentum')]
    for gradient in gradients:
        sess.run(step, {of_step: gradient})
        wanted = [numpy_step(*kept, gradient, decay) for kept, decay in zip(wanted, (DECAY, 0))]
        for v, slot, (weights, sums) in zip(both, slots, wanted):
            np.testing.assert_array_equal(sess.run(v), weights)
            np.testing.assert_array_equal(sess.run(slot), sums)


def test_they_are_those_of_tensorflow_s_op(sess):
    random = np.random.RandomState(0)
    start, gradient = random.normal(0, 1, [2, 5, 211]).astype(np.float32)
    theirs = CoupledDecay(tf.train.MomentumOptimizer(RATE, 0.9, use_nesterov=True), Decay(DECAY, '/W$'))
    steps = [optimizer.apply_gradients([(tf.constant(gradient), tf.get_variable(name, initializer=start))])
             for name, optimizer in (('ours/W', make_optimizer('momentum', None, DECAY, '/W$')), ('theirs/W', theirs))]
    sess.run(tf.global_variables_initializer())
    for _ in range(3):
        sess.run(steps)
    ours, theirs = ([sess.run(v) for v in tf.global_variables() if v.op.name.startswith(who)]
                    for who in ('ours', 'theirs'))
    assert len(ours) == len(theirs) == 2
    for mine, other in zip(ours, theirs):
        np.testing.assert_array_equal(mine, other)


def test_what_was_read_before_a_step_stays(sess):
    v = tf.get_variable('conv0/W', initializer=np.zeros(1000, np.float32))
    optimizer = make_optimizer('momentum', None, 0.0, '/W$')
    before = v.read_value()
    with tf.control_dependencies([before]):
        step = optimizer.apply_gradients([(tf.ones([1000]), v)])
    with tf.control_dependencies([step]):
        kept = before + 0.0
    sess.run(tf.global_variables_initializer())
    assert not sess.run(kept).any() and (sess.run(v) < 0).all()


@pytest.mark.parametrize('shape, message', [([3], 'shapes'), ([2, 2], 'shapes')])
def test_a_gradient_of_another_shape_is_refused(sess, shape, message):
    v, slot = (tf.get_variable(name, initializer=np.zeros([2], np.float32)) for name in ('v', 'slot'))
    step = smooth_ops.load_op_library().smooth_momentum(
        var=v.handle, accum=slot.handle, grad=tf.zeros(shape), rate=0.1, momentum=0.9, decay=0.0)
    sess.run(tf.global_variables_initializer())
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        sess.run(step)
