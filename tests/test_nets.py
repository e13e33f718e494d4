"""The released networks: their variables, and their logits with weights that a rule makes from names and shapes.

tests/fixtures/README.md says where the numbers come from.
"""
import gzip
import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import nets
from machine.devices import resolve_data_format
from networks import make_network
from weights.identity import AVERAGE
from weights.match import match_variables

HERE = os.path.dirname(os.path.abspath(__file__))
with gzip.open(os.path.join(HERE, 'fixtures', 'variables.json.gz'), 'rt') as f:
    VARIABLES = json.load(f)
with open(os.path.join(HERE, 'fixtures', 'logits.json')) as f:
    LOGITS = json.load(f)

# In the fast suite, one of each kind; test_adv_model.py has SAT's ResNet-50 with SiLU besides.
FAST_VARIABLES = ('fair_ResNet-50', 'fair_ResNet-101', 'fair_ResNetDenoise-152', 'fair_ResNeXtDenoiseAll-50',
                  'sat_ResNet-50-silu', 'sat_ResNet-50-smoothrelu', 'sat_ResNeXt-50-32x4d-silu', 'efficientnet-b0')
FAST_LOGITS = ('fair_ResNet-50_224', 'fair_ResNetDenoise-50_224', 'fair_ResNeXtDenoiseAll-50_224',
               'sat_ResNet-50-smoothrelu_224', 'sat_ResNeXt-50-32x4d-silu_224', 'efficientnet-b0_224',
               'efficientnet-b0-ema_224')


def test_the_weights_rule_makes_the_numbers_that_the_fixtures_were_made_with(weights_rule, load_json):
    def flat(value):
        return [n for part in value for n in flat(part)] if isinstance(value, list) else [value]
    want, got = load_json('weights_rule_check.json'), weights_rule.self_check()
    assert want.keys() == got.keys()
    for name, numbers in want.items():
        for key, number in numbers.items():
            np.testing.assert_allclose(flat(got[name][key]), flat(number), rtol=1e-6, atol=1e-6, err_msg=name + key)


def image_of(model):
    side = model.image_shape
    return tf.placeholder(tf.float32, [None, side, side, 3] if model.data_format == 'NHWC' else [None, 3, side, side])


def cifar_model():
    return make_network('--arch', 'CifarResNet', '-d', '8', '--activation-name', 'smoothrelu', '--data-format', 'NHWC')


@pytest.mark.parametrize('row', [
    pytest.param(row, marks=[] if row in FAST_VARIABLES else [pytest.mark.slow]) for row in VARIABLES])
def test_variables_have_the_names_shapes_order_and_kind_of_the_released_checkpoints(graph, released_model, row):
    model = released_model(row, 'NHWC')
    with TowerContext('', is_training=False):
        logits = model.get_logits(image_of(model))
    trainable = {v.op.name for v in tf.trainable_variables()}
    got = [[v.op.name, v.shape.as_list(), v.op.name in trainable] for v in tf.global_variables()]
    # Batch norm's vectors are [1, 1, 1, 1, C] in EfficientNet's evaluation graph.
    assert got == [[name, shape[4:] if len(shape) == 5 else shape, kind]
                   for name, shape, kind in VARIABLES[row]['variables']]
    count = sum(v.shape.num_elements() for v in tf.trainable_variables())
    assert count == VARIABLES[row]['trainable_parameters']
    assert logits.shape.as_list() == [None, 1000]
    assert logits.op.name == 'linear/output' or row.startswith('efficientnet')


@pytest.fixture
def load_released(weights_rule):
    """function(session, fixture row of logits): load a checkpoint of the rule's weights, as the release stores it."""
    def load(session, row):
        names = [(name, shape) for name, shape, _ in VARIABLES[LOGITS[row]['model']]['variables']]
        averages = LOGITS[row].get('averages', False)
        if averages:
            names += [(name + AVERAGE, shape) for name, shape in names]
        values = {name: weights_rule.weight(name, shape) for name, shape in names}
        pairs = match_variables(tf.global_variables(), values, row, averages)
        # As load_into, in one call: a call for each takes seconds in a large graph.
        session.run([v.initializer for v, _ in pairs], {v.initializer.inputs[1]: value for v, value in pairs})
    return load


@pytest.mark.parametrize('row, data_format', [
    pytest.param(row, data_format,
                 marks=[] if row in FAST_LOGITS and data_format == 'NHWC' else [pytest.mark.slow])
    for row in LOGITS for data_format in ('NHWC', 'NCHW')])
def test_logits_are_those_of_the_original_program(sess, released_model, weights_rule, load_released, fixture_path,
                                                  record_property, row, data_format):
    model = released_model(LOGITS[row]['model'], data_format, LOGITS[row]['input_size'])
    image = image_of(model)
    with TowerContext('', is_training=False):
        logits = model.get_logits(image)
    load_released(sess, row)
    images = weights_rule.images(model.image_shape).astype(np.float32) * 2 / 255 - 1
    got = sess.run(logits, {image: images if data_format == 'NHWC' else images.transpose(0, 3, 1, 2)})
    deviation = np.abs(got - np.load(fixture_path('logits.npz'))[row]).max()
    record_property('max_deviation', float(deviation))
    assert deviation <= LOGITS[row]['suggested_atol']


def test_get_logits_shares_its_variables_between_calls(graph):
    model = cifar_model()
    with TowerContext('', is_training=True):
        model.get_logits(image_of(model))
        first = tf.global_variables()
        model.get_logits(image_of(model))
    assert tf.global_variables() == first


@pytest.mark.parametrize('training', [False, True])
def test_batch_norm_of_the_model_follows_the_towers_mode(graph, training):
    model = cifar_model()
    with TowerContext('', is_training=training):
        assert model.style.training == training
        model.get_logits(image_of(model))
    # Seven 3x3 convolutions, each with a mean and a variance.
    assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == (14 if training else 0)


@pytest.mark.parametrize('name', nets.ARCHITECTURES)
def test_every_architecture_builds_with_the_defaults_in_its_table(graph, name):
    model = make_network('--arch', name, '--data-format', 'NHWC')
    with TowerContext('', is_training=False):
        logits = model.get_logits(image_of(model))
    assert logits.shape.as_list() == [None, nets.architecture_defaults(name)['num_classes']]


def test_resnext_denoise_all_is_32x8d_by_default():
    # FD's competition entry.
    defaults = nets.architecture_defaults('ResNeXtDenoiseAll')
    assert (defaults['group'], defaults['res2_bottleneck']) == (32, 8)


@pytest.mark.parametrize('gpus, own', [([], 'NHWC'), (['a GPU'], 'NCHW')])
def test_data_format_is_as_given_and_else_the_devices_own(monkeypatch, gpus, own):
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: gpus)
    assert [resolve_data_format(given) for given in ('NHWC', 'NCHW', None)] == ['NHWC', 'NCHW', own]
