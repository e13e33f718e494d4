"""A network as attacks see it: affine maps folded, made once outside of the loop, in another precision, by XLA."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

from adv_model import PRECISIONS
from attacks.attacker import Attacked
from attacks.pgd import MomentumAttacker, PGDAttacker
from layouts import normal, to_layout, to_nhwc
from machine import devices, processors
from networks import make_network

SIDE, COUNT = 16, 6
IMAGES = np.random.RandomState(0).uniform(-1, 1, [COUNT, SIDE, SIDE, 3])
LABEL = np.arange(COUNT, dtype=np.int32)
SMALL = ['--input-size', str(SIDE), '--num-classes', '10']
RESNETS = {'ResNet': ['--arch', 'ResNet', '-d', '50'],
           'ResNeXt': ['--arch', 'ResNet', '-d', '50', '--group', '32', '--res2-bottleneck', '4'],
           'Denoise': ['--arch', 'ResNetDenoise', '-d', '50'],
           'DenoiseAll': ['--arch', 'ResNeXtDenoiseAll', '-d', '50'],
           'Cifar': ['--arch', 'CifarResNet', '-d', '8'], 'CifarWide': ['--arch', 'CifarResNet', '-d', '18'],
           'recomputed': ['--arch', 'CifarResNet', '-d', '8', '--recompute'],
           'SmoothReLU': ['--arch', 'CifarResNet', '-d', '8', '--activation-name', 'smoothrelu']}
OF_PATCHES = {
    'ConvNeXt': ['--arch', 'ConvNeXt', '--model-name', 'convnext-t-cvst', '--blocks', '1,1', '--widths', '16,24',
                 '--patch-size', '2'],
    'ConvNeXt iso': ['--arch', 'ConvNeXt', '--model-name', 'convnext-iso', '--blocks', '2', '--widths', '24',
                     '--patch-size', '4', '--recompute', '--input-scaling', 'imagenet'],
    'ViT': ['--arch', 'ViT', '--model-name', 'vit-m-cvst', '--blocks', '2', '--widths', '32', '--heads', '4',
            '--patch-size', '4', '--input-scaling', 'imagenet'],
    'ViT plain': ['--arch', 'ViT', '--blocks', '1', '--widths', '24', '--heads', '3', '--patch-size', '4',
                  '--activation-name', 'smoothrelu', '--recompute']}


SLOW = ('ResNeXt', 'Denoise', 'DenoiseAll', 'CifarWide', 'EfficientNet recomputed')


@pytest.fixture(params=[pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in
                        (*RESNETS, *OF_PATCHES, 'EfficientNet', 'EfficientNet recomputed')])
def flags(request, monkeypatch, few_blocks):
    """Of each kind of network, with one block in each group."""
    monkeypatch.setattr('resnet_model.IMAGENET_BLOCKS', {50: (1, 1, 1, 1)})
    for kinds in RESNETS, OF_PATCHES:
        if request.param in kinds:
            return kinds[request.param] + SMALL
    return few_blocks + ['--recompute'] * request.param.endswith('recomputed') + SMALL


class Watched:
    """An attacker that keeps what ``get_logits`` gives it in a loop of one step, and its gradient."""

    def attack(self, image, label, get_logits, seeds, lengths):
        def body(*_):
            logits = get_logits(image)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=label))
            return [logits] + tf.gradients(loss, image)
        self.logits, self.gradient = tf.while_loop(
            lambda *_: True, body, [tf.zeros([COUNT, 10]), tf.zeros_like(image)], maximum_iterations=1,
            back_prop=False, return_same_structure=True)
        return Attacked(image, label, None)


def plain(model, image):
    """Logits and the loss's gradient of the network by itself."""
    with TowerContext('', is_training=False):
        logits = model.get_logits(image)
    loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=LABEL))
    return logits, tf.gradients(loss, image)[0]


def watched(model, image, precision='float32', slope=None):
    """Logits and the gradient as an attack has them."""
    attacker = Watched()
    with TowerContext('', is_training=False):
        model.attack(attacker, image, tf.constant(LABEL), None, slope, precision)
    return attacker.logits, attacker.gradient


def set_variables(sess, variables=None):
    """Of a network that has been trained: every factor, offset and moving average matters."""
    for number, v in enumerate(variables or tf.global_variables()):
        value, kind = normal(*v.shape.as_list(), seed=number), v.op.name.rpartition('/')[2]
        if v.op.name.endswith(('variance/EMA', 'moving_variance')):
            value = 0.5 + np.abs(value)
        elif 'non_local' in v.op.name or 'embedding' in v.op.name:
            value *= 0.05  # else the dot products of large features explode, and softmax knows only one of them
        elif kind in ('gamma', 'smoothrelu_beta') or (kind == 'weight' and value.ndim == 1):
            value = 1 + 0.3 * value
        elif value.ndim > 1:
            value /= np.sqrt(np.prod(value.shape[:-1]))
        else:
            value *= 0.1
        v.load(value, sess)


@pytest.mark.parametrize('data_format', ['NHWC', pytest.param('NCHW', marks=pytest.mark.slow)])
def test_folded_norms_and_scales_give_the_same_logits_and_gradients(sess, flags, data_format):
    model = make_network(*flags, '--data-format', data_format)
    image = tf.constant(to_layout(IMAGES, data_format), tf.float32)
    graphs = [plain(model, image)]
    names = {v.name for v in tf.global_variables()}
    graphs.append(watched(model, image))
    assert {v.name for v in tf.global_variables()} == names
    set_variables(sess)
    (logits, gradient), (folded_logits, folded_gradient) = sess.run(graphs)
    assert logits.std() > 0.05
    np.testing.assert_allclose(folded_logits, logits, rtol=0, atol=1e-4 * np.abs(logits).max())
    gradient, folded_gradient = (to_nhwc(g, data_format) for g in (gradient, folded_gradient))
    np.testing.assert_allclose(folded_gradient, gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())


def variable_of(read):
    """Name of the variable that an op reads, through the doors of loops."""
    source = read.inputs[0].op
    while source.type in ('Enter', 'Switch', 'Merge', 'Identity'):
        source = source.inputs[0].op
    return source.name


def test_weights_are_folded_outside_of_the_loop_and_once(graph, flags):
    """Nothing in the loop reads a variable, and each weight is read and scaled once though the attack calls twice."""
    model = make_network(*flags, '--data-format', 'NHWC')
    image = tf.constant(IMAGES, tf.float32)
    attacker = PGDAttacker(2, 8.0, 4.0, targeted=True, least_likely=True, num_classes=10)
    with TowerContext('', is_training=False):
        model.attack(attacker, image, tf.constant(LABEL), None)
    reads = [op for op in graph.get_operations() if op.type == 'ReadVariableOp' and op.outputs[0].consumers()]
    inside, outside = ([op for op in reads if (op._get_control_flow_context() is None) != within]
                       for within in (True, False))
    # The classifier's and SmoothReLU's few numbers may be read again and again.
    assert [name for name in map(variable_of, inside)
            if not name.endswith(('linear/W', 'linear/b', 'dense/kernel', 'dense/bias', 'smoothrelu_beta'))] == []
    scaled = [name for name in map(variable_of, (op for op in outside if 'Mul' in {
        consumer.type for consumer in op.outputs[0].consumers()})) if name.endswith(('/W', 'kernel', '/weight'))]
    assert len(scaled) == len(set(scaled)) > 3
    assert not [op for op in graph.get_operations() if op.type.startswith('FusedBatchNorm')]


@pytest.mark.parametrize('precision, tolerance, denoising', [
    ('bfloat16', 0.05, 0.15), pytest.param('float16', 0.01, 0.1, marks=pytest.mark.slow)])
def test_lower_precisions_give_about_the_same_logits_and_gradients(sess, flags, precision, tolerance, denoising):
    """``denoising``: of gradients through a softmax of dot products, which enlarges what another precision changes: in
    float16 to 0.022 to 0.078, depending on the images, with TensorFlow 2.15 and 2.21 alike."""
    if precision == 'float16' and ('--group' in flags or 'ResNeXtDenoiseAll' in flags):
        pytest.skip('TensorFlow has no gradient of float16 convolutions in groups on a CPU')
    model = make_network(*flags, '--data-format', 'NHWC')
    image = tf.constant(IMAGES, tf.float32)
    graphs = [plain(model, image), watched(model, image, precision)]
    set_variables(sess)
    (logits, gradient), (low_logits, low_gradient) = sess.run(graphs)
    assert low_logits.dtype == low_gradient.dtype == np.float32
    for got, want, most in ((low_logits, logits, tolerance),
                            (low_gradient, gradient, denoising if 'ResNetDenoise' in flags else tolerance)):
        error = np.abs(got - want).mean() / np.abs(want).mean()
        assert 1e-6 < error < most, error  # it is another precision


def test_float16_keeps_gradients_that_are_small_in_it(sess):
    """The loss's scale of 128 lifts gradients that float16 has a few bits for, or none."""
    model = make_network('--arch', 'CifarResNet', '-d', '8', '--data-format', 'NHWC', *SMALL)
    image = tf.constant(IMAGES, tf.float32)
    graphs = [plain(model, image), watched(model, image, 'float16')]
    set_variables(sess)
    weights, = (v for v in tf.global_variables() if v.op.name == 'linear/W')
    weights.load(sess.run(weights) * 3e-5, sess)
    (_, gradient), (_, low_gradient) = sess.run(graphs)
    assert 0 < np.abs(gradient).max() < 1e-5
    assert np.mean(np.sign(gradient) == np.sign(low_gradient)) > 0.9


@pytest.mark.parametrize('make, precision', [
    pytest.param(make, precision, marks=[pytest.mark.slow] * (make is MomentumAttacker or precision == 'float16'))
    for make in (PGDAttacker, MomentumAttacker) for precision in PRECISIONS])
def test_xla_takes_the_same_steps(sess, make, precision):
    model = make_network('--arch', 'CifarResNet', '-d', '8', '--data-format', 'NHWC', *SMALL)
    image, label = tf.constant(IMAGES, tf.float32), tf.constant(LABEL)
    with TowerContext('', is_training=False):
        advs = [model.attack(make(3, 8.0, 3.0, num_classes=10, xla=xla), image, label, None, precision=precision)[0]
                for xla in (False, True)]
    set_variables(sess)
    without, compiled = sess.run(advs)
    assert np.abs(without - IMAGES).max() > 0.05
    # A gradient near 0 may change its sign where the order of a sum is another.
    assert np.mean(np.abs(without - compiled) < 1e-5) > (0.999 if precision == 'float32' else 0.97)


def test_xla_compiles_the_step(graph):
    model = make_network('--arch', 'CifarResNet', '-d', '8', '--data-format', 'NHWC', *SMALL)
    with TowerContext('', is_training=False):
        model.attack(PGDAttacker(3, 8.0, 3.0, xla=True), tf.constant(IMAGES, tf.float32), tf.constant(LABEL), None)
    types = {op.type for op in graph.get_operations()}
    convolutions = [op for op in graph.get_operations() if op.type.startswith('Conv2D')]
    assert convolutions and all('_XlaHasReferenceVars' in op.node_def.attr or '_xla_compile_id' in op.node_def.attr
                                for op in convolutions)
    assert not [name for name in types if name.startswith('Smooth')]


@pytest.mark.parametrize('line, gpus, precision', [
    ('flags\t\t: fpu amx_bf16 avx2\n', [], 'bfloat16'), ('flags\t\t: fpu avx512_bf16 avx2\n', [], 'bfloat16'),
    ('flags\t\t: fpu avx512f\n', [], 'float32'), ('flags\t\t: fpu amx_bf16\n', ['a GPU'], 'float32'),
    ('Features\t: asimd\n', [], 'float32')])
def test_the_fastest_precisions_are_bfloat16_where_a_cpu_computes_in_it(tmp_path, monkeypatch, line, gpus,
                                                                               precision):
    info = tmp_path / 'cpuinfo'
    info.write_text('processor\t: 0\n' + line)
    monkeypatch.setattr(processors, 'CPU_INFO', str(info))
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: gpus)
    assert devices.fastest_precisions() == (precision, precision)
