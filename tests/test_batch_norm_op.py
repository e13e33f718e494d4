"""Batch norm in training as one compiled op each way, with a sum and an activation behind it: against NumPy in float64,
for every instruction set and type; and networks of it against the same ones of TensorFlow's ops."""
import contextlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import layers
import resnet_model
from efficientnet import network
from efficientnet.scaling import Block
from layers.normalisation import Behind, batch_norm
from layouts import normal
from native import smooth_ops
from smooth_activations import backward_slope, compiled_arguments, tensorflow_ops_only
from test_layers import set_variables
from test_smooth_activations import TRUTH
from test_smooth_ops import COMPILED, rounded

EPSILON = 1e-3
IDENTITY = (lambda x: x, np.ones_like)


@pytest.fixture(params=['base', 'avx2', 'avx512'])
def instructions(request, monkeypatch):
    """The most that the loops may use; a processor without them uses what it has."""
    monkeypatch.setenv('SMOOTH_OPS_INSTRUCTIONS', request.param)


def inputs(shape, uses=1, residual=True, offset=0.0):
    """x, gamma, beta, the gradients of ``uses`` results and a list of no or one residual, each of bfloat16 numbers."""
    x, *dy, other = (rounded(normal(*shape, seed=k)) for k in range(uses + 2))
    channels = shape[-1]
    return (rounded(offset + 1.5 * x), 1 + 0.5 * np.float32(normal(channels, seed=7)),
            0.5 * np.float32(normal(channels, seed=8)), dy, [other] * residual)


def truth(x, gamma, beta, dy, residual, value, slope):
    """[y, mean, variance, and the gradients of x, gamma, beta and the residual] in float64."""
    x, gamma, beta = (np.float64(v) for v in (x, gamma, beta))
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    mean, variance = x.mean(axes), x.var(axes)
    inverse = 1 / np.sqrt(variance + EPSILON)
    standard = (x - mean) * inverse
    before = standard * gamma + beta + sum(np.float64(v) for v in residual)
    g = sum(np.float64(v) for v in dy) * slope(before)
    of_gamma, of_beta = (g * standard).sum(axes), g.sum(axes)
    dx = gamma * inverse * (g - of_beta / count - standard * of_gamma / count)
    return [value(before), mean, variance, dx, of_gamma, of_beta] + [g] * len(residual)


def compiled(x, gamma, beta, dy, residual, name, dtype=tf.float32, slope=None):
    """What ``truth`` gives, by the ops, with the derivative of ``slope``, as tensors."""
    ops = smooth_ops.load_op_library()
    x, *others = (tf.cast(tf.constant(v), dtype) for v in (x, *dy, *residual))
    dy, residual = others[:len(dy)], others[len(dy):]
    with backward_slope(slope):
        functions = compiled_arguments(name) if name else 2 * [dict(function='none')]
    same = dict(gamma=gamma, beta=beta, residual=residual, epsilon=EPSILON)
    y, mean, variance = ops.smooth_batch_norm(x=x, **same, **functions[0])
    *found, of_residual = ops.smooth_batch_norm_grad(dy=dy, x=x, mean=mean, variance=variance, **same, **functions[1])
    return [tf.cast(v, tf.float64) for v in (y, mean, variance, *found, *of_residual)]


def assert_near(got, want, dtype=tf.float32, factor=1.0):
    """Each array to a few units in the last place of its largest numbers."""
    for number, (ours, theirs) in enumerate(zip(got, want)):
        rounded_once = dtype == tf.bfloat16 and number in (0, 3, 6)
        tolerance = 1e-2 if rounded_once else 2e-4 if dtype == tf.bfloat16 else 2e-5
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=factor * tolerance * (np.abs(theirs).max() + 1e-6),
                                   err_msg=str(number))
    assert len(got) == len(want)


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
@pytest.mark.parametrize('name', [None, *COMPILED])
def test_values_and_gradients_are_the_formulas(sess, name, dtype):
    given = inputs([3, 5, 6, 40])
    assert_near(sess.run(compiled(*given, name, dtype)), truth(*given, *TRUTH.get(name, IDENTITY)), dtype)


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_every_shape_is_done_to_its_end(sess, instructions, dtype):
    cases = [inputs(shape, uses=2) for shape in (
        [2, 3, 5, 1], [7, 3], [4, 9, 9, 17], [2, 6, 5, 16], [3, 8, 7, 100], [2, 4, 4, 300], [1, 33, 40, 64], [3, 1030],
        [1, 300, 71, 24])]
    for got, given in zip(sess.run([compiled(*given, 'silu', dtype) for given in cases]), cases):
        assert_near(got, truth(*given, *TRUTH['silu']), dtype)


@pytest.mark.parametrize('name', [None, 'silu'])
def test_one_or_two_uses_with_or_without_a_residual(sess, instructions, name):
    cases = [inputs([3, 5, 6, 24], uses, residual) for uses in (1, 2) for residual in (False, True)]
    for got, given in zip(sess.run([compiled(*given, name) for given in cases]), cases):
        assert_near(got, truth(*given, *TRUTH.get(name, IDENTITY)))


@pytest.mark.parametrize('name, slope', [('relu', 'parametric_softplus'), ('silu', 'celu:0.5'), ('relu', 'relu')])
def test_the_slope_may_be_that_of_another_activation(sess, name, slope):
    given = inputs([3, 5, 6, 40])
    want = truth(*given, TRUTH[name][0], TRUTH[slope][1])
    assert_near(sess.run(compiled(*given, name, slope=slope)), want)


def test_a_mean_far_from_zero_costs_no_digits_of_the_variance(sess, instructions):
    x, gamma, beta, dy, _ = inputs([8, 30, 30, 20])
    x = np.float32(1000 + normal(8, 30, 30, 20))
    x[0, 0, 0] = 3  # not even where the first numbers are far from all others
    given = x, gamma, beta, dy, []
    got, want = sess.run(compiled(*given, 'silu')), truth(*given, *TRUTH['silu'])
    np.testing.assert_allclose(got[1], want[1], rtol=1e-7)
    np.testing.assert_allclose(got[2], want[2], rtol=2e-6)
    # Float32 has 6e-5 between numbers near 1000, so that the mean may be that far from its own.
    assert_near(got, want, factor=20)


def test_one_pixel_has_no_variance(sess):
    given = inputs([1, 1, 1, 19])
    got = sess.run(compiled(*given, 'silu'))
    assert_near(got, truth(*given, *TRUTH['silu']))
    np.testing.assert_array_equal(got[2], 0)
    batch_norm(tf.constant(given[0]), 'bn', layers.Style('NHWC', True, 'silu'))
    sess.run(tf.global_variables_initializer())
    assert np.isfinite(sess.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))).all()


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_what_is_not_a_number_spoils_its_channel_alone(sess, instructions, dtype):
    x, *rest = inputs([2, 5, 5, 37])
    x[1, 2, 3, 36] = np.nan
    for got in sess.run(compiled(x, *rest, 'silu', dtype)):
        bad = np.isnan(got).any(tuple(range(got.ndim - 1)))
        np.testing.assert_array_equal(bad, np.arange(37) == 36)


def test_inputs_that_others_still_read_are_not_written_over(sess):
    x = tf.random.stateless_uniform([4, 8, 8, 24], [1, 2], -3, 3)
    shortcut, dy = x * 2, x * 3
    y = batch_norm(x, 'bn', layers.Style('NHWC', True, 'silu'), behind=Behind('silu', lambda: shortcut))
    found = tf.gradients(y, [x, shortcut], dy, stop_gradients=[x, shortcut])
    sess.run(tf.global_variables_initializer())
    kept, twice, thrice, *_ = sess.run([x + 0, shortcut + 0, dy + 0, y, found])
    np.testing.assert_array_equal(twice, 2 * kept)
    np.testing.assert_array_equal(thrice, 3 * kept)


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_results_are_the_same_on_any_number_of_threads(graph, dtype):
    fetched = compiled(*inputs([2, 40, 50, 72], uses=2), 'silu', dtype)
    results = []
    for threads in (1, 2, 5):
        # A process has the threads of its first session; those of one that asks for its own are its own.
        config = tf.ConfigProto(use_per_session_threads=True, intra_op_parallelism_threads=threads)
        with tf.Session(config=config) as sess:
            results.append(sess.run(fetched))
    for others in results[1:]:
        for got, want in zip(others, results[0]):
            np.testing.assert_array_equal(got, want)


def test_inputs_that_do_not_fit_are_refused(sess):
    ops, one = smooth_ops.load_op_library(), np.ones(3, np.float32)
    x, other, wide = (tf.placeholder_with_default(np.ones(shape, np.float32), None)
                      for shape in ([2, 2, 2, 3], [2, 2, 1, 3], [4]))
    same = dict(function='silu', epsilon=EPSILON)
    moments = dict(mean=one, variance=one, **same)
    for op, message in (
            (lambda: ops.smooth_batch_norm(x=x, gamma=wide, beta=one, residual=[], **same), 'input 1 of a batch norm'),
            (lambda: ops.smooth_batch_norm(x=x, gamma=one, beta=one, residual=[other], **same), 'input 3 of a batch'),
            (lambda: ops.smooth_batch_norm(x=x, gamma=one, beta=one, residual=[x, x], **same), 'and 2 residuals'),
            (lambda: ops.smooth_batch_norm(x=np.ones([2, 0], 'f'), gamma=[], beta=[], residual=[], **same), 'C of 1'),
            (lambda: ops.smooth_batch_norm_grad(dy=[other], x=x, gamma=one, beta=one, residual=[], **moments),
             'input 0 of a batch norm'),
            (lambda: ops.smooth_batch_norm_grad(dy=[x] * 3, x=x, gamma=one, beta=one, residual=[], **moments),
             '3 uses and 0 residuals')):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            sess.run(op())


# Whole networks

def cifar(image):
    return resnet_model.cifar_resnet(image, 8, 10, resnet_model.Style('NHWC', True, 'silu'))


def cifar_recomputed(image):
    return resnet_model.cifar_resnet(image, 8, 10, resnet_model.Style('NHWC', True, 'silu', recompute=True))


def bottlenecks(image):
    style = resnet_model.Style('NHWC', True, 'relu')
    x = resnet_model.conv_bn(image, 'conv0', 8, 3, style, act=True)
    for number, stride in enumerate((2, 1)):
        with tf.variable_scope('block{}'.format(number)):
            x = resnet_model.bottleneck(x if number else (x, x), 4, stride, style, 4, 1)
    return tf.add(*x)


def mbconvs(image):
    style = network.Style('NHWC', True, 'silu', survival_prob=1)
    x = network.conv2d(image, 'conv2d', 8, 3, style, norm=0, act=True)
    for number in range(2):
        with tf.variable_scope('blocks_{}'.format(number)):
            x = network.mbconv(x, Block(kernel=3, stride=1, expand=6, channels_in=8, channels=8), style, number, 1)
    return x


def step(build, compiled, slope=None):
    """(output, gradients, global variables after the updates) of a pass in training on 4 images."""
    with tf.Graph().as_default(), tf.Session() as sess:
        with contextlib.nullcontext() if compiled else tensorflow_ops_only(), backward_slope(slope):
            y = build(tf.constant(np.float32(normal(4, 12, 12, 3))))
            loss = tf.reduce_sum(y * tf.constant(normal(*y.shape.as_list(), seed=9), tf.float32))
            gradients = tf.gradients(loss, tf.trainable_variables())
        types = {op.type for op in y.graph.get_operations()}
        assert ('SmoothBatchNorm' in types) == compiled and ('FusedBatchNormV3' in types) == (not compiled)
        set_variables(sess)
        y, gradients = sess.run([y, gradients])
        sess.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
        return y, gradients, {v.op.name: v.eval() for v in tf.global_variables()}


@pytest.mark.parametrize('build, slope', [(cifar, None), (cifar_recomputed, None), (bottlenecks, 'parametric_softplus'),
                                          (mbconvs, None)])
def test_a_step_of_a_network_is_that_of_tensorflows_ops(build, slope):
    (y, gradients, values), (other_y, other_gradients, other_values) = (step(build, c, slope) for c in (True, False))
    np.testing.assert_allclose(y, other_y, rtol=0, atol=1e-4 * np.abs(other_y).max())
    assert list(values) == list(other_values)
    for name in values:
        np.testing.assert_allclose(values[name], other_values[name], rtol=1e-4, atol=1e-5, err_msg=name)
    largest = max(np.abs(v).max() for v in other_gradients)
    for got, want in zip(gradients, other_gradients):
        assert np.abs(want).max() > 0
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max() + 1e-7 * largest)


def test_the_batch_norms_own_result_is_not_kept():
    """Nothing of the forward pass reaches the backward pass but inputs and statistics."""
    with tf.Graph().as_default() as graph:
        x = tf.zeros([2, 4, 4, 8])
        y = batch_norm(x, 'bn', layers.Style('NHWC', True, 'silu'), behind=Behind('silu', lambda: tf.ones_like(x)))
        tf.gradients(y, x)
        backward, = (op for op in graph.get_operations() if op.type == 'SmoothBatchNormGrad')
        forward, = (op for op in graph.get_operations() if op.type == 'SmoothBatchNorm')
        assert forward.outputs[0] not in list(backward.inputs)
