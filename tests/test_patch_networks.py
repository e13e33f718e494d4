"""Small ConvNeXts and vision transformers, made by flags: trained, judged by what their checkpoints say of them, told
by their variables; their initial values, what decays, layouts, activations, other sizes of images.

The originals' sizes are in test_singh_networks.py, how attacks see these networks in test_frozen.py.
"""
import re
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import main
import nets
from layouts import LAYOUTS, normal, to_layout
from networks import make_network
from rat_networks import flags_of
from settings.resolve import resolve
from small_runs import BATCH, STEPS, differing, read_json, variables
from smooth_activations import backward_slope
from test_main import refusal
from test_singh_networks import VARIABLES
from weights import card
from weights.identity import describe, network_of_flags
from weights.match import compare_variables, match_variables

CONVNEXT = ['--arch', 'ConvNeXt', '--model-name', 'convnext-t-cvst', '--blocks', '1,1', '--widths', '8,16',
            '--patch-size', '1']
VIT = ['--arch', 'ViT', '--model-name', 'vit-s-cvst', '--blocks', '1', '--widths', '16', '--heads', '2',
       '--patch-size', '2']
SMALL = {'convnext': CONVNEXT, 'vit': VIT,
         'convnext plain': [*CONVNEXT[:2], *CONVNEXT[4:]],
         'convnext b': ['--arch', 'ConvNeXt', '--model-name', 'convnext-b-cvst', *CONVNEXT[4:-1], '2'],
         'convnext iso': ['--arch', 'ConvNeXt', '--model-name', 'convnext-iso-cvst', '--blocks', '2', '--widths', '8',
                          '--patch-size', '2'],
         'vit plain': [*VIT[:2], *VIT[4:]],
         'vit m': ['--arch', 'ViT', '--model-name', 'vit-m', *VIT[4:]]}
TINY = ['--input-size', '8', '--num-classes', '2']


def make(kind, *flags, **changed):
    return make_network(*SMALL[kind], *TINY, '--fake', *flags, **changed)


def logits_of(model, image):
    with TowerContext('', is_training=False):
        return model.get_logits(tf.constant(to_layout(image, model.data_format), tf.float32))


def set_variables(sess):
    for number, v in enumerate(tf.global_variables()):
        value = normal(*v.shape.as_list(), seed=number)
        v.load(value / np.sqrt(np.prod(value.shape[:-1])) if value.ndim > 1 else 1 + 0.3 * value, sess)


IMAGES = np.random.RandomState(0).uniform(-1, 1, [3, 8, 8, 3])


@pytest.mark.parametrize('kind', SMALL)
def test_both_layouts_give_the_same_logits(sess, kind):
    found = [logits_of(make(kind, '--data-format', data_format), IMAGES) for data_format in LAYOUTS]
    set_variables(sess)
    nhwc, nchw = sess.run(found)
    assert nhwc.std() > 0.05
    np.testing.assert_allclose(nchw, nhwc, rtol=0, atol=1e-5 * np.abs(nhwc).max())


@pytest.mark.parametrize('kind', ['convnext', 'vit m'])
def test_the_activation_is_exact_gelu_and_any_other_by_flag(sess, kind):
    assert main.parse_args([*SMALL[kind], '--fake']).activation_name == 'gelu_erf'
    assert main.parse_args([*SMALL[kind], '--fake', '--recipe', 'feature-denoising']).activation_name == 'gelu_erf'
    names = ('gelu_erf', 'gelu', 'relu', 'smoothrelu')
    found = [logits_of(make(kind, '--activation-name', name), IMAGES) for name in names]
    set_variables(sess)
    exact, tanh, relu, smooth = sess.run(found)
    assert 1e-6 < np.abs(exact - tanh).max() < 0.1 * np.abs(exact - relu).max() and np.abs(smooth - relu).max() > 1e-3
    # Each activation has a shape of its own to learn.
    shapes = [v for v in tf.global_variables() if v.op.name.endswith('smoothrelu_beta')]
    assert len(shapes) == len(set(v.op.name for v in shapes)) == {'convnext': 4, 'vit m': 1}[kind]


@pytest.mark.parametrize('kind', ['convnext', 'vit'])
def test_gradients_take_the_slope_that_is_asked_for(sess, kind):
    image = tf.constant(IMAGES, tf.float32)
    model = make(kind, '--activation-name', 'relu')
    gradients = []
    for slope in None, 'silu':
        with TowerContext('', is_training=False), backward_slope(slope):
            gradients.append(tf.gradients(model.get_logits(image)[:, 0], image)[0])
    set_variables(sess)
    own, other = sess.run(gradients)
    assert np.abs(own - other).max() > 1e-3 * np.abs(own).max()


@pytest.mark.parametrize('kind', ['convnext', 'vit'])
def test_recomputed_blocks_give_the_same_gradients(sess, kind):
    found = []
    for flags in [], ['--recompute']:
        with TowerContext('', is_training=True):
            logits = make(kind, *flags).get_logits(tf.constant(IMAGES, tf.float32))
        found.append(tf.gradients(tf.reduce_sum(tf.square(logits)), tf.trainable_variables()))
    set_variables(sess)
    for kept, again in zip(*sess.run(found)):
        np.testing.assert_allclose(again, kept, rtol=1e-4, atol=1e-5 * np.abs(kept).max())


# Initial values and decay

@pytest.mark.parametrize('kind', SMALL)
def test_initial_values_are_the_originals(sess, kind):
    logits_of(make(kind), IMAGES)
    sess.run(tf.global_variables_initializer())
    values = {v.op.name: v.eval(sess) for v in tf.global_variables()}
    for name, value in values.items():
        layer, _, part = name.rpartition('/')
        weights = values.get(layer + '/weight')
        if part in ('cls_token', 'pos_embed'):
            std = {'cls_token': 1e-6, 'pos_embed': 0.02}[part]
            assert 0.5 * std < value.std() < 1.5 * std
        elif part == 'gamma':
            assert (value == np.float32(1e-6)).all()
        elif weights.ndim == 1:
            assert (value == {'weight': 1, 'bias': 0}[part]).all()
        elif weights.ndim == 4 and layer.startswith(('patch_embed/proj', 'stem/stem')):
            # PyTorch's own, for convolutional stems and a transformer's patches: biases too.
            bound = np.prod(weights.shape[:-1]) ** -0.5
            assert np.abs(value).max() <= bound and np.unique(value).size == value.size
            assert value.size < 200 or 0.4 * bound < value.std() < 0.8 * bound < np.abs(value).max()
        elif part == 'bias':
            assert (value == 0).all()
        else:
            # Few numbers say little.
            near = 0.2 if value.size >= 200 else 0.6
            assert abs(value.std() / 0.02 - 1) < near and np.abs(value).max() < 6 * 0.02, name


@pytest.mark.parametrize('network', VARIABLES)
def test_what_decays_is_what_the_originals_rule_says(network):
    model = nets.ARCHITECTURES[flags_of(network)[1]].model
    for name, shape in VARIABLES[network]['entries']:
        decays = not ('bn' in name or '.bias' in name) if 'convnext' in network else \
            not (len(shape) <= 1 or name.endswith('.bias'))
        assert bool(re.search(model.weight_decay_variables, name.replace('.', '/'))) == decays, name
    assert not re.search(model.weight_decay_variables, 'blocks/0/mlp/act/smoothrelu_beta')


# Trained and judged

FLAGS = ['--recipe', 'sat', '--batch', str(BATCH), '--attack-iter', '2', '--attack-step-size', '2',
         '--eval-attack-iter', '2', '--moving-average-decay', '0.9', *TINY]


def run(*flags):
    with tf.Graph().as_default():
        main.main([str(flag) for flag in flags])


@pytest.fixture(scope='module', params=['convnext', 'vit'])
def trained(request, data, tmp_path_factory):
    """Kind of network, and the log directory of its run."""
    folder = tmp_path_factory.mktemp('runs') / 'one'
    run(*SMALL[request.param], *FLAGS, '--data', data, '--logdir', folder, '--epochs', '2')
    return request.param, folder


def test_it_is_trained_under_attack(trained):
    first, last = variables(trained[1], STEPS), variables(trained[1], 2 * STEPS)
    moved = differing(first, last)
    names = [name for name in last if '/' in name or name in ('cls_token', 'pos_embed')]
    assert len(names) > 20 and not [name for name in names if name not in moved and 'beta' not in name]
    shown = read_json(trained[1] / 'stats.json')[-1]
    assert shown['xentropy-loss'] > 0 and 'attack_success_rate' in shown and 'eval-2step-top1-error' in shown


def test_it_is_judged_by_what_its_checkpoint_says_of_it(trained, data, tmp_path):
    kind, folder = trained
    said = read_json(folder / 'model-{}.network.json'.format(2 * STEPS))
    typed = dict(zip(SMALL[kind][::2], SMALL[kind][1::2]))
    assert said['channel_order'] == 'RGB' and said['flags']['input_scaling'] == 'unit'
    assert {flag: str(said['flags'][flag[2:].replace('-', '_')]) for flag in typed} == typed
    run('--eval', '--load', folder, '--data', data, '--batch', '3', '--attack-iter', '5', '--attack-epsilon', '200',
        '--attack-step-size', '50', '--results-dir', tmp_path / 'out')
    found = read_json(tmp_path / 'out' / 'results.json')
    assert found['num_images'] == 5 and found['adversarial']['top1_correct'] <= found['clean']['top1_correct']


def test_it_is_judged_at_another_size_of_images(trained, data, tmp_path):
    run('--eval', '--load', trained[1], '--data', data, '--batch', '5', '--attack-iter', '0', '--input-size', '12',
        '--ignore-checkpoint-flags', '--results-dir', tmp_path / 'out')
    assert read_json(tmp_path / 'out' / 'results.json')['num_images'] == 5


def test_another_width_is_refused_for_its_checkpoint(capsys, trained):
    kind, folder = trained
    widths = {'convnext': '8,24', 'vit': '32'}[kind]
    line = refusal(capsys, main.main, ['--eval', '--load', str(folder), *SMALL[kind], '--widths', widths])
    assert '--widths {}'.format(widths) in line and '--widths {}'.format(SMALL[kind][7]) in line


# What variables tell

def shapes_of(kind, *flags):
    with tf.Graph().as_default():
        logits_of(make(kind, *flags), IMAGES)
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


@pytest.mark.parametrize('kind', SMALL)
def test_variables_tell_what_can_be_told(kind):
    args = main.parse_args([*SMALL[kind], *TINY, '--fake'])
    found = describe(shapes_of(kind))
    assert found.is_same(network_of_flags(vars(args))) and found.arch == args.arch
    words = found.flags()
    for flag in '--blocks', '--widths', '--num-classes':
        assert words[words.index(flag) + 1] == str(getattr(args, flag[2:].replace('-', '_')))
    assert '2 classes' in str(found) and args.widths.split(',')[0] in str(found)
    assert not found.is_same(network_of_flags(vars(main.parse_args([*SMALL[kind][:2], '--fake']))))


def test_a_stem_tells_its_kind():
    names = {kind: describe(shapes_of(kind)).options['model_name'] for kind in SMALL}
    assert names == {'convnext': 'convnext-t-cvst', 'convnext plain': 'convnext-t', 'convnext b': 'convnext-b-cvst',
                     'convnext iso': 'convnext-iso-cvst', 'vit': 'vit-s-cvst', 'vit plain': 'vit-s', 'vit m': 'vit-m'}


# Other sizes of images

@pytest.mark.parametrize('kind', ['vit', 'vit m'])
def test_a_position_embedding_is_resized_when_it_is_loaded_for_another_size(graph, kind):
    values = {name: normal(*shape) for name, shape in shapes_of(kind).items()}
    size = 12
    logits_of(make(kind, input_size=size), np.zeros([1, size, size, 3]))
    loaded = {v.op.name: value for v, value in match_variables(tf.global_variables(), values, 'a file')}
    found, stored = loaded['pos_embed'], values['pos_embed']
    first = int(kind == 'vit')
    assert found.shape == (1, 36 + first, 16) and found.dtype == np.float32
    np.testing.assert_array_equal(found[0, :first], np.float32(stored[0, :first]))
    assert compare_variables(tf.global_variables(), values).different == []
    assert compare_variables(tf.global_variables(), dict(values, cls_token=np.zeros([1, 1, 8]))).different


def test_a_resized_embedding_keeps_constants_and_follows_a_slope():
    from vit.positions import resized
    constant = np.full([1, 16, 2], 3.0, np.float32)
    np.testing.assert_allclose(resized(constant, 49), np.full([1, 49, 2], 3.0), rtol=1e-6)
    rows = np.tile(np.arange(14.0)[:, None, None], [1, 14, 1]).reshape(1, 196, 1)
    found = resized(rows, 256)[0, :, 0].reshape(16, 16)
    inside = slice(2, 14)  # where no edge is repeated
    np.testing.assert_allclose(found[inside], np.tile(((np.arange(16) + 0.5) * 14 / 16.1 - 0.5)[inside, None], [1, 16]),
                               rtol=0, atol=0.06)  # a = -0.75 is not exact on slopes, as -0.5 is
    assert resized(rows, 257) is None and resized(rows, 250) is None


@pytest.mark.parametrize('kind, size', [('convnext', 9), ('convnext plain', 10), ('vit', 12)])
def test_an_odd_size_of_images_works_where_the_original_does(sess, kind, size):
    logits = logits_of(make(kind, input_size=size), np.zeros([1, size, size, 3]))
    sess.run(tf.global_variables_initializer())
    assert np.isfinite(sess.run(logits)).all()


def test_residual_networks_take_rgb_in_another_scaling(sess):
    flags = ['--arch', 'CifarResNet', '-d', '8', *TINY, '--fake', '--data-format', 'NHWC']
    model = make_network(*flags, '--input-scaling', 'imagenet')
    own = make_network(*flags)
    assert (own.channels, own.input_scaling, model.channels) == ('BGR', 'sat', 'RGB')
    assert [nets.channel_order('ResNet', scaling) for scaling in (None, 'sat', 'unit')] == ['BGR', 'BGR', 'RGB']
    scaled = ((IMAGES + 1) / 2 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = logits_of(model, IMAGES), logits_of(own, scaled)
    sess.run(tf.global_variables_initializer())
    np.testing.assert_allclose(*sess.run(found), rtol=1e-4, atol=1e-5)


def test_what_is_written_with_weights_says_another_scaling_and_its_channels():
    cards = [card.make(main.parse_args(['--arch', 'CifarResNet', '--fake', *flags]), None)
             for flags in ([], ['--input-scaling', 'imagenet'])]
    assert [each['flags'].get('input_scaling') for each in cards] == [None, 'imagenet']
    assert [each['channel_order'] for each in cards] == ['BGR', 'RGB']
    for each in cards:
        assert card.read(types.SimpleNamespace(path='X.npz', entry=card.as_entry(each)[card.ENTRY].tobytes())) == each


def test_the_help_says_what_each_kind_of_network_has_where_nothing_is_typed():
    shown = ' '.join(main.get_parser().format_help().split())
    for words in ("(default: 224; CifarResNet 32; EfficientNet the size's)", '(default: 50; CifarResNet 20)',
                  '(default: efficientnet-b0; ConvNeXt convnext-t; ViT vit-s)'):
        assert words in shown


def test_what_a_command_says_of_its_network_is_what_is_built():
    settings = resolve(main.parse_args([*VIT, *TINY, '--fake']))
    plan = nets.build(settings).plan
    assert (plan.blocks, plan.width, plan.heads, plan.patch_size) == (1, 16, 2, 2)
    plan = nets.build(resolve(main.parse_args([*CONVNEXT, *TINY, '--fake']))).plan
    assert (plan.blocks, plan.widths, plan.patch_size, plan.stem.eighths) == ((1, 1), (8, 16), 1, (4, 8))
