"""3 x 3 convolutions in fewer multiplications, against NumPy in float64; the networks that have them."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

from layers import Frozen, Style, conv2d, winograd
from native import smooth_ops
from networks import make_network
from test_frozen import IMAGES, SMALL, plain, set_variables, watched
from test_products import convolved, gradient
from test_smooth_ops import instructions  # noqa: F401

# x [N,H,W,I], O
CASES = {'whole tiles': ([2, 4, 6, 64], 64), 'odd sides': ([1, 7, 5, 16], 48), 'many tiles': ([3, 9, 10, 32], 80),
         'one pixel': ([2, 1, 1, 16], 16), 'a row': ([1, 1, 9, 16], 128), 'deep': ([1, 3, 3, 512], 32),
         'none': ([0, 4, 4, 16], 16)}
PLACE = dict(kernel=3, stride=1, before=[1, 1])


@pytest.fixture(params=CASES)
def case(request):
    """x, weights and the gradient of the result, float64 of numbers that float32 has."""
    shape, out = CASES[request.param]
    made = [np.random.RandomState(seed).normal(size=size).astype(np.float32).astype(np.float64)
            for seed, size in enumerate((shape, [3, 3, shape[3], out], [*shape[:3], out]))]
    return made


def assert_near(got, want, magnitude):
    """As near as sums of float32 are whose numbers' magnitudes add up to ``magnitude``."""
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.max(magnitude, initial=0))


def by(x, weights):
    ops = smooth_ops.load_op_library()
    return ops.smooth_winograd(x=x, weights=ops.smooth_winograd_weights(weights=weights), channels=weights.shape[3])


def test_the_op_is_numpys_convolution_for_every_instruction_set(sess, instructions, case):  # noqa: F811
    x, weights, _ = case
    y = by(x.astype(np.float32), weights.astype(np.float32))
    assert y.shape.as_list() == [*x.shape[:3], weights.shape[3]]
    assert_near(sess.run(y), convolved(x, weights, PLACE), convolved(np.abs(x), np.abs(weights), PLACE))


@pytest.mark.parametrize('still', [False, True])
def test_gradients_are_numpys(sess, case, still):
    x, weights, dy = case
    style = Style('NHWC', training=not still, activation='relu', frozen=Frozen() if still else None)
    given = [tf.constant(v, tf.float32) for v in (x, weights)]
    y = winograd.conv2d(*given, style)
    dx, dw = tf.gradients(y, given, tf.constant(dy, tf.float32))
    assert (dw is None) == still
    got = sess.run([y, dx] if still else [y, dx, dw])
    assert_near(got[0], convolved(x, weights, PLACE), convolved(np.abs(x), np.abs(weights), PLACE))
    assert_near(got[1], gradient(dy, x, weights, PLACE), gradient(np.abs(dy), x, np.abs(weights), PLACE))
    if not still:
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        height, width = x.shape[1:3]
        for i in range(3):
            for j in range(3):
                seen = padded[:, i:i + height, j:j + width]
                want, most = (np.einsum('nhwi,nhwo->io', f(seen), f(dy)) for f in (np.asarray, np.abs))
                assert_near(got[2][i, j], want, most)


def test_an_image_has_the_same_result_beside_others_and_alone(sess):
    x, weights = (np.random.RandomState(0).normal(size=size).astype(np.float32)
                  for size in ([5, 9, 7, 32], [3, 3, 32, 144]))
    together = by(x, weights)
    alone = tf.concat([by(x[n:n + 1], weights) for n in range(len(x))], 0)
    np.testing.assert_array_equal(*sess.run([together, alone]))


def test_what_does_not_fit_is_refused(sess):
    ops = smooth_ops.load_op_library()
    zeros = np.zeros([2, 4, 4, 32], np.float32)
    weights = ops.smooth_winograd_weights(weights=np.zeros([3, 3, 32, 16], np.float32))
    for op, message in (
            (ops.smooth_winograd_weights(weights=np.zeros([3, 3, 24, 16], np.float32)), 'multiples of 16'),
            (ops.smooth_winograd_weights(weights=np.zeros([1, 1, 16, 16], np.float32)), r'must be \[3,3,I,O\]'),
            (ops.smooth_winograd(x=zeros[..., :20], weights=weights, channels=16), 'multiple of 16'),
            (ops.smooth_winograd(x=zeros, weights=weights, channels=32), 'packed weights'),
            (ops.smooth_winograd(x=zeros, weights=weights, channels=20), '20 channels')):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            sess.run(op)


def count():
    return sum(op.type == 'SmoothWinograd' for op in tf.get_default_graph().get_operations())


@pytest.mark.parametrize('change, fast', [
    ({}, True), ({'training': False}, False), ({'data_format': 'NCHW'}, False), ({'dtype': tf.bfloat16}, False),
    ({'kernel': 1}, False), ({'stride': 2}, False), ({'around': 0}, False), ({'around': 1}, True),
    ({'zero': 1.0}, False), ({'channels': 48}, False), ({'channels': 72}, False), ({'group': 2}, False),
    ({'slow': True}, False)])
def test_only_convolutions_that_are_faster_by_it(graph, monkeypatch, change, fast):
    given = dict(dict(training=True, data_format='NHWC', dtype=tf.float32, kernel=3, stride=1, around=None, zero=0.0,
                      channels=64, group=1, slow=False), **change)
    monkeypatch.setattr(smooth_ops, 'has_fast_winograd', lambda: not given['slow'])
    style = Style(given['data_format'], training=given['training'], activation='relu')
    x = tf.zeros([2, 128, 128, 128], given['dtype'])[..., :given['channels']]
    if given['data_format'] == 'NCHW':
        x = tf.transpose(x, [0, 3, 1, 2])
    weights = tf.zeros([given['kernel'], given['kernel'], given['channels'] // given['group'], 64], given['dtype'])
    conv2d(x, weights, given['stride'], style, given['around'], given['zero'])
    assert count() == fast


def test_an_attacked_and_a_trained_resnet_have_them_and_the_one_that_judges_has_not(sess, monkeypatch):
    monkeypatch.setattr('resnet_model.IMAGENET_BLOCKS', {50: (2, 1, 1, 2)})
    image, results, counts = tf.constant(IMAGES, tf.float32), [], []
    for fast in (False, True):
        monkeypatch.setattr(smooth_ops, 'has_fast_winograd', lambda: fast)
        model = make_network('--arch', 'ResNet', '-d', '50', *SMALL)
        for build in (lambda: plain(model, image), lambda: watched(model, image)):
            before = count()
            results.append(build())
            counts.append(count() - before)
        with TowerContext('', is_training=True):
            before = count()
            model.get_logits(image)
            counts.append(count() - before)
    forward = 3  # of six blocks; the first of each later group is of stride 2
    assert counts == [0, 0, 0, 0, 2 * forward, forward]
    set_variables(sess)
    _, exact, _, fast = sess.run(results)
    for want, got in zip(exact, fast):
        assert np.abs(want).max() > 0
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
