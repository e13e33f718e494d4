"""A training pass in 16 bits, beside the same one in float32; its loss scale is test_loss_scale.py's."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

from networks import make_network
from test_accumulation import MODELS, Step
from test_frozen import OF_PATCHES, RESNETS, SIDE, SMALL, set_variables
from training.step.loss_scale import INITIAL
from weights.match import load_into

IMAGES = np.random.RandomState(0).randint(0, 256, [8, SIDE, SIDE, 3]).astype(np.uint8)
LABEL = np.arange(8, dtype=np.int32)
# Of the gradients' absolute values, which the difference to float32's is a part of.
NEAR = {'bfloat16': 0.12, 'float16': 0.03}
CIFAR = RESNETS['Cifar']
KINDS = {**RESNETS, **OF_PATCHES, 'another slope': [*CIFAR, '--activation-name', 'relu', '--update-gradient', 'silu'],
         'in parts': [*CIFAR, '--accumulate', '2'], 'statistics of ranks': [*CIFAR, '--sync-batch-norm'],
         'EfficientNet': []}
FAST = 'Cifar', 'EfficientNet'
# TensorFlow has no gradient of float16 convolutions in groups on a CPU.
IN_GROUPS = 'ResNeXt', 'DenoiseAll'


@pytest.fixture
def make(monkeypatch, few_blocks):
    """function(kind, flags) -> a network of ``KINDS`` with one block in each group, trained without decay."""
    monkeypatch.setattr('resnet_model.IMAGENET_BLOCKS', {50: (1, 1, 1, 1)})

    def made(kind, *flags):
        model = make_network(*(few_blocks if kind == 'EfficientNet' else KINDS[kind]), *SMALL, '--data-format', 'NHWC',
                             *flags)
        model.weight_decay, model.accumulate = 0.0, 2 if kind == 'in parts' else 1
        model.update_gradient = 'silu' if kind == 'another slope' else None
        return model
    return made


class Pass:
    """A training pass of ``model`` in the current graph, which shares its variables with the others there."""

    def __init__(self, model, precision):
        model.update_precision = precision
        updates = tf.get_collection_ref(tf.GraphKeys.UPDATE_OPS)
        before = len(updates)
        with TowerContext('', is_training=True):
            cost = model.build_graph(tf.constant(IMAGES), tf.constant(LABEL))
        self.variables = tf.trainable_variables()
        scale = INITIAL if precision == 'float16' else 1
        self.fetches = [cost, [g / scale for g in tf.gradients(cost, self.variables)], updates[before:]]

    def run(self, sess):
        """(cost, gradients by the variables' names, moving averages after the step); variables stay as they were."""
        variables = tf.global_variables()
        values = sess.run(variables)
        cost, gradients, _ = sess.run(self.fetches)
        averages = dict(zip((v.op.name for v in variables), sess.run(variables)))
        load_into(sess, zip(variables, values))
        names = [v.op.name for v in self.variables]
        return cost, dict(zip(names, gradients)), {n: v for n, v in averages.items() if n not in names}


def start(sess):
    sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    of_network = [v for v in tf.global_variables() if not v.op.name.startswith('loss_scale/')]
    set_variables(sess, of_network)
    for v in of_network:
        if 'denoise' in v.op.name and v.op.name.endswith('conv/bn/gamma'):
            # Softmax and products of positions enlarge what another precision changes; here they are a part of a block.
            v.load(0.1 * v.eval(sess), sess)


def of_each(a):
    return np.concatenate([np.ravel(value).astype(np.float64) for _, value in sorted(a.items())])


@pytest.mark.parametrize('kind', [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in FAST)) for kind in KINDS])
def test_gradients_and_statistics_are_near_those_of_float32_and_are_float32(sess, make, kind):
    model = make(kind)
    precisions = ['float32', 'bfloat16'] + ['float16'] * (kind not in IN_GROUPS)
    passes = [Pass(model, precision) for precision in precisions]
    assert {v.dtype.base_dtype for v in tf.global_variables() if v.dtype.is_floating} == {tf.float32}
    start(sess)
    (cost, want, averages), *found = [each.run(sess) for each in passes]
    largest = max(map(np.linalg.norm, want.values()))
    for precision, (low_cost, low, low_averages) in zip(precisions[1:], found):
        assert low_cost == pytest.approx(cost, rel=0.03)
        error = np.abs(of_each(low) - of_each(want)).sum() / np.abs(of_each(want)).sum()
        assert 1e-6 < error < NEAR[precision], error  # it is another precision
        for name, gradient in want.items():
            assert low[name].dtype == np.float32
            size = np.linalg.norm(gradient)
            if size > 0.02 * largest:  # less is what is left of sums that cancel each other
                cosine = np.vdot(low[name], gradient) / size / np.linalg.norm(low[name])
                assert cosine > 0.98, (precision, name, cosine)
        for name, value in averages.items():
            np.testing.assert_allclose(low_averages[name], value, rtol=0, atol=0.02 * max(1, np.abs(value).max()),
                                       err_msg=name)


@pytest.mark.parametrize('kind', ['Cifar', pytest.param('EfficientNet', marks=pytest.mark.slow),
                                  pytest.param('ConvNeXt', marks=pytest.mark.slow)])
def test_recomputed_blocks_give_the_same_gradients(sess, make, kind):
    passes = [Pass(make(kind, *flags), precision) for precision in NEAR for flags in ([], ['--recompute'])]
    start(sess)
    found = [each.run(sess) for each in passes]
    for (_, kept, averages), (_, again, averages_again) in zip(found[::2], found[1::2]):
        np.testing.assert_allclose(of_each(again), of_each(kept), rtol=0, atol=1e-5 * np.abs(of_each(kept)).max())
        np.testing.assert_allclose(of_each(averages_again), of_each(averages), rtol=1e-6)


@pytest.mark.parametrize('precision', NEAR)
def test_a_step_in_parts_is_the_mean_of_the_parts(precision):
    whole, single = (Step(MODELS['ResNet, recomputed'](None), accumulate=parts, update_precision=precision,
                          weight_decay=0.01) for parts in (2, 1))
    got, of_parts = whole.run(0)['gradients'], [single.run(0, slice(k, k + 3))['gradients'] for k in (0, 3)]
    for name, gradient, *parts in zip(whole.variables, got, *of_parts):
        want = np.mean(parts, axis=0)
        np.testing.assert_allclose(gradient, want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize('precision', NEAR)
def test_what_is_frozen_has_no_gradient_and_keeps_its_statistics(sess, make, precision):
    model = make('Cifar')
    frozen = {'group0/block0/conv1/' + name for name in ('W', 'bn/gamma', 'bn/beta')}
    model.untrained = frozenset(frozen)
    low, full = Pass(model, precision), Pass(model, 'float32')
    start(sess)
    before = {v.op.name: v.eval(sess) for v in tf.global_variables() if '/conv1/bn/' in v.op.name}
    (_, got, averages), (_, want, _) = low.run(sess), full.run(sess)
    assert not frozen & set(got) and len(got) == 20
    assert np.abs(of_each(got) - of_each(want)).sum() < NEAR[precision] * np.abs(of_each(want)).sum()
    kept = [name for name in averages if np.array_equal(averages[name], before.get(name))]
    assert {name for name in kept if name.startswith('group0/')} == frozen - {'group0/block0/conv1/W'} | {
        'group0/block0/conv1/bn/{}/EMA'.format(name) for name in ('mean', 'variance')}


def types_of(graph):
    return {output.dtype.base_dtype for op in graph.get_operations() for output in op.outputs}


@pytest.mark.parametrize('precision', NEAR)
def test_all_but_the_pass_whose_gradient_is_taken_stays_float32(graph, make, precision):
    model = make('Cifar')
    model.update_precision = precision
    with TowerContext('', is_training=False):
        model.build_graph(tf.constant(IMAGES), tf.constant(LABEL))
        model.get_inference_func(model.attacker)(tf.constant(IMAGES), tf.constant(LABEL))
    assert not types_of(graph) & {tf.bfloat16, tf.float16}
    assert not [v for v in tf.global_variables() if v.op.name.startswith('loss_scale')]


@pytest.mark.parametrize('kind', ['Cifar', pytest.param('EfficientNet', marks=pytest.mark.slow)])
def test_nchw_has_the_same_pass(graph, make, kind):
    """A CPU has no gradient of its convolutions, so it is built and not run."""
    model = make(kind, '--data-format', 'NCHW')
    model.update_precision = 'bfloat16'
    with TowerContext('', is_training=True):
        cost = model.build_graph(tf.constant(IMAGES), tf.constant(LABEL))
    gradients = tf.gradients(cost, tf.trainable_variables())
    assert {g.dtype for g in gradients} == {tf.float32}
    convolutions = [op for op in graph.get_operations() if op.type.startswith('Conv2DBackprop')]
    assert {op.outputs[0].dtype for op in convolutions} == {tf.bfloat16}
