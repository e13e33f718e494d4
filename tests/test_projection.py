"""Activations in front of a product, which are computed a second time for the gradient of the weights: against NumPy in
float64, and that none of them is kept."""
import math

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import layers
from layers import affine
from layouts import normal, to_layout, to_nhwc
from networks import make_network
from smooth_activations import activate, backward_slope

FROM_PATCHES = {
    'ViT': ['--arch', 'ViT', '--blocks', '2', '--widths', '24', '--heads', '3', '--patch-size', '4'],
    'ConvNeXt': ['--arch', 'ConvNeXt', '--model-name', 'convnext-t', '--blocks', '1,1', '--widths', '16,24',
                 '--patch-size', '2']}


def projected(x, style, activation):
    return affine.dense(x, 'fc2', 5, style, activation=lambda y: activate(y, activation))


def normal_cdf(x):
    return 0.5 * np.vectorize(math.erfc)(-x * math.sqrt(0.5))


@pytest.mark.parametrize('data_format', ['NHWC', 'NCHW'])
@pytest.mark.parametrize('slope', [None, 'parametric_softplus'])
def test_values_and_gradients_are_numpys(sess, data_format, slope):
    h, dy = normal(2, 3, 3, 8), normal(2, 3, 3, 5, seed=1)
    style = layers.Style(data_format, True, 'gelu_erf')
    x = tf.constant(np.float32(to_layout(h, data_format)))
    with backward_slope(slope):
        y = projected(x, style, 'gelu_erf')
        weights, bias = tf.trainable_variables()
        found = tf.gradients(y, [x, weights, bias], tf.constant(np.float32(to_layout(dy, data_format))))
    w, b = normal(8, 5, seed=2), normal(5, seed=3)
    weights.load(w, sess), bias.load(b, sess)
    y, (dx, dw, db) = sess.run([y, found])

    a = h * normal_cdf(h)
    derivative = (1 / (1 + np.exp(-10 * h)) if slope else
                  normal_cdf(h) + h * np.exp(-h * h / 2) / math.sqrt(2 * math.pi))
    for got, want in ((to_nhwc(y, data_format), a @ w + b), (to_nhwc(dx, data_format), dy @ w.T * derivative),
                      (dw, a.reshape(-1, 8).T @ dy.reshape(-1, 5)), (db, dy.sum((0, 1, 2)))):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_learnable_activation_has_its_gradient(sess):
    """SmoothReLU's b: by central differences of the sum of the results."""
    style = layers.Style('NHWC', True, 'smoothrelu')
    x = tf.constant(np.float32(0.1 * normal(7, 8)))
    with tf.variable_scope('net'):
        total = tf.reduce_sum(projected(x, style, 'smoothrelu') * tf.constant(normal(7, 5, seed=1), tf.float32))
    b, = (v for v in tf.trainable_variables() if 'smoothrelu' in v.op.name)
    gradient, = tf.gradients(total, b)
    sess.run(tf.global_variables_initializer())
    value, got = sess.run([b, gradient])

    def at(change):
        b.load(value + change, sess)
        return sess.run(total)
    assert got.item() == pytest.approx((at(0.5) - at(-0.5)).item(), rel=0.02) and got.item() != 0


def users(result):
    """The ops that read the numbers of a tensor, in whatever shape."""
    for op in result.consumers():
        if op.type in ('Reshape', 'Identity', 'IdentityN'):
            yield from users(op.outputs[0])
        elif op.type != 'Shape':
            yield op


def kept(graph):
    """Results of activations that are made before there is a gradient, and read by what comes when there is one."""
    made = [op for op in graph.get_operations() if 'act' in op.name and op.type in ('SmoothActivation', 'Relu')]
    forward = [op for op in made if not op.name.startswith('gradients')]
    assert forward
    return [op.name for op in forward for user in users(op.outputs[0]) if user.name.startswith('gradients')]


@pytest.mark.parametrize('kind', list(FROM_PATCHES))
def test_no_activation_waits_for_the_backward_pass(kind):
    flags = FROM_PATCHES[kind] + ['--input-size', '16', '--num-classes', '10', '--data-format', 'NHWC']
    model = make_network(*flags)
    with tf.Graph().as_default() as graph:
        with TowerContext('', is_training=True):
            logits = model.get_logits(tf.zeros([2, 16, 16, 3]))
        found = tf.gradients(logits, tf.trainable_variables())
        assert all(gradient is not None for gradient in found)
        assert not kept(graph)
        again = [op for op in graph.get_operations() if op.type == 'SmoothActivation' and
                 op.name.startswith('gradients')]
        assert len(again) == 2 and all(any(each.name.startswith('gradients') for each in op.inputs[0].op.control_inputs)
                                       for op in again)  # each waits for the gradient of its product


def test_what_this_looks_for_is_there_without_it():
    with tf.Graph().as_default() as graph:
        x, style = tf.zeros([2, 8]), layers.Style('NHWC', True, 'silu')
        with tf.variable_scope('act'):
            y = affine.dense(activate(x, 'silu'), 'fc2', 5, style)
        tf.gradients(y, tf.trainable_variables())
        assert kept(graph)
