"""Layer norm, attention, dense layers and stems with the affine maps around them, against NumPy in float64."""
import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import layers
from layers import affine, stem, tokens
from layers.scaling import INPUT_SCALINGS, channel_order
from layouts import LAYOUTS, normal, to_layout, to_nhwc

STYLE = layers.Style('NHWC', False, 'gelu_erf')


def set_variables(sess):
    """{name: value}, none of them what a variable starts with."""
    values = {v.op.name: normal(*v.shape.as_list(), seed=number) for number, v in enumerate(tf.global_variables())}
    for v in tf.global_variables():
        v.load(values[v.op.name], sess)
    return values


def norm(x, factor=1.0, offset=0.0):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * factor + offset


@pytest.mark.parametrize('shape', [(2, 5), (2, 3, 5), (2, 4, 3, 5)])
@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('scale', [1.0, 1e-3])  # the smaller one is where the epsilon matters
def test_layer_norm_is_of_the_channels_of_each_place(sess, shape, data_format, scale):
    x = scale * normal(*shape, seed=7)
    turned = to_layout(x, data_format) if len(shape) == 4 else x
    y = tokens.layer_norm(tf.constant(turned, tf.float32), 'norm', replace(STYLE, data_format=data_format))
    values = set_variables(sess)
    found = sess.run(y)
    np.testing.assert_allclose(to_nhwc(found, data_format) if len(shape) == 4 else found,
                               norm(x, values['norm/weight'], values['norm/bias']), rtol=1e-4, atol=1e-5)


def test_layer_norm_of_bfloat16_is_computed_in_float32(sess):
    x = 100 + normal(4, 64)
    low = tf.cast(tf.constant(x, tf.float32), tf.bfloat16)
    found, image = sess.run([tf.cast(tokens.standardise(low, STYLE), tf.float32), tf.cast(low, tf.float32)])
    np.testing.assert_allclose(found, norm(np.float64(image)), rtol=0, atol=0.02)


def test_the_gradient_of_a_layer_norm_is_its_own(sess):
    x, step, dy = (normal(3, 4, 6, seed=seed) for seed in range(3))
    image = tf.constant(x, tf.float32)
    gradient, = tf.gradients(tokens.layer_norm(image, 'norm', STYLE), image, tf.constant(dy, tf.float32))
    v = set_variables(sess)
    there, back = (np.sum(dy * norm(x + way * step, v['norm/weight'])) for way in (1e-5, -1e-5))
    np.testing.assert_allclose(np.sum(sess.run(gradient) * step), (there - back) / 2e-5, rtol=1e-4)


def test_attention_is_of_every_token_to_all_in_each_head(sess):
    tokens_, heads, depth = 5, 3, 4
    qkv = normal(2, tokens_, 3 * heads * depth)
    scale = tokens.query_scale(heads * depth, heads)
    found = sess.run(tokens.attention(tf.constant(qkv * scale, tf.float32), heads))
    wanted = np.zeros([2, tokens_, heads * depth])
    for n in range(2):
        for h in range(heads):
            query, key, value = (qkv[n][:, part * heads * depth + h * depth:][:, :depth] for part in range(3))
            weights = np.exp(query @ key.T / math.sqrt(depth))
            wanted[n, :, h * depth:(h + 1) * depth] = weights / weights.sum(1, keepdims=True) @ value
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('shape', [(3, 6), (2, 3, 6), (2, 4, 3, 6)])
@pytest.mark.parametrize('data_format', LAYOUTS)
def test_a_dense_layer_does_the_maps_around_it(sess, shape, data_format):
    x = normal(*shape, seed=3)
    turned = to_layout(x, data_format) if len(shape) == 4 else x
    y = affine.dense(tf.constant(turned, tf.float32), 'fc', 4, replace(STYLE, data_format=data_format),
                     before=tokens.norm_variables('norm', 6), after=tokens.layer_scale('gamma', 4))
    v = set_variables(sess)
    wanted = ((x * v['norm/weight'] + v['norm/bias']) @ v['fc/weight'] + v['fc/bias']) * v['gamma']
    found = sess.run(y)
    np.testing.assert_allclose(to_nhwc(found, data_format) if len(shape) == 4 else found, wanted, rtol=1e-4, atol=1e-4)


def convolved(x, weights, stride, around):
    """NHWC, by the definition."""
    kernel = weights.shape[0]
    x = np.pad(x, [(0, 0), (around, around), (around, around), (0, 0)])
    rows, columns = ((side - kernel) // stride + 1 for side in x.shape[1:3])
    return np.stack([np.stack([np.einsum('nijc,ijco->no', x[:, r * stride:r * stride + kernel,
                                                           c * stride:c * stride + kernel], weights)
                               for c in range(columns)], 1) for r in range(rows)], 1)


@pytest.mark.parametrize('scaling', INPUT_SCALINGS)
@pytest.mark.parametrize('kernel, stride, around', [(3, 2, 1), (4, 4, 0)])
@pytest.mark.parametrize('size', [8, 11])
@pytest.mark.parametrize('frozen', [False, True])
def test_a_first_convolution_takes_its_scaling_of_the_image_with_zeros_around(sess, scaling, kernel, stride, around,
                                                                              size, frozen):
    image = np.random.RandomState(0).uniform(-1, 1, [2, size, size, 3])
    style = replace(STYLE, frozen=layers.Frozen() if frozen else None)
    turned = tf.constant(image, tf.float32)
    y = affine.conv2d(turned, 'conv', 5, kernel, style, stride=stride, around=around, scaling=scaling)
    dy = normal(*y.shape.as_list(), seed=9)
    gradient, = tf.gradients(y, turned, tf.constant(dy, tf.float32))
    v = set_variables(sess)
    factor, offset = np.ones(3), np.zeros(3)
    if INPUT_SCALINGS[scaling]:
        mean, std = np.array(INPUT_SCALINGS[scaling]) / 255
        factor, offset = 0.5 / std, (0.5 - mean) / std
    found, found_gradient = sess.run([y, gradient])
    np.testing.assert_allclose(found, convolved(image * factor + offset, v['conv/weight'], stride, around)
                               + v['conv/bias'], rtol=1e-4, atol=1e-4)
    # A step along the gradient, of a linear function.
    step = normal(*image.shape, seed=4)
    grown = np.sum(dy * convolved(step * factor, v['conv/weight'], stride, around))
    np.testing.assert_allclose(np.sum(found_gradient * step), grown, rtol=1e-4)


def test_the_scalings_are_of_images_from_0_to_1():
    assert [affine.as_affine('unit')[0][0] * x + affine.as_affine('unit')[1][0] for x in (-1, 1)] == [0, 1]
    factor, offset = affine.as_affine('imagenet')  # of torchvision
    np.testing.assert_allclose(factor * 1 + offset, [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225],
                               rtol=1e-6)
    assert [channel_order('BGR', scaling) for scaling in (None, 'sat')] == ['BGR', 'BGR']
    assert [channel_order('BGR', scaling) for scaling in ('unit', 'imagenet', 'mean-std')] == ['RGB', 'RGB', 'RGB']


@pytest.mark.parametrize('kind, width, channels', [
    (stem.TWO, 96, [48, 96]), (stem.THREE, 128, [64, 96, 128]), (stem.THREE, 192, [96, 144, 192]),
    (stem.FOUR, 384, [48, 96, 192, 384]), (stem.FOUR, 768, [48, 96, 192, 384]), (stem.FOUR, 64, [8, 16, 32, 64])])
def test_the_stems_have_the_originals_channels_and_those_of_smaller_widths(kind, width, channels):
    assert kind.channels(width) == channels and width % kind.multiple == 0
    assert all(min(other, 384) % kind.multiple == 0 for other in range(1, 384)
               if all(eighths * other % 8 == 0 for eighths in kind.eighths))


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('kind', [stem.TWO, stem.FOUR])
def test_a_stem_has_as_many_positions_as_its_patches_say(graph, data_format, kind, size=17):
    for patch_size in kind.patch_sizes:
        image = tf.zeros([1, size, size, 3] if data_format == 'NHWC' else [1, 3, size, size])
        with tf.variable_scope(str(patch_size)):
            y = stem.conv_stem(image, 'stem', kind, 16, patch_size, replace(STYLE, data_format=data_format), 'unit')
        side = kind.positions(size, patch_size)
        assert to_nhwc(np.zeros(y.shape), data_format).shape == (1, side, side, 16)


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('size', [7, 8])
def test_pooling_with_places_around_is_torchvisions(sess, data_format, size):
    x = normal(2, size, size, 4) - 5  # a zero would be the largest
    image = tf.constant(to_layout(x, data_format), tf.float32)
    y = layers.max_pool(image, 3, 2, replace(STYLE, data_format=data_format), around=1)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    side = (size - 1) // 2 + 1
    wanted = np.stack([np.stack([padded[:, 2 * r:2 * r + 3, 2 * c:2 * c + 3].max((1, 2)) for c in range(side)], 1)
                       for r in range(side)], 1)
    found, gradient = sess.run([y, tf.gradients(y, image)[0]])
    np.testing.assert_allclose(to_nhwc(found, data_format), wanted, rtol=1e-6)
    # Of each window one place has its gradient.
    assert gradient.sum() == wanted.size
