"""The compiled ops: right for every instruction set, type, length and special value; the activations' formulas in
float64 are in test_smooth_activations.py."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from native import smooth_ops
from smooth_activations import ACTIVATIONS, activate, activate_for_two, parse_name
from test_smooth_activations import POINTS, TOLERANCE, TRUTH

COMPILED = [name for name in TRUTH if parse_name(name)[0] in ACTIVATIONS]


@pytest.fixture(params=['base', 'avx2', 'avx512', 'avx512bf16'])
def instructions(request, monkeypatch):
    """The most that the loops may use; a processor without them uses what it has."""
    monkeypatch.setenv('SMOOTH_OPS_INSTRUCTIONS', request.param)


def compiled(sess, name, x, dy, dtype=tf.float32):
    """Value of the activation and the gradient of ``x`` for ``dy``, as float64."""
    key, alpha = parse_name(name)
    ops = smooth_ops.load_op_library()
    arguments = dict(function=ACTIVATIONS[key].compiled or key, alpha=alpha or 1.0)
    x, dy = tf.cast(tf.constant(x), dtype), tf.cast(tf.constant(dy), dtype)
    found = [ops.smooth_activation(x=x, **arguments), ops.smooth_activation_grad(dy=[dy], x=x, **arguments)]
    return sess.run([tf.cast(v, tf.float64) for v in found])


def rounded(x):
    """The nearest bfloat16 numbers, by NumPy alone: 16 bits fewer, to even; float32."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize('name', COMPILED)
def test_values_and_gradients_are_the_formulas_for_every_instruction_set(sess, instructions, name):
    dy = np.random.RandomState(0).uniform(-2, 2, POINTS.shape).astype(np.float32)
    value, gradient = compiled(sess, name, POINTS, dy)
    x = POINTS.astype(np.float64)
    np.testing.assert_allclose(value, TRUTH[name][0](x), **TOLERANCE)
    np.testing.assert_allclose(gradient, dy * TRUTH[name][1](x), rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize('name', COMPILED)
def test_bfloat16_is_the_float_of_the_rounded_input_rounded_once(sess, instructions, name):
    x = rounded(np.linspace(-9, 9, 1001))
    dy = rounded(np.random.RandomState(0).uniform(-2, 2, x.shape))
    for got, exact in zip(compiled(sess, name, x, dy, tf.bfloat16), compiled(sess, name, x, dy)):
        # The float32 number that is rounded may lie a little beside the one that the other op gives.
        near = [rounded((exact * (1 + shift)).astype(np.float32)) for shift in (-1e-5, 0, 1e-5)]
        assert np.any([got == v for v in near], axis=0).all()
        assert np.mean(got == near[1]) > 0.99


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
@pytest.mark.parametrize('name', COMPILED)
def test_what_is_not_a_number_comes_out_as_it_went_in(sess, instructions, name, dtype):
    x = np.zeros(40, np.float32)
    x[[0, 17, 39]] = np.nan
    for got in compiled(sess, name, x, np.ones_like(x), dtype):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    dy = np.roll(x, 1)
    np.testing.assert_array_equal(np.isnan(compiled(sess, name, np.zeros_like(x), dy, dtype)[1]), np.isnan(dy))


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
@pytest.mark.parametrize('shape', [[0], [1], [3, 5], [15], [16], [17], [511], [513], [2, 3, 1000], [7, 100003]])
def test_every_length_is_done_to_its_end(sess, instructions, shape, dtype):
    x = rounded(np.random.RandomState(1).uniform(-4, 4, shape))
    value, gradient = compiled(sess, 'silu', x, np.ones_like(x), dtype)
    tolerance = dict(rtol=1e-2, atol=1e-3) if dtype == tf.bfloat16 else TOLERANCE
    np.testing.assert_allclose(value, TRUTH['silu'][0](x.astype(np.float64)), **tolerance)
    np.testing.assert_allclose(gradient, TRUTH['silu'][1](x.astype(np.float64)), **tolerance)


def test_arrays_that_others_still_read_are_not_written_over(sess):
    x = tf.random.stateless_uniform([1000], [1, 2], -3, 3)
    y = activate(x, 'silu')
    gradient, = tf.gradients(y, x, grad_ys=x)
    got = sess.run([x, y, gradient, x + 0])
    np.testing.assert_array_equal(got[0], got[3])
    np.testing.assert_allclose(got[1], TRUTH['silu'][0](got[0].astype(np.float64)), **TOLERANCE)
    np.testing.assert_allclose(got[2], got[0] * TRUTH['silu'][1](got[0].astype(np.float64)), **TOLERANCE)


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_the_gradients_of_two_uses_are_added(sess, instructions, dtype):
    x, first, second = (rounded(np.random.RandomState(k).uniform(-4, 4, [3, 700])) for k in range(3))
    fed = tf.cast(tf.constant(x), dtype)
    ys = activate_for_two(fed, 'silu')
    gradient, = tf.gradients(ys, fed, [tf.cast(tf.constant(v), dtype) for v in (first, second)])
    of_one, = tf.gradients(ys[1], fed, tf.cast(tf.constant(second), dtype))
    slope = TRUTH['silu'][1](x.astype(np.float64))
    tolerance = dict(rtol=1e-2, atol=2e-2) if dtype == tf.bfloat16 else dict(rtol=1e-5, atol=1e-5)
    got = sess.run([tf.cast(v, tf.float32) for v in (gradient, of_one, *ys)])
    np.testing.assert_allclose(got[0], (first + second) * slope, **tolerance)
    np.testing.assert_allclose(got[1], second * slope, **tolerance)
    np.testing.assert_array_equal(got[2], got[3])


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
@pytest.mark.parametrize('kernel, stride, shape', [
    (3, 2, [2, 8, 8, 5]), (3, 2, [3, 9, 7, 64]), (2, 2, [1, 6, 6, 33]), (3, 1, [2, 5, 6, 3]), (1, 2, [1, 5, 5, 2]),
    (2, 3, [2, 8, 7, 4]), (5, 2, [1, 3, 4, 2])])
def test_max_poolings_gradient_is_tensorflows(sess, instructions, kernel, stride, shape, dtype):
    # Few distinct values, so that windows have several largest elements, of which the first counts.
    x = np.random.RandomState(0).randint(-3, 4, shape).astype(np.float32)
    window, step = [1, kernel, kernel, 1], [1, stride, stride, 1]
    fed = tf.constant(x)
    y = tf.nn.max_pool2d(fed, window, step, 'SAME')
    dy = tf.constant(np.random.RandomState(1).randint(-8, 9, y.shape.as_list()).astype(np.float32))
    want, = tf.gradients(y, fed, dy)
    got = smooth_ops.load_op_library().smooth_max_pool_grad(dy=tf.cast(dy, dtype), x=tf.cast(fed, dtype), kernel=kernel,
                                                            stride=stride)
    np.testing.assert_array_equal(*sess.run([tf.cast(got, tf.float32), want]))


def test_max_poolings_gradient_of_another_shape_is_refused(sess):
    dy, x = tf.placeholder(tf.float32), tf.placeholder(tf.float32)
    op = smooth_ops.load_op_library().smooth_max_pool_grad(dy=dy, x=x, kernel=3, stride=2)
    for shapes in ([1, 3, 4, 2], [1, 8, 8, 2]), ([1, 4, 4, 2], [8, 8, 2]):
        with pytest.raises(tf.errors.InvalidArgumentError, match='dy has shape|must be'):
            sess.run(op, {dy: np.ones(shapes[0]), x: np.ones(shapes[1])})


def near(dtype):
    return dict(rtol=1e-2, atol=1e-2) if dtype == tf.bfloat16 else dict(rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
@pytest.mark.parametrize('kernel, stride, shape', [
    (3, 2, [2, 8, 8, 5]), (5, 2, [3, 9, 7, 64]), (5, 2, [1, 6, 5, 200]), (3, 1, [2, 5, 6, 33]), (1, 2, [1, 5, 5, 2]),
    (2, 3, [2, 8, 7, 4]), (5, 2, [2, 3, 4, 130])])
def test_depthwise_convolutions_gradient_is_tensorflows(sess, instructions, kernel, stride, shape, dtype):
    random = np.random.RandomState(0)
    x = tf.zeros(shape, tf.float64)
    weights = rounded(random.uniform(-1, 1, [kernel, kernel, shape[3], 1]))
    y = tf.nn.depthwise_conv2d(x, tf.constant(weights, tf.float64), [1, stride, stride, 1], 'SAME')
    dy = rounded(random.uniform(-1, 1, y.shape.as_list()))
    want, = tf.gradients(y, x, tf.constant(dy, tf.float64))
    got = smooth_ops.load_op_library().smooth_depthwise_grad(
        dy=tf.cast(dy, dtype), kernel=tf.cast(weights, dtype), size=shape, stride=stride)
    assert got.shape.as_list() == shape
    got, want = sess.run([tf.cast(got, tf.float64), want])
    np.testing.assert_allclose(got, want, **near(dtype))


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
@pytest.mark.parametrize('shape', [[2, 3, 5, 7], [3, 9, 8, 64], [1, 12, 11, 530], [2, 1, 1, 16], [0, 4, 4, 8]])
def test_channels_are_summed_scaled_and_shifted(sess, instructions, shape, dtype):
    random = np.random.RandomState(0)
    x, other = (rounded(random.uniform(-2, 2, shape)) for _ in range(2))
    factor, offset = (random.uniform(-2, 2, [shape[0], 1, 1, shape[3]]).astype(np.float32) for _ in range(2))
    ops, fed, more = smooth_ops.load_op_library(), tf.cast(x, dtype), tf.cast(other, dtype)
    sums = sess.run([ops.smooth_channel_sums(x=[fed]), ops.smooth_channel_sums(x=[fed, more])])
    for got, terms in zip(sums, (x, x.astype(np.float64) * other)):
        np.testing.assert_allclose(got, terms.sum(axis=(1, 2), keepdims=True), rtol=1e-5, atol=1e-4)
    scaled = [ops.smooth_channel_affine(x=fed, factor=factor, offset=offsets) for offsets in ([], [offset])]
    for got, want in zip(sess.run([tf.cast(v, tf.float64) for v in scaled]), (x * factor, x * factor + offset)):
        np.testing.assert_allclose(got, want, **near(dtype))


def test_parts_of_layers_that_do_not_fit_are_refused(sess):
    ops = smooth_ops.load_op_library()
    image, kernel = tf.placeholder_with_default(np.ones([1, 4, 4, 2], np.float32), None), np.ones([3, 3, 2, 1], 'f')
    small = tf.placeholder_with_default(np.ones([1, 1, 1, 3], np.float32), None)
    for op, message in (
            (ops.smooth_depthwise_grad(dy=image, kernel=kernel, size=[1, 8, 10, 2], stride=2), 'dy has shape'),
            (ops.smooth_depthwise_grad(dy=image, kernel=kernel, size=[1, 8, 8, 3], stride=2), 'kernel has shape'),
            (ops.smooth_depthwise_grad(dy=image, kernel=np.ones([3, 2], 'f'), size=[1, 8, 8, 2], stride=2),
             'kernel has'),
            (ops.smooth_channel_sums(x=[image, small]), 'x has the shapes'),
            (ops.smooth_channel_sums(x=[image] * 3), 'of 2 at most'),
            (ops.smooth_channel_affine(x=image, factor=small, offset=[]), 'factor or offset has shape'),
            (ops.smooth_channel_affine(x=image, factor=small, offset=[small] * 2), 'may be one')):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            sess.run(op)


def test_gradients_of_another_shape_are_refused(sess):
    dy, x = tf.placeholder(tf.float32), tf.placeholder(tf.float32)
    op = smooth_ops.load_op_library().smooth_activation_grad(dy=[dy], x=x, function='silu')
    with pytest.raises(tf.errors.InvalidArgumentError, match='shape'):
        sess.run(op, {dy: np.ones(3), x: np.ones(4)})


def test_the_names_are_those_of_the_op(graph):
    library, x = smooth_ops.load_op_library(), tf.constant([1.0])
    named = {activation.compiled or name for name, activation in ACTIVATIONS.items()}
    for y in (library.smooth_activation(x=x, function='relu'),
              library.smooth_activation_grad(dy=[x], x=x, function='relu')):
        known, = (attr.allowed_values.list.s for attr in y.op.op_def.attr if attr.name == 'function')
        assert sorted(name.decode() for name in known) == sorted(named)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(smooth_ops, 'FOLDER', '/nowhere/smooth_ops')
    with pytest.raises(ImportError, match='/nowhere/smooth_ops/build/.*/libsmooth_ops.so .*make setup'):
        smooth_ops.load_op_library.__wrapped__()
