"""What the networks' graphs share, against NumPy in float64; recomputed blocks against the same blocks kept in memory.

Batch norm with ResNet's averages and max-pooling are in test_resnet_model.py.
"""
import functools
import re
from dataclasses import replace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import layers
import resnet_model
from attacks.pgd import PGDAttacker
from attacks.threat import PIXEL
from efficientnet import network
from efficientnet.scaling import Block
from layouts import LAYOUTS, normal, to_layout, to_nhwc
from smooth_activations import activate, backward_slope

STYLE = layers.Style('NHWC', True, 'silu')


# Batch norm

# Of 24 numbers a channel: what the moving variance takes in is their sum of squares / 23, or / 24.
@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('unbiased, factor', [(True, 24 / 23), (False, 1)])
def test_the_moving_variance_takes_in_the_unbiased_or_the_biased_variance(sess, data_format, unbiased, factor):
    x = 2 + 3 * normal(2, 3, 4, 5)
    layers.batch_norm(tf.constant(to_layout(x, data_format), tf.float32), 'bn', replace(STYLE, data_format=data_format),
                      averages=('mean', 'variance'), unbiased=unbiased)
    sess.run(tf.global_variables_initializer())
    sess.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    values = sess.run({v.op.name: v for v in tf.global_variables()})
    np.testing.assert_allclose(values['bn/mean'], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(values['bn/variance'], 0.9 + 0.1 * factor * x.var((0, 1, 2)), rtol=1e-5)


def updated_averages(sess, x):
    sess.run(tf.global_variables_initializer())
    sess.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    return sess.run([v for v in tf.global_variables() if v not in tf.trainable_variables()])


def test_efficientnets_moving_variance_is_the_biased_one(sess):
    x = normal(2, 3, 4, 5)
    network.conv2d(tf.constant(x, tf.float32), 'conv2d', 5, 1, network.Style('NHWC', True, 'silu'), norm=0)
    averages = updated_averages(sess, x)
    x = x @ sess.run(tf.trainable_variables()[0])[0, 0]
    np.testing.assert_allclose(averages[1], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-5)


def test_resnets_moving_variance_is_the_unbiased_one(sess):
    x = normal(2, 3, 4, 5)
    layers.batch_norm(tf.constant(x, tf.float32), 'bn', STYLE)
    np.testing.assert_allclose(updated_averages(sess, x)[1], 0.9 + 0.1 * x.var((0, 1, 2)) * 24 / 23, rtol=1e-5)


def test_momentum_and_epsilon_of_batch_norm_are_the_styles(sess):
    x = 0.1 * normal(2, 3, 4, 5)
    y = layers.batch_norm(tf.constant(x, tf.float32), 'bn', replace(STYLE, bn_momentum=0.6, bn_epsilon=0.01))
    mean, _ = updated_averages(sess, x)
    np.testing.assert_allclose(mean, 0.4 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-7)
    want = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 0.01)
    np.testing.assert_allclose(sess.run(y), want, rtol=1e-4, atol=1e-5)
    # At inference the moving averages, which have just been set, and the same epsilon.
    with tf.variable_scope('', reuse=True):
        y = layers.batch_norm(tf.constant(x, tf.float32), 'bn', replace(STYLE, training=False, bn_epsilon=0.01))
    mean, variance = 0.4 * x.mean((0, 1, 2)), 0.6 + 0.4 * x.var((0, 1, 2)) * 24 / 23
    np.testing.assert_allclose(sess.run(y), (x - mean) / np.sqrt(variance + 0.01), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('unbiased, factor', [(True, 48 / 47), (False, 1)])
@pytest.mark.parametrize('offset', [2, 1000])
def test_shared_statistics_are_those_of_the_values_of_all_ranks(sess, data_format, unbiased, factor, offset):
    # Float32 of values near 1000: a variance from sums of squares in float32 would be off by tens of percents.
    mine, theirs = np.float32(offset + 3 * normal(2, 2, 3, 4, 5))
    everything = np.stack([mine, theirs]).astype(np.float64)
    style = replace(STYLE, data_format=data_format, sum_over_ranks=lambda sums: sums + tf.constant(np.concatenate(
        [[24], theirs.sum((0, 1, 2), np.float64), np.square(theirs, dtype=np.float64).sum((0, 1, 2))])))
    y = layers.batch_norm(tf.constant(to_layout(mine, data_format), tf.float32), 'bn', style, unbiased=unbiased)
    mean, variance = updated_averages(sess, mine)
    np.testing.assert_allclose(mean, 0.1 * everything.mean((0, 1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * factor * everything.var((0, 1, 2, 3)), rtol=1e-4)
    want = (mine - everything.mean((0, 1, 2, 3))) / np.sqrt(everything.var((0, 1, 2, 3)) + 1e-5)
    np.testing.assert_allclose(to_nhwc(sess.run(y), data_format), want, atol=1e-5 * offset)


# Gradients of images by phases

@pytest.mark.parametrize('kernel, stride, around, size', [
    (7, 2, 3, (16, 18)), (7, 2, 3, (15, 9)), (3, 2, None, (16, 17)), (3, 2, None, (5, 4)), (5, 3, None, (11, 13)),
    (4, 4, None, (9, 16)), (1, 2, None, (6, 7)), (3, 2, 1, (8, 7)), (2, 3, None, (10, 9))])
def test_a_strided_convolutions_gradient_of_an_image_is_tensorflows(sess, kernel, stride, around, size):
    x, weights = normal(2, *size, 3, seed=0), normal(kernel, kernel, 3, 6, seed=1)

    def value_and_gradient(dtype, frozen):
        image = tf.constant(x, dtype)
        y = layers.conv2d(image, tf.constant(weights, dtype), stride, replace(STYLE, training=False, frozen=frozen),
                          around)
        dy = tf.constant(normal(*y.shape.as_list(), seed=2), dtype)
        return y, tf.gradients(y, image, dy)[0]
    want = value_and_gradient(tf.float64, None)
    got = value_and_gradient(tf.float32, layers.Frozen())
    types = {op.type for op in got[1].graph.get_operations()}
    assert 'DepthToSpace' in types
    assert got[1].shape.as_list() == want[1].shape.as_list()
    for ours, theirs in zip(sess.run(got), sess.run(want)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


# Depthwise convolution

def depthwise_with_gradients(x, kernel, stride, dy_of):
    """Each channel of NHWC ``x`` with its own kernel [k, k, C], zeros around, more of them at the end (TensorFlow's
    SAME); and the gradients of sum(y * dy) for dy = dy_of(shape of y)."""
    k, size = len(kernel), x.shape[1]
    side = -(-size // stride)
    total = max((side - 1) * stride + k - size, 0)
    padded = np.pad(x, [(0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)])
    y = np.zeros((len(x), side, side, x.shape[3]))
    dy, dx, dk = dy_of(y.shape), np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(k, k):
        window = np.s_[:, i:i + side * stride:stride, j:j + side * stride:stride]
        y += padded[window] * kernel[i, j]
        dx[window] += dy * kernel[i, j]
        dk[i, j] = (padded[window] * dy).sum((0, 1, 2))
    inside = slice(total // 2, total // 2 + size)
    return y, dx[:, inside, inside], dk


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('size, kernel, stride', [
    (6, 3, 1), (6, 3, 2), (7, 3, 2), (8, 5, 1), (8, 5, 2), (7, 5, 2), (1, 5, 2)])
def test_depthwise_convolution_and_its_gradients_are_those_of_each_channel_alone(sess, data_format, size, kernel,
                                                                                 stride):
    x, weights = normal(2, size, size, 4), normal(kernel, kernel, 4, seed=1)
    want, want_dx, want_dk = depthwise_with_gradients(x, weights, stride, lambda shape: normal(*shape, seed=2))
    inputs, kernels = tf.constant(to_layout(x, data_format), tf.float32), tf.constant(weights[..., None], tf.float32)
    y = layers.depthwise_conv2d(inputs, kernels, stride, replace(STYLE, data_format=data_format))
    dy = tf.constant(to_layout(normal(*want.shape, seed=2), data_format), tf.float32)
    got, (dx, dk) = sess.run([y, tf.gradients(y, [inputs, kernels], grad_ys=dy)])
    np.testing.assert_allclose(to_nhwc(got, data_format), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_nhwc(dx, data_format), want_dx, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dk[..., 0], want_dk, rtol=1e-5, atol=1e-5)


# Recomputed blocks

EFFICIENT_BLOCK = Block(kernel=3, stride=1, expand=6, channels_in=8, channels=8)


def efficient_blocks(x, recompute, activation='silu'):
    """Two inverted residual blocks, of which drop connect leaves out some images."""
    style = network.Style('NHWC', True, activation, recompute=recompute, noise_seed=tf.constant([3, 5], tf.int64))
    for layer in range(2):
        with tf.variable_scope('blocks_{}'.format(layer)):
            x = layers.block(functools.partial(network.mbconv, block=EFFICIENT_BLOCK, style=style, layer=layer,
                                               survival_prob=0.6), x, style)
    return x


def residual_blocks(x, recompute, activation='smoothrelu'):
    """Two bottleneck blocks, the first with a convolution as its shortcut."""
    style = resnet_model.Style('NHWC', True, activation, recompute=recompute)
    x = x, x
    for number, stride in enumerate((2, 1)):
        with tf.variable_scope('block{}'.format(number)):
            x = layers.block(functools.partial(resnet_model.bottleneck, width=4, stride=stride, style=style,
                                               inner_width=4, group=1), x, style)
    return tf.add(*x)


# Convolutions, depthwise ones and squeeze and excitation's included, in both blocks and in the first.
KINDS = {'EfficientNet': (efficient_blocks, 10, 5), 'ResNet': (residual_blocks, 7, 4)}
X = normal(6, 6, 6, 8).astype(np.float32)


def set_variables(sess):
    """Values that let every variable matter: a fresh bottleneck ends in a gamma of 0."""
    for number, variable in enumerate(tf.global_variables()):
        value = 0.3 * normal(*variable.shape.as_list(), seed=number)
        positive = variable.op.name.endswith(('gamma', 'variance', 'variance/EMA', 'smoothrelu_beta'))
        variable.load(1 + np.abs(value) if positive else value, sess)


def first_and_second_pass(build, recompute, slope=None):
    """(loss, gradients by x and all variables, averages after the updates, number of update ops) of ``build``'s blocks.

    The gradients are built behind the context of the slope, as a trainer does.
    """
    with tf.Graph().as_default(), tf.Session() as sess:
        x = tf.constant(X)
        with backward_slope(slope):
            y = build(x, recompute)
        loss = tf.reduce_sum(tf.square(y) * tf.constant(normal(*y.shape.as_list(), seed=9), tf.float32))
        gradients = tf.gradients(loss, [x] + tf.trainable_variables())
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        set_variables(sess)
        results = sess.run([loss, gradients])
        sess.run(updates)
        return results + [sess.run(tf.global_variables()), len(updates)]


@pytest.mark.parametrize('kind', KINDS)
def test_recomputed_blocks_have_the_same_loss_gradients_and_updates(kind):
    build, *_ = KINDS[kind]
    loss, gradients, averages, updates = first_and_second_pass(build, recompute=False)
    again_loss, again_gradients, again_averages, again_updates = first_and_second_pass(build, recompute=True)
    assert again_loss == loss and again_updates == updates > 0
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    for got, want in zip(again_gradients, gradients):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(np.abs(gradients[0]).max(), np.abs(want).max()))
    for got, want in zip(again_averages, averages):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('kind', KINDS)
def test_a_chosen_slope_holds_in_the_second_pass_though_its_context_has_been_left(kind):
    build = functools.partial(KINDS[kind][0], activation='relu')
    _, gradients, _, _ = first_and_second_pass(build, recompute=False, slope='softplus')
    _, again_gradients, _, _ = first_and_second_pass(build, recompute=True, slope='softplus')
    _, own_gradients, _, _ = first_and_second_pass(build, recompute=True)
    scale = np.abs(gradients[0]).max()
    np.testing.assert_allclose(again_gradients[0], gradients[0], rtol=0, atol=1e-5 * scale)
    assert np.abs(own_gradients[0] - gradients[0]).max() > 0.1 * scale


def test_a_slope_chosen_where_the_gradients_are_built_does_not_reach_the_second_pass():
    def gradient(slope):
        with tf.Graph().as_default(), tf.Session() as sess:
            x = tf.constant(X)
            y = layers.block(lambda x: activate(x, 'relu'), x, replace(STYLE, recompute=True))
            with backward_slope(slope):
                return sess.run(tf.gradients(y, x)[0])
    np.testing.assert_array_equal(gradient('softplus'), gradient(None))


def convolutions_left(sess, fetches):
    """How many convolutions a run executes after TensorFlow's own rewriting of the graph, which merges equal ones."""
    metadata = tf.RunMetadata()
    sess.run(fetches, options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
    types = [node.op for part in metadata.partition_graphs for node in part.node]
    return sum(re.search('(Conv2D|DepthwiseConv2dNative)$', type_) is not None for type_ in types)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('recompute', [False, True])
def test_the_gradient_of_a_recomputed_block_runs_every_convolution_a_second_time(sess, kind, recompute):
    build, convolutions, _ = KINDS[kind]
    x = tf.constant(X)
    y = build(x, recompute)
    gradients = tf.gradients(y, [x] + tf.trainable_variables())
    sess.run(tf.global_variables_initializer())
    assert convolutions_left(sess, [y, gradients]) == convolutions * (1 + recompute)


def behind(tensors):
    """Operations that depend on ``tensors`` by data."""
    found, todo = set(), list(tensors)
    while todo:
        for op in todo.pop().consumers():
            if op not in found:
                found.add(op)
                todo += op.outputs
    return found


def needed_for(tensors):
    """Operations that ``tensors`` depend on in any way."""
    found, todo = set(), [t.op for t in tensors]
    while todo:
        op = todo.pop()
        if op not in found:
            found.add(op)
            todo += [t.op for t in op.inputs] + op.control_inputs
    return found


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('recompute', [False, True])
def test_of_a_recomputed_block_the_gradient_takes_the_input_alone(graph, monkeypatch, kind, recompute):
    inputs, block = [], layers.block
    monkeypatch.setattr(layers, 'block', lambda function, x, style: inputs.append(x) or block(function, x, style))
    x = tf.placeholder(tf.float32, X.shape)
    y = KINDS[kind][0](x, recompute)
    first_pass, before = behind([x]), graph.get_operations()
    gradients = tf.gradients(y, [x] + tf.trainable_variables(), grad_ys=tf.placeholder(tf.float32, y.shape))
    second_pass = needed_for(gradients) - set(before)
    taken = {t for op in second_pass for t in op.inputs if t.op in first_pass} - set(tf.nest.flatten(inputs))
    assert len(inputs) == 2 and tf.nest.flatten(inputs)[0] is x
    assert bool(taken) != recompute, taken


def waiting_for(first):
    """Operations that cannot run before ``first`` has."""
    successors = {}
    for op in first.graph.get_operations():
        for source in [t.op for t in op.inputs] + op.control_inputs:
            successors.setdefault(source, []).append(op)
    found, todo = set(), [first]
    while todo:
        for op in successors.get(todo.pop(), []):
            if op not in found:
                found.add(op)
                todo.append(op)
    return found


@pytest.mark.parametrize('kind', KINDS)
def test_a_block_is_recomputed_only_when_the_gradient_has_come_down_to_it(graph, kind):
    build, convolutions, of_first_block = KINDS[kind]
    x = tf.placeholder(tf.float32, X.shape)
    y = build(x, recompute=True)
    before = set(graph.get_operations())
    dy = tf.placeholder(tf.float32, y.shape)
    tf.gradients(y, [x] + tf.trainable_variables(), grad_ys=dy)
    again = [op for op in graph.get_operations() if op not in before and op.type in ('Conv2D', 'DepthwiseConv2dNative')]
    assert len(again) == convolutions
    second_block, first_block = again[:-of_first_block], again[-of_first_block:]
    assert set(again) <= waiting_for(dy.op)
    assert all(set(first_block) <= waiting_for(op) for op in second_block)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('slope', [pytest.param(None, marks=pytest.mark.slow), 'softplus'])
def test_an_attack_through_recomputed_blocks_is_the_same(kind, slope):
    def attack(recompute):
        with tf.Graph().as_default(), tf.Session() as sess:
            def get_logits(image):
                with tf.variable_scope('', reuse=tf.AUTO_REUSE):
                    x = tf.pad(image, [[0, 0], [0, 0], [0, 0], [0, 5]])
                    return tf.reduce_mean(KINDS[kind][0](x, recompute, 'relu'), [1, 2])
            image = tf.constant(np.clip(0.5 * X[..., :3], -1, 1))
            attacker = PGDAttacker(3, 8.0, 3.0, random_start=False)
            with backward_slope(slope):
                adv, *_ = attacker.attack(image, np.arange(6, dtype=np.int32), get_logits)
            set_variables(sess)
            return sess.run([image, adv])
    image, adv = attack(recompute=False)
    _, again = attack(recompute=True)
    assert np.abs(adv - image).max() > 7.9 * PIXEL
    np.testing.assert_array_equal(again, adv)


def test_variables_that_two_recomputed_blocks_share_get_the_gradient_of_each_once():
    """As they would if an attack's gradient were not cut off: the block's input depends on its variables, too."""
    def gradients(recompute):
        with tf.Graph().as_default(), tf.Session() as sess:
            y = tf.constant(X)
            style = resnet_model.Style('NHWC', True, 'silu', recompute=recompute)
            with tf.variable_scope('', reuse=tf.AUTO_REUSE):
                for _ in range(2):
                    y = layers.block(functools.partial(resnet_model.conv_bn, name='conv', channels=8, kernel=3,
                                                       style=style, act=True), y, style)
            loss = tf.reduce_sum(y * tf.constant(normal(*X.shape, seed=9), tf.float32))
            found = tf.gradients(loss, tf.trainable_variables())
            set_variables(sess)
            return sess.run(found)
    for got, want in zip(gradients(recompute=True), gradients(recompute=False)):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_block_without_variables_can_be_recomputed(sess):
    x = tf.constant(X)
    y = layers.block(lambda x: x * tf.square(x), x, replace(STYLE, recompute=True))
    np.testing.assert_allclose(sess.run(tf.gradients(y, x)[0]), 3 * np.square(X.astype(np.float64)), rtol=1e-5)


def test_the_gradient_of_a_recomputed_block_leaves_the_update_ops_that_were_there(graph):
    y = efficient_blocks(tf.constant(X), recompute=True)
    before = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    tf.gradients(y, tf.trainable_variables())
    assert tf.get_collection(tf.GraphKeys.UPDATE_OPS) == before and len(before) == 12
