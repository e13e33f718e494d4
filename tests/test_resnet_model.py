"""Layers and blocks against NumPy in float64, FD's blocks against numbers of the original program, both layouts."""
from dataclasses import replace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import layers
import resnet_model
from layouts import LAYOUTS, normal, to_layout, to_nhwc
from resnet_model import Style

STYLE = Style(data_format='NHWC', training=False, activation='relu', padding='explicit')


def zeros_around(size, kernel, stride, padding):
    """Zeros before and after one spatial axis: 'same' is TensorFlow's (FD), the others k // 2 on both sides (SAT)."""
    if padding != 'same' and stride > 1 and kernel > 1:
        return kernel // 2, kernel // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv_with_gradients(x, weights, dy_of, stride, group, padding):
    """Convolution of NHWC ``x`` group by group, and the gradients of sum(y * dy) for dy = dy_of(shape of y)."""
    kernel, _, _, channels = weights.shape
    around = zeros_around(x.shape[1], kernel, stride, padding)
    padded = np.pad(x, [(0, 0), around, around, (0, 0)])
    side = (padded.shape[1] - kernel) // stride + 1
    y = np.zeros((len(x), side, side, channels))
    dy = dy_of(y.shape)
    dx, dw = np.zeros_like(padded), np.zeros_like(weights)
    for g, (ins, outs) in enumerate(zip(np.split(np.arange(x.shape[3]), group), np.split(np.arange(channels), group))):
        for i in range(kernel):
            for j in range(kernel):
                rows, columns = (slice(k, k + side * stride, stride) for k in (i, j))
                window = np.s_[:, rows, columns, ins[0]:ins[-1] + 1]
                w = weights[i, j][:, outs]
                y[..., outs] += padded[window] @ w
                dx[window] += dy[..., outs] @ w.T
                dw[i, j][:, outs] += np.einsum('nhwi,nhwo->io', padded[window], dy[..., outs])
    inside = slice(around[0], around[0] + x.shape[1])
    return y, dx[:, inside, inside], dw


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('padding', resnet_model.PADDINGS)
@pytest.mark.parametrize('size, kernel, stride, group', [
    (8, 7, 2, 1), (9, 7, 2, 1),                            # the stem at even and odd sizes
    (8, 3, 2, 1), (7, 3, 2, 1), (8, 3, 2, 4), (7, 3, 2, 4),  # conv2 of a group's first block
    (6, 3, 1, 1), (6, 3, 1, 4), (5, 3, 1, 2),              # conv2 of the other blocks
    (6, 1, 1, 1), (6, 1, 2, 1), (7, 1, 2, 1)])             # 1x1 and the shortcut
def test_convolution_and_its_gradients_are_those_of_each_group_alone(sess, data_format, padding, size, kernel, stride,
                                                                     group):
    x, weights = normal(2, size, size, 8), normal(kernel, kernel, 8 // group, 12, seed=1)
    want, want_dx, want_dw = conv_with_gradients(x, weights, lambda shape: normal(*shape, seed=2), stride, group,
                                                 padding)
    inputs = tf.constant(to_layout(x, data_format), tf.float32)
    y = resnet_model.conv2d(inputs, 'conv', 12, kernel, replace(STYLE, data_format=data_format, padding=padding),
                            stride=stride, group=group)
    variable, = tf.global_variables()
    assert (variable.op.name, variable.shape.as_list()) == ('conv/W', [kernel, kernel, 8 // group, 12])
    dy = tf.constant(to_layout(normal(*want.shape, seed=2), data_format), tf.float32)
    gradients = tf.gradients(y, [inputs, variable], grad_ys=dy)
    variable.load(weights, sess)
    got, (dx, dw) = sess.run([y, gradients])
    np.testing.assert_allclose(to_nhwc(got, data_format), want, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(to_nhwc(dx, data_format), want_dx, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dw, want_dw, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('kernel', [3, 7])
def test_the_paddings_differ_at_even_sizes(sess, kernel):
    x = tf.constant(normal(1, 8, 8, 3), tf.float32)
    with tf.variable_scope('', reuse=tf.AUTO_REUSE):
        explicit, same = (resnet_model.conv2d(x, 'conv', 4, kernel, replace(STYLE, padding=padding), stride=2)
                          for padding in ('explicit', 'same'))
    sess.run(tf.global_variables_initializer())
    assert np.abs(np.subtract(*sess.run([explicit, same]))).max() > 0.1


# The stem, max-pooling and the four groups: He et al. 2015, Table 1, at 224; the SAT program at 299.
@pytest.mark.parametrize('side, sides', [(224, [112, 56, 56, 28, 14, 7]), (299, [150, 75, 75, 38, 19, 10])])
@pytest.mark.parametrize('padding', resnet_model.PADDINGS)
def test_feature_maps_have_the_published_sizes(graph, small_resnet, monkeypatch, side, sides, padding):
    seen = []

    def watch(function):
        def watched(x, *args, **kwargs):
            y = function(x, *args, **kwargs)
            seen.append(tf.nest.flatten(y)[0].shape.as_list()[1:3])
            return y
        return watched
    for name in ('max_pool', 'bottleneck'):
        monkeypatch.setattr(resnet_model, name, watch(getattr(resnet_model, name)))
    resnet_model.imagenet_resnet(tf.zeros([1, side, side, 3]), small_resnet, 10, replace(STYLE, padding=padding))
    assert seen == [[n, n] for n in sides[1:]]
    stem = tf.get_default_graph().get_tensor_by_name('conv0/Conv2D:0')
    assert stem.shape.as_list()[1:3] == [sides[0], sides[0]]


@pytest.mark.parametrize('data_format', LAYOUTS)
def test_batch_norm_at_inference_uses_the_moving_averages(sess, data_format):
    x = normal(2, 3, 4, 5)
    y = layers.batch_norm(tf.constant(to_layout(x, data_format), tf.float32), 'bn',
                                replace(STYLE, data_format=data_format))
    values = {'bn/gamma': normal(5, seed=1), 'bn/beta': normal(5, seed=2), 'bn/mean/EMA': normal(5, seed=3),
              'bn/variance/EMA': np.exp(normal(5, seed=4))}
    for variable in tf.global_variables():
        variable.load(values[variable.op.name], sess)
    gamma, beta, mean, variance = (values['bn/' + key] for key in ('gamma', 'beta', 'mean/EMA', 'variance/EMA'))
    np.testing.assert_allclose(to_nhwc(sess.run(y), data_format),
                               (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, rtol=1e-4, atol=1e-5)
    assert {v.op.name for v in tf.trainable_variables()} == {'bn/gamma', 'bn/beta'}
    assert not tf.get_collection(tf.GraphKeys.UPDATE_OPS)


@pytest.mark.parametrize('data_format', LAYOUTS)
def test_batch_norm_in_training_uses_the_batch_and_offers_its_update_of_the_averages(sess, data_format):
    x = 2 + 3 * normal(2, 3, 4, 5)
    y = layers.batch_norm(tf.constant(to_layout(x, data_format), tf.float32), 'bn',
                                replace(STYLE, data_format=data_format, training=True))
    sess.run(tf.global_variables_initializer())
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    averages = [v for v in tf.global_variables() if v.op.name.endswith('EMA')]
    np.testing.assert_allclose(to_nhwc(sess.run(y), data_format), (x - mean) / np.sqrt(variance + 1e-5), atol=1e-4)
    np.testing.assert_array_equal(sess.run(averages), [np.zeros(5), np.ones(5)])
    sess.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    got_mean, got_variance = sess.run(averages)
    np.testing.assert_allclose(got_mean, 0.1 * mean, rtol=1e-5)
    # As in the releases the moving variance is fed the unbiased batch variance, here of 24 numbers.
    np.testing.assert_allclose(got_variance, 0.9 + 0.1 * variance * 24 / 23, rtol=1e-5)


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('size', [6, 7])
def test_max_pool_and_its_gradient(sess, data_format, size):
    x = normal(2, size, size, 3)
    inputs = tf.constant(to_layout(x, data_format), tf.float32)
    y = resnet_model.max_pool(inputs, 3, 2, replace(STYLE, data_format=data_format))
    gradient, = tf.gradients(y, inputs, grad_ys=2 * tf.ones_like(y))
    got, dx = sess.run([y, gradient])

    before = zeros_around(size, 3, 2, 'same')[0]
    want = np.empty((2, 3, 3, 3) if size == 6 else (2, 4, 4, 3))
    want_dx = np.zeros_like(x)
    for n, i, j, c in np.ndindex(want.shape):
        top, left = max(2 * i - before, 0), max(2 * j - before, 0)
        window = x[n, top:2 * i - before + 3, left:2 * j - before + 3, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        want[n, i, j, c] = window[row, column]
        want_dx[n, top + row, left + column, c] += 2
    np.testing.assert_allclose(to_nhwc(got, data_format), want, rtol=1e-6)
    np.testing.assert_array_equal(to_nhwc(dx, data_format), want_dx)


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('case', range(12))
def test_non_local_and_denoising_are_those_of_the_original_program(sess, load_json, load_rule_weights, data_format,
                                                                   case):
    case = load_json('nonlocal.json.gz')['cases'][case]

    def from_nchw(flat):
        x = np.reshape(flat, case['shape'])
        return x if data_format == 'NCHW' else np.transpose(x, [0, 2, 3, 1])

    style = replace(STYLE, data_format=data_format)
    x = tf.constant(from_nchw(case['x']), tf.float32)
    block = resnet_model.denoising(x, case['scope'], style, case['embed'], case['softmax'])
    with tf.variable_scope(case['scope'], reuse=True):
        means = resnet_model.non_local(x, style, case['embed'], case['softmax'])
    assert {(v.op.name, tuple(v.shape.as_list())) for v in tf.global_variables()} == {
        (name, tuple(shape)) for name, shape in case['variables']}
    load_rule_weights(sess)
    got_means, got_block = sess.run([means, block])
    np.testing.assert_allclose(got_means, from_nchw(case['non_local']), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got_block, from_nchw(case['denoising']), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('shape', [(2, 2, 3, 8), (2, 4, 5, 8)], ids=['channels > positions', 'positions > channels'])
@pytest.mark.parametrize('softmax', [False, True])
@pytest.mark.parametrize('embed', [False, True])
def test_non_local_is_the_sum_over_all_pairs_of_positions_also_where_the_map_is_not_square(sess, data_format, shape,
                                                                                          softmax, embed):
    x = normal(*shape)
    means = resnet_model.non_local(tf.constant(to_layout(x, data_format), tf.float32),
                                   replace(STYLE, data_format=data_format), embed, softmax)
    weights = {v.op.name.split('/')[0]: normal(8, 4, seed=i) for i, v in enumerate(tf.global_variables())}
    for variable in tf.global_variables():
        variable.load(weights[variable.op.name.split('/')[0]].reshape(1, 1, 8, 4), sess)
    value = x.reshape(2, -1, 8)
    theta, phi = (value @ weights[key] if embed else value for key in ('embedding_theta', 'embedding_phi'))
    want = np.empty_like(value)
    for n, p in np.ndindex(value.shape[:2]):
        affinity = np.array([theta[n, p] @ phi[n, q] for q in range(value.shape[1])])
        if softmax:
            affinity = np.exp(affinity / np.sqrt(theta.shape[2]))
            want[n, p] = affinity @ value[n] / affinity.sum()
        else:
            want[n, p] = affinity @ value[n] / value.shape[1]
    np.testing.assert_allclose(to_nhwc(sess.run(means), data_format), want.reshape(shape), rtol=1e-4, atol=1e-4)


def test_a_fresh_denoising_block_is_the_identity(sess):
    x = normal(2, 3, 3, 4)
    y = resnet_model.denoising(tf.constant(x, tf.float32), 'group0_denoise', STYLE, True, True)
    sess.run(tf.global_variables_initializer())
    np.testing.assert_allclose(sess.run(y), x, rtol=1e-6)


def test_a_fresh_bottleneck_is_its_shortcut_and_the_activation(sess):
    x = normal(2, 3, 3, 16)
    y, same = resnet_model.bottleneck(2 * (tf.constant(x, tf.float32),), 4, 1, STYLE, 4, 1)
    sess.run(tf.global_variables_initializer())
    for value in sess.run([y, same]):
        np.testing.assert_allclose(value, np.maximum(x, 0), rtol=1e-6)
    assert not [v for v in tf.global_variables() if 'convshortcut' in v.op.name]


def test_activations_follow_conv0_conv1_conv2_and_the_sum_only(graph, small_resnet):
    style = replace(STYLE, activation='smoothrelu')
    resnet_model.imagenet_resnet(tf.zeros([1, 32, 32, 3]), small_resnet, 10, style)
    sites = {v.op.name for v in tf.global_variables() if v.op.name.endswith('smoothrelu_beta')}
    assert sites == {'conv0/smoothrelu_beta'} | {
        'group{}/block0{}/smoothrelu_beta'.format(g, site) for g in range(4) for site in ('/conv1', '/conv2', '')}


def test_initial_values_are_those_of_the_releases(sess, small_resnet):
    resnet_model.imagenet_resnet(tf.zeros([1, 32, 32, 3]), small_resnet, 1000, STYLE, res2_bottleneck=8, group=32,
                                 denoise='groups')
    sess.run(tf.global_variables_initializer())
    for name, value in sess.run({v.op.name: v for v in tf.global_variables()}).items():
        if name.endswith('gamma'):
            zero = name.endswith('conv3/bn/gamma') or '_denoise/' in name
            np.testing.assert_array_equal(value, 0.0 if zero else 1.0, err_msg=name)
        elif name.endswith(('beta', 'mean/EMA', 'linear/b')):
            np.testing.assert_array_equal(value, 0.0, err_msg=name)
        elif name.endswith('variance/EMA'):
            np.testing.assert_array_equal(value, 1.0, err_msg=name)
        elif name == 'linear/W' or 'embedding' in name:
            np.testing.assert_allclose(value.std(), 0.01, rtol=0.03, err_msg=name)
        else:  # a convolution: variance 2 / fan_out, a normal cut at two of its deviations, outputs not per group
            deviation = np.sqrt(2 / (value.shape[0] * value.shape[1] * value.shape[3]))
            np.testing.assert_allclose(value.std(), deviation, rtol=0.03, err_msg=name)
            assert np.abs(value).max() <= 2 * deviation / 0.8796 * 1.0001, name


# He et al. 2015, Table 6, in millions; the wide ResNet-18 as the robustness papers count it.
@pytest.mark.parametrize('depth, millions', [(20, 0.27), (32, 0.46), (56, 0.85), (18, 11.17)])
def test_cifar_networks_have_the_published_number_of_parameters(graph, depth, millions):
    resnet_model.cifar_resnet(tf.zeros([1, 32, 32, 3]), depth, 10, STYLE)
    count = sum(v.shape.num_elements() for v in tf.trainable_variables())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize('depth', [8, 20, 32, 56])
def test_cifar_networks_have_as_many_layers_as_their_name_says(graph, depth):
    resnet_model.cifar_resnet(tf.zeros([1, 32, 32, 3]), depth, 10, STYLE)
    assert len([v for v in tf.trainable_variables() if v.op.name.endswith('/W')]) == depth


@pytest.mark.parametrize('data_format', LAYOUTS)
def test_option_a_shortcut_takes_every_second_position_and_adds_zero_channels_on_both_sides(sess, data_format):
    x = normal(2, 5, 5, 4)
    y, _ = resnet_model.basic_block(2 * (tf.constant(to_layout(x, data_format), tf.float32),), 8, 2,
                                    replace(STYLE, data_format=data_format), projection=False)
    sess.run(tf.global_variables_initializer())
    residual_gamma, = (v for v in tf.global_variables() if v.op.name == 'conv2/bn/gamma')
    residual_gamma.load(np.zeros(8), sess)
    got = to_nhwc(sess.run(y), data_format)
    np.testing.assert_allclose(got[..., 2:6], np.maximum(x[:, ::2, ::2], 0), rtol=1e-6)
    np.testing.assert_array_equal(got[..., [0, 1, 6, 7]], 0)


def test_projection_shortcut_is_a_strided_1x1_convolution(graph):
    resnet_model.basic_block(2 * (tf.zeros([1, 6, 6, 4]),), 8, 2, STYLE, projection=True)
    assert {v.op.name: v.shape.as_list() for v in tf.global_variables()}['convshortcut/W'] == [1, 1, 4, 8]


@pytest.mark.parametrize('projection', [False, True])
def test_a_block_that_keeps_its_shape_has_no_shortcut_parameters(graph, projection):
    resnet_model.basic_block(2 * (tf.zeros([1, 6, 6, 8]),), 8, 1, STYLE, projection)
    assert not [v for v in tf.global_variables() if 'convshortcut' in v.op.name]


@pytest.fixture
def small_resnet(monkeypatch):
    """Depth of an ImageNet network with one block a group, for tests of what does not depend on the depth."""
    monkeypatch.setitem(resnet_model.IMAGENET_BLOCKS, 14, (1, 1, 1, 1))
    return 14


FAMILIES = {
    'ResNet': dict(),
    'ResNeXt-32x4d': dict(res2_bottleneck=4, group=32),
    'ResNetDenoise': dict(denoise='groups'),
    'ResNeXtDenoiseAll': dict(denoise='blocks', res2_bottleneck=8, group=32),
    'CifarResNet-20': dict(depth=20),
    'CifarResNet-18': dict(depth=18),
}


# Batch statistics of eight numbers (two images, 2x2 positions) enlarge rounding errors, hence the other tolerance.
@pytest.mark.parametrize('family, training, tolerance', [
    (family, False, 1e-4) if family == 'ResNetDenoise' else
    pytest.param(family, False, 1e-4, marks=pytest.mark.slow) for family in FAMILIES] + [('ResNet', True, 2e-3)])
def test_both_layouts_give_the_same_logits_and_input_gradients(sess, weights_rule, load_rule_weights, small_resnet,
                                                               family, training, tolerance):
    size = 32 if 'Cifar' in family else 64
    images = weights_rule.images(size).astype(np.float32) * 2 / 255 - 1
    results = []
    for data_format in LAYOUTS:
        style = Style(data_format, training, 'silu')
        x = tf.constant(to_layout(images, data_format))
        with tf.variable_scope('', reuse=tf.AUTO_REUSE):
            if 'Cifar' in family:
                logits = resnet_model.cifar_resnet(x, FAMILIES[family]['depth'], 10, style)
            else:
                logits = resnet_model.imagenet_resnet(x, small_resnet, 10, style, **FAMILIES[family])
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=[3, 7]))
        results.append((logits, tf.gradients(loss, x)[0]))
    load_rule_weights(sess)
    (logits, gradient), (other_logits, other_gradient) = sess.run(results)
    assert logits.std() > 0.1 and np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(logits, other_logits, rtol=0, atol=tolerance * np.abs(logits).max())
    np.testing.assert_allclose(gradient, to_nhwc(other_gradient, 'NCHW'), rtol=0,
                               atol=tolerance * np.abs(gradient).max())
