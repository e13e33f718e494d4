"""A network more is an entry in ``nets.ARCHITECTURES``: with it alone it is trained, attacked, judged, saved, resumed,
served, and exported. This one has no batch norm."""
import csv
import dataclasses
import secrets

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import convert
import layers
import main
import model_zoo
import nets
from adv_model import image_preprocess
from architectures.entry import Architecture, Identity
from architectures.model import ConfiguredModel
from attacks.pgd import PGDAttacker
from settings.resolve import resolve
from small_runs import BATCH, STEPS, differing, epochs_in, read_json, variables
from smooth_activations import activate
from test_main import refusal
from test_sources import data_server
from test_training import Crash, crash_before
from weights.identity import describe, network_of_flags


class TinyModel(ConfiguredModel):
    """Two convolutions, each with a bias and an activation; means; a classifier."""
    channels = 'RGB'
    weight_decay_variables = '.*/kernel'

    def graph(self, image):
        x = self._convolution(self._convolution(image, 'conv0', 8), 'conv1', 16)
        means = tf.reduce_mean(tf.cast(x, tf.float32), self.style.spatial_axes)
        with tf.variable_scope('tiny/dense'):
            weights = tf.get_variable('kernel', [16, self.num_classes], initializer=tf.glorot_uniform_initializer())
            bias = tf.get_variable('bias', [self.num_classes], initializer=tf.zeros_initializer())
        return tf.matmul(means, weights) + bias

    def _convolution(self, x, name, channels):
        style = self.style
        with tf.variable_scope('tiny/' + name):
            weights = tf.get_variable('kernel', [3, 3, layers.channels_of(x, style), channels],
                                      initializer=tf.variance_scaling_initializer(2.0))
            bias = tf.get_variable('bias', [channels], initializer=tf.zeros_initializer())
        x = layers.convolution(lambda weights: layers.conv2d(x, weights, 2, style), weights, style)
        return activate(tf.nn.bias_add(x, style.value(bias), data_format=style.data_format), style.activation)


TINY = Architecture(TinyModel, 'sat', {'input_size': 8, 'num_classes': 2}, classifier='tiny/dense/(kernel|bias)')

FLAGS = ['--arch', 'Tiny', '--batch', str(BATCH), '--attack-iter', '2', '--attack-step-size', '2',
         '--eval-attack-iter', '2', '--weight-decay', '0.01', '--moving-average-decay', '0.9']
VARIABLES = {'tiny/{}/{}'.format(layer, part) for layer in ('conv0', 'conv1', 'dense') for part in ('kernel', 'bias')}


@pytest.fixture(autouse=True, scope='module')
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nets.ARCHITECTURES, 'Tiny', TINY)
        yield


def run(*flags):
    with tf.Graph().as_default():
        main.main([str(flag) for flag in flags])


def train(data, folder, *flags):
    run(*FLAGS, '--data', data, '--logdir', folder, '--epochs', '2', *flags)


@pytest.fixture(scope='module')
def trained(registered, data, tmp_path_factory):
    """Log directory of a run."""
    folder = tmp_path_factory.mktemp('runs') / 'one'
    train(data, folder)
    return folder


def test_it_is_made_by_its_name_too():
    assert nets.TinyModel is TinyModel and nets.network_name(main.parse_args(['--arch', 'Tiny'])) == 'Tiny'
    with pytest.raises(AttributeError):
        nets.TinierModel


def test_it_is_trained_under_attack(trained):
    first, last = variables(trained, STEPS), variables(trained, 2 * STEPS)
    assert VARIABLES <= set(differing(first, last)) and VARIABLES <= set(last)
    shown = read_json(trained / 'stats.json')[-1]
    assert shown['xentropy-loss'] > 0 and 'attack_success_rate' in shown and 'eval-2step-top1-error' in shown
    # Biases do not decay.
    kernels = [last[name] for name in VARIABLES if name.endswith('/kernel')]
    assert shown['l2_regularize_loss'] == pytest.approx(
        0.01 * sum(0.5 * (kernel.astype(float) ** 2).sum() for kernel in kernels), rel=0.2)


@pytest.mark.parametrize('data_format', ['NHWC', 'NCHW'])
@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_it_is_attacked(sess, data_format, precision):
    model = nets.build(resolve(main.parse_args(['--arch', 'Tiny', '--fake', '--data-format', data_format])))
    pixels = np.random.RandomState(0).randint(0, 256, [6, 8, 8, 3]).astype(np.uint8)
    label = tf.constant([0, 1] * 3)
    with TowerContext('', is_training=False):
        clean = image_preprocess(tf.constant(pixels), data_format, 'RGB')
        adv = model.attack(PGDAttacker(4, 8.0, 2.0), clean, label, None, precision=precision)[0]
        losses = [tf.nn.sparse_softmax_cross_entropy_with_logits(logits=model.get_logits(image), labels=label)
                  for image in (clean, adv)]
    sess.run(tf.global_variables_initializer())
    before, after, moved = sess.run([*losses, tf.reduce_max(tf.abs(adv - clean))])
    assert (after > before).all() and 0 < moved <= 8 * 2 / 255 + 1e-6


def test_it_is_judged_by_what_its_checkpoint_says_of_it(trained, data, tmp_path):
    said = read_json(trained / 'model-{}.network.json'.format(2 * STEPS))
    assert said['channel_order'] == 'RGB' and said['flags'] == {
        'arch': 'Tiny', 'activation_name': 'silu', 'num_classes': 2, 'input_size': 8, 'recipe': 'sat'}
    run('--eval', '--load', trained, '--data', data, '--batch', '3', '--attack-iter', '5', '--attack-epsilon', '200',
        '--attack-step-size', '50', '--results-dir', tmp_path / 'out')
    found = read_json(tmp_path / 'out' / 'results.json')
    assert found['num_images'] == 5 and found['adversarial']['top1_correct'] < found['clean']['top1_correct']


def test_a_run_that_crashed_ends_after_resuming_as_if_uninterrupted(trained, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(patch, STEPS + 2)
        train(data, tmp_path / 'run')
    train(data, tmp_path / 'run', '--resume')
    assert differing(variables(trained, 2 * STEPS), variables(tmp_path / 'run', 2 * STEPS)) == []
    assert epochs_in(tmp_path / 'run') == [1, 2]


def test_it_is_fine_tuned_on_other_classes(trained, tmp_path):
    stored = variables(trained, 2 * STEPS)
    run('--load', trained, '--new-classifier', '--recipe', 'fine-tune', '--fake', '--steps-per-epoch', '1', '--epochs',
        '1', '--num-classes', '3', '--freeze-until', 'conv0', '--batch', BATCH, '--logdir', tmp_path / 'run')
    found = variables(tmp_path / 'run', 1)
    assert found['tiny/dense/kernel'].shape == (16, 3)
    for name in VARIABLES - {'tiny/dense/kernel', 'tiny/dense/bias'}:
        same = np.array_equal(found[name], stored[name + '/ExponentialMovingAverage'])
        assert same == name.startswith('tiny/conv0'), name


def test_a_data_server_feeds_it_with_the_same_images(trained, data, tmp_path):
    address = 'ipc://@test-new-network-' + secrets.token_hex(8)
    with data_server(address, '--data', data):
        train(data, tmp_path / 'run', '--serve-address', address)
    assert differing(variables(trained, 2 * STEPS), variables(tmp_path / 'run', 2 * STEPS)) == []


def test_it_is_verified_and_exported(trained, data, tmp_path, capsys):
    load = str(trained / 'model-{}'.format(2 * STEPS))
    assert model_zoo.main(['verify', load]) == 0
    assert '6 of 6 variables of Tiny fit' in capsys.readouterr().out
    convert.main(['saved-model', '--load', load, str(tmp_path / '1')])
    run('--eval', '--load', load, '--data', data, '--attack-iter', '0', '--results-dir', tmp_path / 'out')
    with open(tmp_path / 'out' / 'per_example.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    images = np.stack([cv2.imread(row['file'])[..., ::-1] for row in rows])
    with tf.Graph().as_default(), tf.Session() as session:
        signature = tf.saved_model.load(session, [tf.saved_model.SERVING], str(tmp_path / '1')).signature_def[
            'serving_default']
        found = session.run(signature.outputs['class'].name, {signature.inputs['images'].name: images})
    assert found.tolist() == [int(row['clean_pred']) for row in rows]


@pytest.mark.parametrize('typed', [['--batch-norm-momentum', '0.9'], ['--batch-norm-epsilon', '1e-5'],
                                   ['--sync-batch-norm'], ['--depth', '8'], ['--model-name', 'efficientnet-b0']])
def test_flags_that_it_has_not_are_refused_in_a_line(capsys, typed):
    line = refusal(capsys, main.parse_args, ['--arch', 'Tiny', *typed])
    assert '{}: --arch Tiny has none'.format(typed[0]) in line


def test_another_network_is_refused_for_its_checkpoint(capsys, trained):
    line = refusal(capsys, main.main, ['--eval', '--load', str(trained), '--arch', 'CifarResNet'])
    assert 'is a network of --arch Tiny' in line


# One with sizes, which its variables tell

def _tell(shapes):
    channels, classes = shapes['tiny/dense/kernel']
    return {'model_name': 'tiny-s', 'num_classes': classes} if channels == 16 else None


@pytest.fixture
def sized(monkeypatch):
    monkeypatch.setitem(nets.ARCHITECTURES, 'Sized', dataclasses.replace(
        TINY, sizes={'tiny-s': {}, 'tiny-m': {'input_size': 16, 'num_classes': 3}},
        identity=Identity(('model_name', 'num_classes'), _tell)))


@pytest.mark.parametrize('typed, found', [([], ('tiny-s', 8, 2)), (['--model-name', 'tiny-m'], ('tiny-m', 16, 3)),
                                          (['--model-name', 'tiny-m', '--input-size', '9'], ('tiny-m', 9, 3))])
def test_a_size_has_defaults_of_its_own_and_a_name(sized, typed, found):
    args = main.parse_args(['--arch', 'Sized', *typed])
    assert (args.model_name, args.input_size, args.num_classes) == found and nets.network_name(args) == found[0]


def test_a_size_of_another_network_is_refused_in_a_line(sized, capsys):
    assert 'tiny-m' in main.get_parser().format_help()
    for arch, name, choices in (('Sized', 'efficientnet-b0', 'choose from tiny-s, tiny-m'),
                                ('EfficientNet', 'tiny-s', 'choose from efficientnet-b0'),
                                ('Tiny', 'tiny-s', '--arch Tiny has none')):
        assert choices in refusal(capsys, main.parse_args, ['--arch', arch, '--model-name', name])


def test_what_it_is_told_by_names_the_flags_to_type(sized):
    found = describe({'tiny/dense/kernel': (16, 5), 'tiny/conv0/smoothrelu_beta': (8,)})
    assert str(found) == 'tiny-s, SmoothReLU, 5 classes'
    assert found.flags() == ['--arch', 'Sized', '--model-name', 'tiny-s', '--num-classes', '5', '--activation-name',
                             'smoothrelu']
    plain = network_of_flags(vars(main.parse_args(['--arch', 'Sized'])))
    assert not found.is_same(plain) and plain.is_same(describe({'tiny/dense/kernel': (16, 2)}))
