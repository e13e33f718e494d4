"""The compiled ops of ConvNeXt and ViT: layer norm, 7x7 depthwise convolution, attention, against NumPy in float64."""
import contextlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from layers import Frozen, Style, affine, tokens
from layouts import LAYOUTS, to_layout
from native import smooth_ops
from smooth_activations import tensorflow_ops_only
from test_smooth_ops import instructions, near, rounded  # noqa: F401

TYPES = [tf.float32, tf.bfloat16]
EPSILON = 1e-6  # of every layer norm of the published networks


def numbers(seed, *shape):
    """Random ones that bfloat16 has, float64."""
    return rounded(np.random.RandomState(seed).uniform(-2, 2, shape)).astype(np.float64)


def run(sess, dtype, op, *arrays, **arguments):
    """The results of an op on arrays, or lists of them, cast to ``dtype``, as float64."""
    cast = tf.nest.map_structure(lambda array: tf.cast(array, dtype), list(arrays))
    found = op(*cast, **arguments)
    return sess.run([tf.cast(v, tf.float64) for v in (found if isinstance(found, tuple) else (found,))])


def numeric_gradient(function, x, dy, step=1e-5):
    """Of sum(function(x) * dy), by differences of float64."""
    found = np.empty(x.size)
    for k in range(x.size):
        ends = []
        for side in (step, -step):
            moved = x.copy()
            moved.flat[k] += side
            ends.append((function(moved) * dy).sum())
        found[k] = (ends[0] - ends[1]) / (2 * step)
    return found.reshape(x.shape)


def layer_norm(x, scale=1.0, offset=0.0):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + EPSILON) * scale + offset


def layer_norm_gradient(dy, x, scale=1.0):
    """By the textbook's formula, which the first test compares with differences."""
    normed, g = layer_norm(x), dy * scale
    inverse = 1 / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    return inverse * (g - g.mean(-1, keepdims=True) - normed * (g * normed).mean(-1, keepdims=True))


def test_layer_norms_formula_is_its_derivative():
    x, dy, scale = numbers(0, 3, 7), numbers(1, 3, 7), numbers(2, 7)
    np.testing.assert_allclose(layer_norm_gradient(dy, x, scale),
                               numeric_gradient(lambda x: layer_norm(x, scale), x, dy), rtol=0, atol=1e-8)


@pytest.mark.filterwarnings('ignore:Mean of empty slice', 'ignore:Degrees of freedom')
@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('shape', [[5, 1], [3, 16], [2, 7, 33], [2, 5, 3, 96], [2, 197, 130], [2, 0, 8], [3, 0]])
def test_layer_norm_and_its_gradients_are_numpys(sess, instructions, shape, dtype):  # noqa: F811
    ops = smooth_ops.load_op_library()
    x, dy = rounded(numbers(0, *shape) + 3).astype(np.float64), numbers(1, *shape)
    scale, offset = numbers(2, shape[-1]), numbers(3, shape[-1])
    with np.errstate(invalid='ignore', divide='ignore'):
        want = layer_norm(x), layer_norm(x, scale, offset)
        gradients = layer_norm_gradient(dy, x), layer_norm_gradient(dy, x, scale)
    tolerance = near(dtype)
    for parameters, expected in zip(([], [scale, offset]), want):
        got, = run(sess, dtype, ops.smooth_layer_norm, x, parameters, epsilon=EPSILON)
        np.testing.assert_allclose(got, expected, **tolerance)
    for parameters, expected in zip(([], [scale]), gradients):
        got, = run(sess, dtype, ops.smooth_layer_norm_grad, dy, x, parameters, epsilon=EPSILON)
        np.testing.assert_allclose(got, expected, rtol=tolerance['rtol'], atol=3 * tolerance['atol'])
    rows = dy.reshape(-1, shape[-1]) if shape[-1] else dy.reshape(0, 0)
    dscale, doffset = run(sess, dtype, ops.smooth_layer_norm_parameters_grad, dy, x, epsilon=EPSILON)
    np.testing.assert_allclose(doffset, rows.sum(0), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dscale, (rows * want[0].reshape(rows.shape)).sum(0), rtol=1e-5, atol=1e-3)


def test_a_row_of_equal_numbers_is_normalised_to_zero(sess, instructions):  # noqa: F811
    ops = smooth_ops.load_op_library()
    x = np.full([2, 40], 7.0, np.float32)
    got, = run(sess, tf.float32, ops.smooth_layer_norm, x, [], epsilon=EPSILON)
    np.testing.assert_array_equal(got, 0)


def convolved(x, kernel, bias=0.0):
    """Depthwise, 7x7, three zeros around."""
    padded = np.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]])
    height, width = x.shape[1:3]
    return bias + sum(padded[:, i:i + height, j:j + width] * kernel[i, j, :, 0] for i in range(7) for j in range(7))


def kernel_gradient(dy, x):
    padded = np.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]])
    height, width = x.shape[1:3]
    return np.stack([[(padded[:, i:i + height, j:j + width] * dy).sum((0, 1, 2)) for j in range(7)]
                     for i in range(7)])[..., None]


@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('shape', [[1, 1, 1, 1], [2, 5, 9, 19], [1, 14, 15, 48], [20, 8, 2, 33], [1, 3, 30, 17],
                                   [0, 4, 4, 8], [2, 0, 4, 3]])
def test_depthwise_convolution_and_its_gradients_are_numpys(sess, instructions, shape, dtype):  # noqa: F811
    ops = smooth_ops.load_op_library()
    x, dy, kernel, bias = numbers(0, *shape), numbers(1, *shape), numbers(2, 7, 7, shape[3], 1), numbers(3, shape[3])
    tolerance = dict(rtol=1e-2, atol=1e-2) if dtype == tf.bfloat16 else dict(rtol=1e-5, atol=1e-4)
    for biases, expected in (([], convolved(x, kernel)), ([bias], convolved(x, kernel, bias))):
        got, = run(sess, dtype, ops.smooth_depthwise, x, kernel, biases)
        np.testing.assert_allclose(got, expected, **tolerance)
    got, = run(sess, dtype, ops.smooth_depthwise, dy, kernel, [], turned=True)
    np.testing.assert_allclose(got, convolved(dy, kernel[::-1, ::-1]), **tolerance)
    dkernel, dbias = run(sess, dtype, ops.smooth_depthwise_kernel_grad, dy, x)
    np.testing.assert_allclose(dkernel, kernel_gradient(dy, x), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(dbias, dy.sum((0, 1, 2)), rtol=1e-5, atol=1e-4)


def test_the_turned_kernel_gives_the_derivative(sess):
    x, dy, kernel = numbers(0, 1, 4, 5, 2), numbers(1, 1, 4, 5, 2), numbers(2, 7, 7, 2, 1)
    got, = run(sess, tf.float32, smooth_ops.load_op_library().smooth_depthwise, dy, kernel, [], turned=True)
    np.testing.assert_allclose(got, numeric_gradient(lambda x: convolved(x, kernel), x, dy), rtol=0, atol=1e-4)


def attended(qkv, heads):
    """[N,tokens,3 * heads * d] -> [N,tokens,heads * d], and what is on the way: q, k, v, weights."""
    images, tokens, width = qkv.shape
    q, k, v = qkv.reshape(images, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.transpose(0, 1, 3, 2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(images, tokens, -1), (q, k, v, weights)


def attention_gradient(dy, qkv, heads):
    images, tokens, _ = qkv.shape
    q, k, v, weights = attended(qkv, heads)[1]
    dy = dy.reshape(images, tokens, heads, -1).transpose(0, 2, 1, 3)
    slopes = dy @ v.transpose(0, 1, 3, 2)
    scores = weights * (slopes - (slopes * weights).sum(-1, keepdims=True))
    found = np.stack([scores @ k, scores.transpose(0, 1, 3, 2) @ q, weights.transpose(0, 1, 3, 2) @ dy])
    return found.transpose(1, 3, 0, 2, 4).reshape(qkv.shape)


def test_attentions_formula_is_its_derivative():
    qkv, dy = numbers(0, 1, 4, 12), numbers(1, 1, 4, 4)
    np.testing.assert_allclose(attention_gradient(dy, qkv, 2),
                               numeric_gradient(lambda qkv: attended(qkv, 2)[0], qkv, dy), rtol=0, atol=1e-8)


@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('images, tokens, heads, depth', [
    (1, 1, 1, 1), (2, 5, 3, 4), (2, 49, 1, 33), (1, 197, 2, 64), (0, 5, 2, 8), (2, 0, 2, 8)])
def test_attention_and_its_gradient_are_numpys(sess, instructions, images, tokens, heads, depth, dtype):  # noqa: F811
    ops = smooth_ops.load_op_library()
    qkv, dy = numbers(0, images, tokens, 3 * heads * depth) / 2, numbers(1, images, tokens, heads * depth)
    tolerance = dict(rtol=2e-2, atol=1e-2) if dtype == tf.bfloat16 else dict(rtol=1e-5, atol=1e-5)
    got, = run(sess, dtype, ops.smooth_attention, qkv, heads=heads)
    np.testing.assert_allclose(got, attended(qkv, heads)[0] if qkv.size else got, **tolerance)
    assert got.shape == (images, tokens, heads * depth)
    got, = run(sess, dtype, ops.smooth_attention_grad, dy, qkv, heads=heads)
    np.testing.assert_allclose(got, attention_gradient(dy, qkv, heads) if qkv.size else got, **tolerance)


def test_attention_of_large_scores_stays_finite(sess, instructions):  # noqa: F811
    ops = smooth_ops.load_op_library()
    qkv = numbers(0, 1, 20, 3 * 16) * 100
    for got in (run(sess, tf.float32, ops.smooth_attention, qkv, heads=2)[0],
                run(sess, tf.float32, ops.smooth_attention_grad, numbers(1, 1, 20, 16), qkv, heads=2)[0]):
        assert np.isfinite(got).all() and np.abs(got).max() > 0


@pytest.mark.parametrize('dtype', TYPES)
def test_what_is_not_a_number_stays_in_its_row(sess, instructions, dtype):  # noqa: F811
    ops = smooth_ops.load_op_library()
    x = numbers(0, 4, 50)
    x[2, 31] = np.nan
    for got in (run(sess, dtype, ops.smooth_layer_norm, x, [], epsilon=EPSILON)[0],
                run(sess, dtype, ops.smooth_layer_norm_grad, np.ones_like(x), x, [], epsilon=EPSILON)[0]):
        np.testing.assert_array_equal(np.isnan(got).any(1), [False, False, True, False])
    qkv = numbers(1, 3, 9, 24)
    qkv[1, 4, 3] = np.nan
    got, = run(sess, dtype, ops.smooth_attention, qkv, heads=1)
    np.testing.assert_array_equal(np.isnan(got).any((1, 2)), [False, True, False])


def test_sums_are_the_same_on_any_number_of_threads(graph):
    """To the last bit: a training that goes on elsewhere is the same run."""
    ops = smooth_ops.load_op_library()
    rows = [np.float32(numbers(k, 3000, 40)) for k in (0, 1)]
    images = [np.float32(numbers(k, 37, 6, 6, 20)) for k in (2, 3)]
    sums = (*ops.smooth_layer_norm_parameters_grad(*rows, epsilon=EPSILON), *ops.smooth_depthwise_kernel_grad(*images))
    found = []
    for threads in (1, 2, 5):
        # A process has the threads of its first session; those of one that asks for its own are its own.
        config = tf.ConfigProto(use_per_session_threads=True, intra_op_parallelism_threads=threads)
        with tf.Session(config=config) as session:
            found.append(session.run(sums))
    for other in found[1:]:
        for first, second in zip(found[0], other):
            np.testing.assert_array_equal(first, second)


def test_what_does_not_fit_is_refused(sess):
    ops = smooth_ops.load_op_library()

    def loose(*shape):
        return tf.placeholder_with_default(np.ones(shape, np.float32), None)
    x, rows = loose(1, 4, 4, 2), loose(3, 8)
    for op, message in (
            (ops.smooth_layer_norm(x=loose(), affine=[], epsilon=1e-6), r'x must be \[...,C\], not \[\]'),
            (ops.smooth_layer_norm(x=rows, affine=[loose(8)], epsilon=1e-6), '1 parameters of a layer norm; of 0 or 2'),
            (ops.smooth_layer_norm(x=rows, affine=[loose(8), loose(7)], epsilon=1e-6), r'offset has shape \[7\], x'),
            (ops.smooth_layer_norm(x=rows, affine=[], epsilon=-1.0), 'epsilon must not be negative'),
            (ops.smooth_layer_norm_grad(dy=loose(3, 7), x=rows, scale=[], epsilon=1e-6), r'dy has shape \[3,7\], x'),
            (ops.smooth_layer_norm_grad(dy=rows, x=rows, scale=[loose(8)] * 2, epsilon=1e-6), 'of 0 or 1'),
            (ops.smooth_layer_norm_parameters_grad(dy=loose(2, 8), x=rows, epsilon=1e-6)[0], 'dy has shape'),
            (ops.smooth_depthwise(x=rows, kernel=x, bias=[]), r'x must be \[N,H,W,C\]'),
            (ops.smooth_depthwise(x=x, kernel=loose(3, 3, 2, 1), bias=[]), r'kernel has shape .*not \[7,7,2,1\]'),
            (ops.smooth_depthwise(x=x, kernel=loose(7, 7, 2, 1), bias=[loose(3)]), 'bias has shape'),
            (ops.smooth_depthwise(x=x, kernel=loose(7, 7, 2, 1), bias=[loose(2)] * 2), '2 biases; there may be one'),
            (ops.smooth_depthwise_kernel_grad(dy=loose(1, 4, 4, 3), x=x)[0], 'dy has shape'),
            (ops.smooth_depthwise_kernel_grad(dy=x, x=rows)[0], 'x must be'),
            (ops.smooth_attention(qkv=rows, heads=2), 'qkv must be'),
            (ops.smooth_attention(qkv=loose(1, 2, 8), heads=2), r'qkv must be \[N,tokens,3 \* 2 \* d\]'),
            (ops.smooth_attention_grad(dy=loose(1, 2, 5), qkv=loose(1, 2, 12), heads=2), 'dy has shape')):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            sess.run(op)


def a_style(data_format, frozen=None):
    return Style(data_format, False, 'gelu_erf', frozen=frozen)


def layers_of_both_networks(x, style):
    """An image through each layer that has a compiled op, tokens of it through attention; a scalar of all."""
    y = affine.depthwise_conv2d(x, 'depthwise', 7, style)
    y = tokens.standardise(y, style) + tokens.layer_norm(y, 'norm', style)
    if style.data_format == 'NCHW':
        y = tf.transpose(y, [0, 2, 3, 1])
    return tokens.attention(tf.reshape(y, [-1, y.shape[1] * y.shape[2], y.shape[3]]) / 2, 2)


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('dtype', TYPES)
def test_layers_of_compiled_ops_are_those_of_tensorflows(sess, data_format, dtype):
    """And their gradients by the image and, in float32, by all variables."""
    image = tf.constant(to_layout(numbers(0, 2, 5, 6, 12), data_format), tf.float32)
    x = tf.cast(image, dtype)
    frozen = None if dtype == tf.float32 else Frozen(dtype)
    found = []
    for only in (tensorflow_ops_only, contextlib.nullcontext):
        with only(), tf.variable_scope('network', reuse=tf.AUTO_REUSE):
            y = tf.cast(layers_of_both_networks(x, a_style(data_format, frozen)), tf.float32)
        loss = tf.reduce_sum(y * np.float32(numbers(1, 2, 30, 4)))
        variables = tf.trainable_variables() if frozen is None else []
        found.append([y, *tf.gradients(loss, [image, *variables])])
    names = {op.type for op in sess.graph.get_operations()}
    assert {'SmoothDepthwise', 'SmoothAttention', 'SmoothAttentionGrad'} <= names
    assert ('SmoothLayerNorm' in names) == (data_format == 'NHWC')  # whose channels are in rows
    for number, variable in enumerate(tf.global_variables()):
        variable.initializer.run(session=sess)
        variable.load(numbers(number, *variable.shape.as_list()) / 4, sess)
    plain, compiled = sess.run(found)
    assert len(plain) == (2 if frozen else 6)
    for want, got in zip(plain, compiled):
        error, size = np.abs(got - want), np.abs(want).max()
        assert error.max() < 2e-5 * size if frozen is None else error.mean() < 0.02 * np.abs(want).mean(), error.max()
