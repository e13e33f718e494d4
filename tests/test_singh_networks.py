"""ConvNeXt and vision transformers of Singh et al. 2023: names, shapes, logits, gradients and activations are those of
the original models, with weights that a rule makes.

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
import rat_networks
from adv_model import PRECISIONS
from weights.identity import describe

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'fixtures', 'rat')
with gzip.open(os.path.join(HERE, 'variables.json.gz'), 'rt') as f:
    VARIABLES = json.load(f)
FIXTURES = np.load(os.path.join(HERE, 'networks.npz'))
ROWS = sorted({name.split('/')[0] for name in FIXTURES.files if name.endswith('/logits')})
PROBED = sorted({name.split('/')[0] for name in FIXTURES.files if '/probes/' in name})

FAST = 'convnext_tiny_cvst_224', 'vit_s_cvst_224'
# What another order of sums may change, of the largest: here it is 1e-6 and 5e-6.
LOGITS, GRADIENT = 2e-5, 1e-4


def some_slow(rows, fast):
    return [pytest.param(row, marks=[] if row in fast else [pytest.mark.slow]) for row in rows]


@pytest.mark.parametrize('network', some_slow(VARIABLES, (
    'convnext_tiny_cvst', 'convnext_iso', 'vit_m_cvst')))
def test_variables_have_the_names_and_shapes_of_the_originals(graph, network):
    model = rat_networks.make(network + '_224', '--data-format', 'NHWC')
    with TowerContext('', is_training=False):
        logits = model.get_logits(tf.placeholder(tf.float32, [None, 224, 224, 3]))
    pytorch = nets.ARCHITECTURES[rat_networks.flags_of(network)[1]].pytorch
    shapes = {v.op.name: tuple(v.shape.as_list()) for v in tf.trainable_variables()}
    found = {pytorch.name(name): [shape[axis] for axis in pytorch.axes(name, len(shape))]
             for name, shape in shapes.items()}
    assert found == dict(VARIABLES[network]['entries']) and logits.shape.as_list() == [None, 1000]
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == VARIABLES[network]['parameters']
    assert tf.global_variables() == tf.trainable_variables()
    # The variables tell which network it is.
    assert str(describe(shapes)) == rat_networks.flags_of(network)[3] + ', 1000 classes'


def close(found, wanted, of_largest):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=of_largest * np.abs(wanted).max())


@pytest.mark.parametrize('row', some_slow(ROWS, FAST))
def test_logits_gradients_and_activations_are_those_of_the_originals(sess, row):
    entries = VARIABLES[rat_networks.split(row)[0]]['entries']
    found = rat_networks.compute(sess, row, rat_networks.stored(rat_networks.split(row)[0], entries))
    close(found.logits, FIXTURES[row + '/logits'], LOGITS)
    close(found.losses, FIXTURES[row + '/losses'], LOGITS)
    close(found.image_gradient[:, :, ::16, ::16], FIXTURES[row + '/image_gradient'], GRADIENT)
    flat = np.float64(found.image_gradient).reshape(2, -1)
    np.testing.assert_allclose([[np.abs(g).sum(), np.sqrt((g ** 2).sum()), np.abs(g).max()] for g in flat],
                               FIXTURES[row + '/image_gradient_norms'], rtol=GRADIENT)
    # Those of the fixtures are roots of sums in float32, which lose a little of the squares of millions of numbers.
    pytorch = nets.ARCHITECTURES[rat_networks.flags_of(row)[1]].pytorch
    np.testing.assert_allclose([found.gradient_norms[pytorch.variable(name)] for name, _ in entries],
                               FIXTURES[row + '/gradient_norms'], rtol=3e-4)
    check_activations(row, found)


@pytest.mark.slow
@pytest.mark.parametrize('row', sorted(set(PROBED) - set(ROWS)))
def test_activations_of_larger_networks_are_those_of_the_originals(sess, row):
    network = rat_networks.split(row)[0]
    values = rat_networks.stored(network, VARIABLES[network]['entries'])
    check_activations(row, rat_networks.compute(sess, row, values, parameters=False))


def check_activations(row, found):
    entries = [name for name, _ in VARIABLES[rat_networks.split(row)[0]]['entries']]
    # In the order of the network's blocks.
    blocks = list(dict.fromkeys(name[:name.index('.', name.index('blocks.') + 7)] for name in entries
                                if 'blocks.' in name))
    of = {block: pair for block, pair in zip(blocks, found.blocks)}
    looked_at = 0
    for name in FIXTURES.files:
        if not name.startswith(row + '/probes/'):
            continue
        probe = name.split('/')[2]
        if probe == 'patch_embed':  # the first block has it with positions
            continue
        if probe == 'stem':
            value = of[blocks[0]][0]
        elif probe.endswith('.downsample'):
            value = of[probe.replace('downsample', 'blocks.0')][0]
        else:
            value = of[probe if probe in of else [block for block in blocks if block.startswith(probe + '.')][-1]][1]
        mean, std, *samples = FIXTURES[name]
        at = (7919 * np.arange(len(samples)) + 13) % value.size
        np.testing.assert_allclose([value.mean(), value.std(), *value.ravel()[at]], [mean, std, *samples],
                                   rtol=0, atol=5e-5 * std, err_msg=name)
        looked_at += 1
    assert looked_at >= 3


def test_the_position_embedding_of_another_size_is_the_originals():
    from rat.weights_rule import make_weight
    from vit.positions import resized
    found = resized(make_weight('pos_embed', [1, 197, 384]), 257)
    np.testing.assert_allclose(found[0, :, :8], FIXTURES['vit_s_cvst_256/positions'], rtol=0, atol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize('row', [*FAST, 'convnext_tiny_224', 'convnext_iso_cvst_224', 'vit_s_cvst_norm_224',
                                 'vit_m_cvst_224'])
@pytest.mark.parametrize('precision, of_largest', [('float32', LOGITS), ('bfloat16', 5e-2)])
def test_under_attack_too_whatever_it_computes_in(sess, row, precision, of_largest, monkeypatch):
    """With the constant affine maps in weights that stand still, once."""
    from layers import Frozen
    assert precision in PRECISIONS
    monkeypatch.setattr('architectures.model.ConfiguredModel.frozen', Frozen(tf.as_dtype(precision)), raising=False)
    network = rat_networks.split(row)[0]
    found = rat_networks.compute(sess, row, rat_networks.stored(network, VARIABLES[network]['entries']),
                                 parameters=False)
    close(found.logits, FIXTURES[row + '/logits'], of_largest)
    close(found.image_gradient[:, :, ::16, ::16], FIXTURES[row + '/image_gradient'], max(of_largest, GRADIENT))
