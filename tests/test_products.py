"""Convolutions as products of bfloat16 numbers with what is around them, against NumPy in float64; residual networks
made of them."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from native import smooth_ops
from networks import make_network
from smooth_activations import ACTIVATIONS, backward_slope, parse_name
from test_frozen import IMAGES, SMALL, plain, set_variables, watched
from test_smooth_activations import TRUTH
from test_smooth_ops import instructions, rounded  # noqa: F401
from test_token_ops import numbers

# x [N,H,W,I], O, kernel, stride, rows and columns of zeros before
CASES = {'tiles': ([2, 9, 7, 64], 64, 1, 1, [0, 0]), 'one panel and a part': ([1, 5, 5, 34], 100, 1, 1, [0, 0]),
         'one pixel': ([1, 1, 1, 2], 2, 1, 1, [0, 0]), 'every second': ([2, 9, 8, 18], 130, 1, 2, [0, 0]),
         '3x3': ([2, 6, 5, 100], 18, 3, 1, [1, 1]), 'strided': ([2, 7, 8, 16], 34, 3, 2, [1, 1]),
         'as SAME': ([1, 8, 7, 4], 66, 3, 2, [0, 1]), '7x7': ([1, 9, 4, 2], 48, 7, 3, [3, 2]),
         'none': ([0, 4, 4, 6], 8, 3, 1, [1, 1]), 'deep': ([1, 3, 13, 512], 80, 1, 1, [0, 0])}
NEAR = dict(rtol=2 ** -8, atol=1e-3)  # one rounding, and what a sum of float32 lets stay


@pytest.fixture(params=CASES)
def case(request):
    """x, weights, scale, zeros before, size of the result [N,H,W,O]; numbers that bfloat16 has."""
    shape, out, kernel, stride, before = CASES[request.param]
    x = numbers(0, *shape)
    weights = numbers(1, kernel, kernel, shape[3], out) / 8
    scale = 2.0 ** np.random.RandomState(2).randint(-2, 3, out)
    return x, weights, scale, dict(kernel=kernel, stride=stride, before=before)


def ends(x, kernel, stride, before):
    """Sizes of the result, and x with zeros around it, as many as any tap needs."""
    sizes = [-(-size // stride) for size in x.shape[1:3]]
    pads = [(b, max(0, (n - 1) * stride + kernel - size - b)) for b, n, size in zip(before, sizes, x.shape[1:3])]
    return sizes, np.pad(x, [(0, 0), *pads, (0, 0)])


def taps(x, weights, kernel, stride, before):
    """(weights [I,O], slices of the padded x that they meet) of each position of the kernel."""
    sizes, _ = ends(x, kernel, stride, before)
    for i in range(kernel):
        for j in range(kernel):
            yield weights[i, j], tuple(slice(k, k + (n - 1) * stride + 1, stride) for k, n in zip((i, j), sizes))


def convolved(x, weights, place):
    _, padded = ends(x, **place)
    return sum(padded[:, rows, columns] @ w for w, (rows, columns) in taps(x, weights, **place))


def gradient(dz, x, weights, place):
    _, padded = ends(x, **place)
    dx = np.zeros_like(padded)
    for w, (rows, columns) in taps(x, weights, **place):
        dx[:, rows, columns] += dz @ w.T
    top, left = place['before']
    return dx[:, top:top + x.shape[1], left:left + x.shape[2]]


def half(x):
    return tf.cast(tf.constant(x), tf.bfloat16)


def arguments(name):
    key, alpha = parse_name(name)
    return dict(function=ACTIVATIONS[key].compiled or key, alpha=alpha or 1.0)


def packed(weights, scale):
    return smooth_ops.load_op_library().smooth_packed_weights(weights=weights.astype(np.float32),
                                                              scale=scale.astype(np.float32))


@pytest.mark.parametrize('name', ['relu', 'silu', 'celu:0.5'])
def test_a_convolution_with_bias_sum_and_activation_is_numpys(sess, instructions, case, name):  # noqa: F811
    x, weights, scale, place = case
    ops, bias = smooth_ops.load_op_library(), numbers(3, len(scale))
    want = convolved(x, weights * scale, place) + bias
    more = numbers(4, *want.shape)
    given = dict(x=half(x), weights=packed(weights, scale).forward, bias=bias.astype(np.float32), **place)
    alone = ops.smooth_convolution(more=[], A=0, **given).z
    z, (y,) = ops.smooth_convolution(more=[half(more)], A=1, **given, **arguments(name))
    assert z.shape.as_list() == y.shape.as_list() == list(want.shape)
    alone, z, y = sess.run([tf.cast(v, tf.float64) for v in (alone, z, y)])
    np.testing.assert_allclose(alone, want, **NEAR)
    np.testing.assert_allclose(z, want + more, **NEAR)
    np.testing.assert_allclose(y, TRUTH[name][0](z), **NEAR)


@pytest.mark.parametrize('name', ['relu', 'silu', 'celu:0.5'])
def test_the_gradient_with_another_uses_and_the_activations_is_numpys(sess, instructions, case, name):  # noqa: F811
    x, weights, scale, place = case
    ops = smooth_ops.load_op_library()
    dz = numbers(5, *convolved(x, weights, place).shape)
    want, more = gradient(dz, x, weights * scale, place), numbers(6, *x.shape)
    given = dict(dz=half(dz), weights=packed(weights, scale).backward, x=half(x), **place)
    alone = ops.smooth_convolution_grad(more=[], of_activation=False, **given)
    dx = ops.smooth_convolution_grad(more=[half(more), half(more)], of_activation=True, **given, **arguments(name))
    assert dx.shape.as_list() == list(x.shape)
    alone, dx = sess.run([tf.cast(v, tf.float64) for v in (alone, dx)])
    np.testing.assert_allclose(alone, want, **NEAR)
    np.testing.assert_allclose(dx, (want + 2 * more) * TRUTH[name][1](x), **NEAR)


def test_what_does_not_fit_is_refused(sess):
    ops = smooth_ops.load_op_library()
    x, wide = half(np.zeros([1, 4, 4, 2])), half(np.zeros([1, 4, 4, 6]))
    weights, place = packed(np.zeros([1, 1, 2, 4]), np.ones(4)), dict(kernel=1, stride=1, before=[0, 0])
    given = dict(weights=weights.forward, bias=np.zeros(4, np.float32), A=0, **place)
    back = dict(weights=weights.backward, more=[], of_activation=False, **place)
    for op, message in (
            (packed(np.zeros([1, 1, 3, 4]), np.ones(4)), 'must be even'),
            (packed(np.zeros([1, 1, 2, 4]), np.ones(3)), 'of 4 channels'),
            (ops.smooth_convolution(x=half(np.zeros([1, 4, 4, 3])), more=[], **given), 'even C'),
            (ops.smooth_convolution(x=wide, more=[], **given), 'packed weights'),
            (ops.smooth_convolution(x=x, more=[wide], **given), 'what is added'),
            (ops.smooth_convolution(x=x, more=[wide] * 3, **given), 'more than two'),
            (ops.smooth_convolution_grad(dz=wide, x=x, **back), 'packed weights'),
            (ops.smooth_convolution_grad(dz=half(np.zeros([1, 3, 4, 4])), x=x, **back), 'dz has shape')):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            sess.run(op)


@pytest.mark.parametrize('padding, slope', [
    ('explicit', 'softplus'), pytest.param('same', None, marks=pytest.mark.slow)])
def test_a_resnet_in_one_pass_is_the_same_network(sess, monkeypatch, padding, slope):
    """Its logits and gradients are as near to float32's as those of one op after the other."""
    monkeypatch.setattr('resnet_model.IMAGENET_BLOCKS', {50: (2, 1, 1, 1)})
    model = make_network('--arch', 'ResNet', '-d', '50', '--padding', padding, '--activation-name', 'silu',
                         '--data-format', 'NHWC', *SMALL)
    image, graphs, convolutions = tf.constant(IMAGES, tf.float32), [], []
    with backward_slope(slope):
        graphs.append(plain(model, image))
    for fast in (False, True):
        monkeypatch.setattr(smooth_ops, 'has_fast_products', lambda: fast)
        graphs.append(watched(model, image, 'bfloat16', slope))
        convolutions.append([op.type for op in tf.get_default_graph().get_operations() if 'SmoothConv' in op.type])
    count = 4 + 3 * 5
    assert convolutions[0] == []
    assert sorted(convolutions[1]) == count * ['SmoothConvolution'] + count * ['SmoothConvolutionGrad']
    set_variables(sess)
    exact, *lower = sess.run(graphs)
    for want, apart, together, more in zip(exact, *lower, (1.5, 1.1)):  # few logits, many gradients
        apart, together = (np.abs(got - want).mean() / np.abs(want).mean() for got in (apart, together))
        assert 1e-6 < together < more * apart < 0.06
