"""EfficientNet: its sizes against the papers and the release, its layers against NumPy, what it draws in training.

Whole networks, against the release's variables and logits, are in test_nets.py.
"""
import functools
from dataclasses import replace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.special import expit
from tensorpack.tfutils.tower import TowerContext

from attacks.pgd import NoOpAttacker, PGDAttacker
from attacks.threat import PIXEL
from efficientnet import network
from efficientnet.network import Style
from efficientnet.scaling import SIZES, Block, plan, scaled_channels
from layers import normalisation
from layers.scaling import INPUT_SCALINGS, scale_input
from layouts import LAYOUTS, normal, to_layout, to_nhwc
from networks import make_network

STYLE = Style('NHWC', False, 'silu')
TRAINING = replace(STYLE, training=True, survival_prob=1.0, dropout_rate=0.0)


def set_variables(sess):
    """Give every variable another value than its initial one; returns them, by name, in float64."""
    values = {}
    for number, variable in enumerate(tf.global_variables()):
        name, shape = variable.op.name, variable.shape.as_list()
        value = normal(*shape, seed=10 + number)
        if name.endswith('kernel'):
            value *= 1.4 / np.sqrt(np.prod(shape[:2] if 'depthwise' in name else shape[:-1]))
        elif name.endswith('moving_variance'):
            value = np.exp(0.3 * value)
        else:
            value = 0.1 * value + name.endswith('gamma')
        values[name] = value
    sess.run([v.initializer for v in tf.global_variables()], {
        v.initializer.inputs[1]: values[v.op.name] for v in tf.global_variables()})
    return values


# Sizes

# EN Table 1 and the release, for bL1 the SAT release: width, depth, input, dropout; stem, stages, head; repeats;
# parameters with 1000 classes, for b8 and l2 as others publish them, in millions.
BASE = (16, 24, 40, 80, 112, 192, 320)
PUBLISHED = {
    'b0': ((1.0, 1.0, 224, 0.2), 32, BASE, 1280, (1, 2, 2, 3, 3, 4, 1), 5288548),
    'b1': ((1.0, 1.1, 240, 0.2), 32, BASE, 1280, (2, 3, 3, 4, 4, 5, 2), 7794184),
    'b2': ((1.1, 1.2, 260, 0.3), 32, (16, 24, 48, 88, 120, 208, 352), 1408, (2, 3, 3, 4, 4, 5, 2), 9109994),
    'b3': ((1.2, 1.4, 300, 0.3), 40, (24, 32, 48, 96, 136, 232, 384), 1536, (2, 3, 3, 5, 5, 6, 2), 12233232),
    'b4': ((1.4, 1.8, 380, 0.4), 48, (24, 32, 56, 112, 160, 272, 448), 1792, (2, 4, 4, 6, 6, 8, 2), 19341616),
    'b5': ((1.6, 2.2, 456, 0.4), 48, (24, 40, 64, 128, 176, 304, 512), 2048, (3, 5, 5, 7, 7, 9, 3), 30389784),
    'b6': ((1.8, 2.6, 528, 0.5), 56, (32, 40, 72, 144, 200, 344, 576), 2304, (3, 6, 6, 8, 8, 11, 3), 43040704),
    'b7': ((2.0, 3.1, 600, 0.5), 64, (32, 48, 80, 160, 224, 384, 640), 2560, (4, 7, 7, 10, 10, 13, 4), 66347960),
    'b8': ((2.2, 3.6, 672, 0.5), 72, (32, 56, 88, 176, 248, 424, 704), 2816, (4, 8, 8, 11, 11, 15, 4), 87.41),
    'bL1': ((3.9, 3.7, 600, 0.5), 128, (64, 96, 160, 312, 440, 752, 1248), 4992, (4, 8, 8, 12, 12, 15, 4), 272630564),
    'l2': ((4.3, 5.3, 800, 0.5), 136, (72, 104, 176, 344, 480, 824, 1376), 5504, (6, 11, 11, 16, 16, 22, 6), 480.31)}
# EN Table 1.
KERNELS, STRIDES, EXPANSIONS = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)


def blocks_of(stem, channels, repeats):
    """(kernel, stride, expansion, channels in, channels) of every block, from a row of ``PUBLISHED``."""
    before = [stem] + [c for c, n in zip(channels, repeats) for _ in range(n)]
    rows = [(kernel, 1 if again else stride, expand, c)
            for kernel, stride, expand, c, n in zip(KERNELS, STRIDES, EXPANSIONS, channels, repeats)
            for again in range(n)]
    return [(kernel, stride, expand, c_in, c) for (kernel, stride, expand, c), c_in in zip(rows, before)]


@pytest.mark.parametrize('size', PUBLISHED)
def test_every_size_has_its_published_factors(size):
    assert SIZES['efficientnet-' + size] == PUBLISHED[size][0]


def test_there_are_no_other_sizes():
    assert list(SIZES) == ['efficientnet-' + size for size in PUBLISHED]


@pytest.mark.parametrize('size', PUBLISHED)
def test_every_size_has_its_published_channels_and_repeats(size):
    (width, depth, _, _), stem, channels, head, repeats, _ = PUBLISHED[size]
    planned = plan(width, depth)
    assert (planned.stem_channels, planned.head_channels) == (stem, head)
    assert list(planned.blocks) == blocks_of(stem, channels, repeats)


@pytest.mark.parametrize('size', PUBLISHED)
def test_every_size_has_its_published_number_of_trainable_parameters(size):
    (width, depth, _, _), *_, published = PUBLISHED[size]
    planned = plan(width, depth)
    count = 9 * 3 * planned.stem_channels + 2 * planned.stem_channels
    for kernel, _, expand, c_in, c in planned.blocks:
        inner = c_in * expand
        count += (c_in * inner + 2 * inner) * (expand > 1) + kernel ** 2 * inner + 2 * inner + inner * c + 2 * c
        count += 2 * inner * (c_in // 4) + c_in // 4 + inner
    last, head = planned.blocks[-1].channels, planned.head_channels
    count += last * head + 2 * head + (head + 1) * 1000
    assert published in (count, round(count / 1e6, 2))


# The release's rule: the nearest multiple of 8, but never less than 90% of what is wanted.
@pytest.mark.parametrize('channels, width, expected', [
    (32, 1.0, 32), (16, 0.25, 8), (12, 1.0, 16), (11, 1.0, 16), (20, 1.0, 24), (19, 1.0, 24), (18, 1.0, 24),
    (17, 1.0, 16), (83, 1.0, 80), (84, 1.0, 88), (1, 0.1, 8)])
def test_channels_are_rounded_to_multiples_of_eight_that_lose_at_most_a_tenth(channels, width, expected):
    assert scaled_channels(channels, width) == expected


# One block

BLOCK = Block(kernel=3, stride=1, expand=6, channels_in=8, channels=8)


@pytest.mark.parametrize('channels_in, hidden', [(3, 1), (7, 1), (8, 2), (23, 5), (112, 28)])
def test_squeeze_and_excitation_is_reduced_to_a_quarter_of_the_blocks_input_channels(graph, channels_in, hidden):
    network.squeeze_excite(tf.zeros([1, 2, 2, 6 * channels_in]), BLOCK._replace(channels_in=channels_in), STYLE)
    shapes = {v.op.name: v.shape.as_list() for v in tf.trainable_variables()}
    assert shapes == {'se/conv2d/kernel': [1, 1, 6 * channels_in, hidden], 'se/conv2d/bias': [hidden],
                      'se/conv2d_1/kernel': [1, 1, hidden, 6 * channels_in], 'se/conv2d_1/bias': [6 * channels_in]}


@pytest.mark.parametrize('data_format', LAYOUTS)
def test_squeeze_and_excitation_scales_each_channel_by_a_factor_of_the_means(sess, data_format):
    x = normal(2, 3, 4, 48)
    y = network.squeeze_excite(tf.constant(to_layout(x, data_format), tf.float32), BLOCK,
                               replace(STYLE, data_format=data_format))
    values = set_variables(sess)
    hidden = x.mean((1, 2)) @ values['se/conv2d/kernel'][0, 0] + values['se/conv2d/bias']
    gate = expit((hidden * expit(hidden)) @ values['se/conv2d_1/kernel'][0, 0] + values['se/conv2d_1/bias'])
    np.testing.assert_allclose(to_nhwc(sess.run(y), data_format), x * gate[:, None, None], rtol=1e-4, atol=1e-5)


def last_gamma():
    """Of the batch norm that ends a block in the current graph: 0 leaves nothing of the block but its skip."""
    return [v for v in tf.trainable_variables() if v.op.name.endswith('gamma')][-1]


@pytest.mark.parametrize('stride, channels', [(1, 8), (1, 16), (2, 8), (2, 16)])
def test_a_block_has_a_skip_only_if_its_shape_stays(sess, stride, channels):
    x = normal(2, 4, 4, 8).astype(np.float32)
    y = network.mbconv(tf.constant(x), BLOCK._replace(stride=stride, channels=channels), STYLE, 0, 1.0)
    sess.run(tf.global_variables_initializer())
    last_gamma().load(np.zeros(channels), sess)
    want = x if (stride, channels) == (1, 8) else np.zeros([2, 4 // stride, 4 // stride, channels])
    np.testing.assert_array_equal(sess.run(y), want)


@pytest.mark.parametrize('expand, activations', [
    (1, ['depthwise', 'squeezed']), (6, ['expanded', 'depthwise', 'squeezed'])])
def test_the_projection_at_a_blocks_end_has_no_activation(graph, monkeypatch, expand, activations):
    seen = []
    for module in network, normalisation:  # the latter's are behind a batch norm
        monkeypatch.setattr(module, 'activate', lambda x, name: seen.append((x.shape.as_list()[-1], name)) or x)
    network.mbconv(tf.zeros([1, 4, 4, 8]), BLOCK._replace(expand=expand, channels=24), STYLE, 0, 1.0)
    channels = {'expanded': 8 * expand, 'depthwise': 8 * expand, 'squeezed': 2}
    assert seen == [(channels[name], 'silu') for name in activations]


def test_batch_norm_follows_the_expansion_the_depthwise_convolution_and_the_projection(graph):
    network.mbconv(tf.zeros([1, 4, 4, 8]), BLOCK._replace(channels=24), STYLE, 0, 1.0)
    sites = {v.op.name[:-len('/gamma')]: v.shape.as_list() for v in tf.trainable_variables() if 'gamma' in v.op.name}
    assert sites == {'tpu_batch_normalization': [48], 'tpu_batch_normalization_1': [48],
                     'tpu_batch_normalization_2': [24]}


# What is drawn in training

def seed_tensor(*pair):
    return tf.constant(pair or (3, 5), tf.int64)


def test_drop_connect_keeps_a_whole_images_branch_divided_by_its_probability_or_none_of_it(sess):
    x = normal(200, 2, 2, 8).astype(np.float32)
    style = replace(TRAINING, noise_seed=seed_tensor())
    with tf.variable_scope('', reuse=tf.AUTO_REUSE):
        whole, dropped = (network.mbconv(tf.constant(x), BLOCK, style, 0, p) for p in (1.0, 0.7))
    sess.run(tf.global_variables_initializer())
    whole, dropped = sess.run([whole, dropped])
    kept = (dropped != x).any((1, 2, 3))
    assert abs(kept.mean() - 0.7) < 3 * np.sqrt(0.7 * 0.3 / 200)
    np.testing.assert_array_equal(dropped[~kept], x[~kept])
    np.testing.assert_allclose((dropped - x)[kept], (whole - x)[kept] / 0.7, rtol=1e-4, atol=1e-5)


def test_blocks_draw_apart_from_each_other_and_from_the_dropout(sess):
    style = replace(TRAINING, noise_seed=seed_tensor())
    draws = sess.run([style.keep(layer, [400], 0.5) for layer in list(range(88)) + [network._DROPOUT_LAYER]])
    correlations = np.corrcoef(draws) - np.eye(89)
    assert np.abs(correlations).max() < 5 / np.sqrt(400)


def test_the_survival_probability_falls_linearly_over_the_blocks_from_one(graph, monkeypatch):
    seen = []
    monkeypatch.setattr(network, 'mbconv', lambda x, block, style, layer, survival_prob: seen.append(
        (layer, survival_prob)) or tf.zeros([1, 1, 1, block.channels]))
    network.efficientnet(tf.zeros([1, 32, 32, 3]), 'x', 1.0, 1.0, 10, replace(STYLE, survival_prob=0.8))
    # EN release: 1 - 0.2 i / 16 for block i of 16.
    assert seen == [(i, pytest.approx(1 - 0.2 * i / 16)) for i in range(16)]


# Ten blocks, of which three can be dropped, of 8 to 80 channels; 320 before the classifier.
SMALL = ('x', 0.25, 0.4)


def small_network(image, style, num_classes=10):
    with tf.variable_scope('', reuse=tf.AUTO_REUSE):
        return network.efficientnet(image, *SMALL, num_classes, style)


def test_dropout_keeps_each_number_before_the_classifier_divided_by_its_probability_or_makes_it_zero(sess):
    image = tf.constant(normal(20, 32, 32, 3), tf.float32)
    style = replace(TRAINING, noise_seed=seed_tensor())
    logits = [small_network(image, replace(style, dropout_rate=rate), num_classes=320) for rate in (0.0, 0.3)]
    sess.run(tf.global_variables_initializer())
    kernel, = (v for v in tf.trainable_variables() if v.op.name == 'x/head/dense/kernel')
    kernel.load(np.eye(320), sess)
    whole, dropped = sess.run(logits)
    kept = dropped != 0
    assert abs(kept.mean() - 0.7) < 3 * np.sqrt(0.7 * 0.3 / kept.size)
    # Neither the same channels in all images nor whole images.
    assert kept.mean(axis=0).std() < 0.2 and kept.mean(axis=1).std() < 0.1
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.7, rtol=1e-4, atol=1e-6)


def test_at_inference_nothing_is_drawn(graph):
    small_network(tf.zeros([1, 32, 32, 3]), replace(STYLE, survival_prob=0.5, dropout_rate=0.5))
    assert not [op.name for op in tf.get_default_graph().get_operations() if 'StatelessRandom' in op.type]


FLAGS = ['--input-size', '32', '--num-classes', '10', '--data-format', 'NHWC']
IMAGES = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3)).astype(np.uint8)
LABEL = np.array([3, 0, 9, 4], np.int32)


@pytest.fixture
def training_costs(few_blocks):
    """function(attacker, steps, flags, ...): cost and adversarial images of the training graph in each of the steps."""
    return functools.partial(run_training_graph, few_blocks)


def run_training_graph(architecture, attacker, steps, flags=(), **attributes):
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(0)
        model = make_network(*architecture, *FLAGS, *flags)
        for name, value in dict(attributes, attacker=attacker).items():
            setattr(model, name, value)
        with TowerContext('', is_training=True):
            cost = model.build_graph(tf.constant(IMAGES), tf.constant(LABEL))
        sess.run(tf.global_variables_initializer())
        # Else a fresh network's averages are far from any batch's, and its attacker sees no slope.
        set_variables(sess)
        fetches = [cost, 'adv_training_sample:0']
        return [sess.run(fetches, {'training_step:0': step}) for step in steps]


def test_the_draws_of_a_training_step_follow_from_seed_step_and_rank(training_costs):
    (first, _), (again, _), (later, _) = training_costs(NoOpAttacker(), [7, 7, 8])
    (other_rank, _), = training_costs(NoOpAttacker(), [7], rank=1)
    (other_seed, _), = training_costs(NoOpAttacker(), [7], seed=1)
    assert first == again
    assert len({float(cost) for cost in (first, later, other_rank, other_seed)}) == 4


def test_without_dropout_and_drop_connect_all_steps_draw_alike(training_costs):
    (first, _), (later, _) = training_costs(NoOpAttacker(), [7, 8], ['--dropout-rate', '0', '--survival-prob', '1'])
    assert first == later


@pytest.mark.parametrize('flag, value', [('--dropout-rate', '0'), ('--survival-prob', '1')])
def test_dropout_and_drop_connect_each_draw_of_their_own(training_costs, flag, value):
    found = training_costs(NoOpAttacker(), range(7, 12), ['--survival-prob', '0.1', flag, value])
    assert len({float(cost) for cost, _ in found}) > 1


def test_the_attackers_passes_have_neither_dropout_nor_drop_connect(training_costs):
    attacker = PGDAttacker(2, 8.0, 4.0, random_start=False)
    (cost, adv), (later_cost, later_adv) = training_costs(attacker, [7, 8])
    (_, without), = training_costs(attacker, [7], ['--dropout-rate', '0', '--survival-prob', '1'])
    assert cost != later_cost and np.abs(adv - (IMAGES[..., ::-1] * PIXEL - 1)).max() > 7 * PIXEL
    np.testing.assert_array_equal(adv, later_adv)
    np.testing.assert_array_equal(adv, without)


# The whole network

# Batch statistics of few numbers (the last blocks see four pixels) enlarge rounding errors, hence the other tolerance.
@pytest.mark.parametrize('training, tolerance', [(False, 1e-4), (True, 5e-3)])
def test_both_layouts_give_the_same_logits_and_gradients(sess, training, tolerance):
    results, images = [], np.random.RandomState(0).uniform(-1, 1, [4, 64, 64, 3])
    for data_format in LAYOUTS:
        style = Style(data_format, training, 'silu', noise_seed=seed_tensor())
        image = tf.constant(to_layout(images, data_format), tf.float32)
        logits = small_network(image, style)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=LABEL))
        results.append((logits, tf.gradients(loss, [image] + tf.trainable_variables())))
    set_variables(sess)
    (logits, gradients), (other_logits, other_gradients) = (sess.run(result) for result in results)
    other_gradients[0] = to_nhwc(other_gradients[0], 'NCHW')
    assert logits.std() > 0.1 and all(np.abs(gradient).max() > 0 for gradient in gradients)
    for one, other in zip([logits] + gradients, [other_logits] + other_gradients):
        # What a batch norm in training adds before another one changes nothing: its gradient is rounding errors.
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(np.abs(one).max(), 0.1 * training))


def test_the_image_gets_smaller_in_the_stem_and_four_stages(graph, monkeypatch):
    sides = []
    block = network.mbconv
    monkeypatch.setattr(network, 'mbconv', lambda x, **k: sides.append(int(x.shape[1])) or block(x, **k))
    network.efficientnet(tf.zeros([1, 224, 224, 3]), 'x', 0.25, 0.25, 10, STYLE)
    # EN Table 1: what each stage takes, here of one block.
    assert sides == [112, 112, 56, 28, 14, 14, 7]


def test_initial_values_are_those_of_the_release(sess):
    network.efficientnet(tf.zeros([1, 32, 32, 3]), 'x', 1.0, 0.1, 100, STYLE)
    sess.run(tf.global_variables_initializer())
    for name, value in sess.run({v.op.name: v for v in tf.global_variables()}).items():
        if name.endswith('dense/kernel'):  # uniform in +-1 / sqrt(classes)
            assert np.abs(value).max() <= 0.1 and value.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.02)
        elif name.endswith('kernel'):  # normal, not cut, of variance 2 / fan_out; a depthwise one has fan_out of k x k
            fan_out = value.shape[0] * value.shape[1] * (1 if 'depthwise' in name else value.shape[3])
            deviations = value.ravel() / np.sqrt(2 / fan_out)
            assert deviations.std() == pytest.approx(1, abs=4 / np.sqrt(2 * value.size)), name
            assert value.size < 10000 or np.abs(deviations).max() > 3, name
        else:
            one = name.endswith(('gamma', 'moving_variance'))
            np.testing.assert_array_equal(value, 1.0 if one else 0.0, err_msg=name)


@pytest.mark.parametrize('data_format', LAYOUTS)
@pytest.mark.parametrize('scaling', INPUT_SCALINGS)
def test_the_network_takes_rgb_in_the_scaling_asked_for(sess, monkeypatch, few_blocks, data_format, scaling):
    monkeypatch.setattr(network, 'efficientnet', lambda image, *_: image)
    model = make_network(*few_blocks, *FLAGS[:-1], data_format, '--input-scaling', scaling)
    judged = []
    monkeypatch.setattr(model, 'attack', lambda attacker, image, label, *_: (
        judged.append(model.network(image)) or image, tf.zeros_like(label), tf.zeros_like(label, tf.bool)))
    monkeypatch.setattr(model, 'get_logits', lambda image: tf.zeros([4, 10]))
    with TowerContext('', is_training=False):
        model.get_inference_func(NoOpAttacker())(tf.constant(IMAGES), tf.constant(LABEL))
    rgb = IMAGES[..., ::-1].astype(np.float64)
    if scaling == 'sat':
        want = rgb * 2 / 255 - 1
    elif scaling == 'unit':
        want = rgb / 255
    else:  # the EN release's means and standard deviations of ImageNet
        want = (rgb - np.array([0.485, 0.456, 0.406]) * 255) / (np.array([0.229, 0.224, 0.225]) * 255)
    np.testing.assert_allclose(to_nhwc(sess.run(judged[0]), data_format), want, rtol=0, atol=2e-6)


def test_an_attack_in_another_precision_has_images_scaled_in_float32(sess, few_blocks):
    model = make_network(*few_blocks, *FLAGS, '--input-scaling', 'mean-std')
    levels = IMAGES.astype(np.float32) * 2 / 255 - 1
    with TowerContext('', is_training=False), model._as_seen_by_attacker(None, 'bfloat16'):
        model.get_logits(tf.constant(levels))
        half, whole = (scale_input(tf.constant(levels.astype(kind.as_numpy_dtype)), 'mean-std', model.style)
                       for kind in (tf.bfloat16, tf.float32))
    assert half.dtype == tf.bfloat16
    half, whole = sess.run([tf.cast(half, tf.float32), whole])
    # Rounded twice, in images of up to 1 and in values of up to 3.
    np.testing.assert_allclose(half, whole, rtol=0, atol=2 ** -9 / 0.224 / 2 + 2 ** -7)


@pytest.mark.parametrize('activation', ['silu', 'smoothrelu'])
def test_weight_decay_covers_all_but_batch_norm_and_the_activations_own_variables(sess, few_blocks, activation):
    model = make_network(*few_blocks, *FLAGS, '--activation-name', activation)
    model.weight_decay = 1e-5
    with TowerContext('', is_training=True):
        model.build_graph(tf.constant(IMAGES), tf.constant(LABEL))
    sess.run(tf.local_variables_initializer())
    values = set_variables(sess)
    trainable = {v.op.name for v in tf.trainable_variables()}
    decayed = [name for name in trainable if name.endswith(('/kernel', '/depthwise_kernel', '/bias'))]
    assert len(decayed) == len(trainable) - sum(name.endswith(('/gamma', '/beta', '/smoothrelu_beta'))
                                                for name in trainable) > 20
    want = 1e-5 * sum(0.5 * (values[name] ** 2).sum() for name in decayed)
    assert sess.run('l2_regularize_loss:0') == pytest.approx(want, rel=1e-5)
