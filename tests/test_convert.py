"""convert.py: no number changes on the way to another form, and what is served is what the graph says."""
import json
import os
import stat
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import convert
from data.efficientnet_view import released_view
from networks import make_network
from test_main import refusal
from weights.classes import CLASSES_FILE, write_classes
from weights.find import read_checkpoint
from weights.match import load_into, match_variables

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
AVERAGE = '/ExponentialMovingAverage'
# Of a network, with what a training run adds to it.
WEIGHTS = {'conv0/W': np.random.default_rng(0).normal(size=[3, 3, 3, 4]).astype(np.float32),
           'conv0/bn/mean/EMA': np.float32([1, -0.0, np.float32(1e-40), 3]), 'scale': np.float32(7)}
AVERAGES = {name + AVERAGE: value + 1 for name, value in WEIGHTS.items()}
TRAINING = {'conv0/W/Momentum': np.ones([3, 3, 3, 4], np.float32), 'global_step': np.int64(2 ** 40),
            'learning_rate': np.float32(0.1)}
FLAGS = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--activation-name', 'silu']


def save(prefix, values):
    """TensorFlow's own saver."""
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=value) for name, value in values.items()]
        session.run(tf.global_variables_initializer())
        return tf.train.Saver(variables).save(session, str(prefix), write_state=False, write_meta_graph=False)


def as_saved(path):
    """What NumPy or TensorFlow finds in a file, by name."""
    if str(path).endswith('.npz'):
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def same(found, expected):
    """Whether two dictionaries of arrays agree in names, types, shapes and bits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value = np.asarray(value)
        assert (np.asarray(found[name]).dtype, np.shape(found[name])) == (value.dtype, value.shape), name
        assert np.asarray(found[name]).tobytes() == value.tobytes(), name
    return True


@pytest.fixture
def trained(tmp_path):
    """A training run's checkpoint."""
    return save(tmp_path / 'model-5', {**WEIGHTS, **AVERAGES, **TRAINING})


def only(folder, *names):
    """Whether a folder has these files alone."""
    return sorted(os.listdir(folder)) == sorted(names)


@pytest.mark.parametrize('flags, expected', [
    ([], {**WEIGHTS, **AVERAGES}), (['--keep', 'weights'], WEIGHTS),
    (['--keep', 'averages'], {name: AVERAGES[name + AVERAGE] for name in WEIGHTS}),
    (['--optimizer'], {**WEIGHTS, **AVERAGES, **TRAINING}),
    (['--keep', 'weights', '--optimizer'], {**WEIGHTS, **TRAINING})])
def test_a_checkpoint_becomes_npz_and_again_a_checkpoint_bit_for_bit(tmp_path, trained, flags, expected):
    out = tmp_path / 'new' / 'folder'
    convert.main(['weights', '--load', trained, str(out / 'X.npz')] + flags)
    assert same(as_saved(out / 'X.npz'), expected)
    convert.main(['weights', '--load', str(out / 'X.npz'), str(out / 'again'), '--optimizer'])
    assert same(as_saved(out / 'again'), expected)
    assert only(out, 'X.npz', 'again.index', 'again.data-00000-of-00001')


def test_the_output_is_as_readable_as_any_new_file(tmp_path, trained):
    convert.main(['weights', '--load', trained, str(tmp_path / 'X.npz')])
    (tmp_path / 'new').write_text('')
    assert stat.S_IMODE(os.stat(tmp_path / 'X.npz').st_mode) == stat.S_IMODE(os.stat(tmp_path / 'new').st_mode)


def test_batch_norm_of_rank_5_becomes_vectors_and_nothing_else_changes_shape(tmp_path):
    values = {'bn/gamma': np.arange(6, dtype=np.float32).reshape([1, 1, 1, 1, 6]),
              'one/kernel': np.ones([1, 1, 1, 1], np.float32), 'se/kernel': np.ones([1, 1, 6, 2], np.float32)}
    np.savez(tmp_path / 'X.npz', **values)
    convert.main(['weights', '--load', str(tmp_path / 'X.npz'), str(tmp_path / 'flat')])
    assert same(as_saved(tmp_path / 'flat'), dict(values, **{'bn/gamma': np.arange(6, dtype=np.float32)}))


def test_a_converted_efficientnet_loads_its_averages_as_weights(tmp_path, few_blocks, weights_rule):
    flags = few_blocks + ['--num-classes', '3', '--input-size', '16']
    with tf.Graph().as_default():
        make_network(*flags).classify(tf.zeros([1, 16, 16, 3]))
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
        stored = {name: [1, 1, 1, 1] + shape if 'normalization' in name else shape for name, shape in shapes.items()}
        values = {name + AVERAGE: weights_rule.weight(name + AVERAGE, shape) for name, shape in stored.items()}
        np.savez(tmp_path / 'X.npz', **values)
        convert.main(['weights', '--load', str(tmp_path / 'X.npz'), str(tmp_path / 'flat'), '--keep', 'averages'])
        pairs = match_variables(tf.global_variables(), read_checkpoint(str(tmp_path / 'flat')), 'flat')
    assert len(pairs) == len(values)
    for variable, value in pairs:
        np.testing.assert_array_equal(value, values[variable.op.name + AVERAGE].reshape(value.shape))


@pytest.mark.parametrize('there', ['X.npz', 'X.index', 'X.data-00000-of-00001', 'X'])
def test_nothing_is_overwritten(capsys, tmp_path, trained, there):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / there).write_text('mine')
    output = str(tmp_path / 'out' / ('X.npz' if there == 'X.npz' else 'X'))
    assert 'is there already' in refusal(capsys, convert.main, ['weights', '--load', trained, output])
    if there == 'X':
        assert 'is there already' in refusal(capsys, convert.main, ['saved-model', '--load', trained, output, *FLAGS])
    assert only(tmp_path / 'out', there) and (tmp_path / 'out' / there).read_text() == 'mine'


@pytest.mark.parametrize('argv, named', [
    (['weights', '--load', '/nowhere.npz', 'X.npz'], '/nowhere.npz'),
    (['weights', '--load', 'plain.npz', 'X.npz', '--keep', 'averages'], 'averages'),
    (['weights', '--load', 'plain.npz', '/proc/nowhere/X.npz'], '/proc/nowhere'),
    (['weights', '--load', 'plain.npz', 'plain.npz'], 'plain.npz'),
    (['weights', '--load', 'zoo:Res50-silux', 'X.npz'], 'Res50-silu'),
    (['weights', '--load', 'plain.npz', 'X.npz', '--keep', 'all'], '--keep'),
    (['saved-model', '--load', 'plain.npz', 'served', *FLAGS], 'lacks 35'),
    (['saved-model', '--load', 'plain.npz', 'served', '-d', '51'], '51'),
    (['saved-model', '--load', 'zoo:Revisiting-eps8', 'served'], 'folder of models'),
    (['tflite'], 'tflite')])
def test_a_mistake_is_refused_in_one_line_and_leaves_nothing(capsys, tmp_path, monkeypatch, argv, named):
    monkeypatch.chdir(tmp_path)
    np.savez('plain.npz', **WEIGHTS)
    assert named in refusal(capsys, convert.main, argv)
    assert only('.', 'plain.npz')


@pytest.mark.parametrize('mode', ['npz', 'checkpoint', 'saved-model'])
def test_a_disk_that_fills_up_leaves_nothing_and_is_said_in_one_line(capsys, tmp_path, monkeypatch, network, mode):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(*{'npz': (np, 'savez'), 'checkpoint': (convert, 'put_in_place'),
                          'saved-model': (convert, 'write_text')}[mode], full)
    out = str(tmp_path / ('X.npz' if mode == 'npz' else 'X'))
    argv = ['saved-model', '--load', network[0], out, *FLAGS] if mode == 'saved-model' else [
        'weights', '--load', network[0], out]
    assert 'No space left on device' in refusal(capsys, convert.main, argv)
    assert only(tmp_path)


# SavedModel

SERVE = '''
import sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
given = dict(np.load(sys.argv[2], allow_pickle=True))
found = {'signatures': sorted(loaded.signatures)}
for name, function in loaded.signatures.items():
    key, spec = list(function.structured_input_signature[1].items())[0]
    found[name + '/input'] = [key, spec.dtype.name] + list(spec.shape)
    if key not in given:
        continue
    fed = given[key].tolist() if given[key].dtype == object else given[key]
    for output, value in function(tf.constant(fed)).items():
        found[name + '/' + output] = value.numpy()
np.savez(sys.argv[3], **{name: np.array(value, object) if isinstance(value, list) else value
                         for name, value in found.items()})
'''


def serve(folder, tmp_path, **given):
    """What a fresh process, without this project, gets from a SavedModel."""
    np.savez(tmp_path / 'given.npz', **given)
    (tmp_path / 'elsewhere').mkdir()
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-c', SERVE, str(folder), str(tmp_path / 'given.npz'),
                           str(tmp_path / 'found.npz')], env=environment, cwd=tmp_path / 'elsewhere',
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(tmp_path / 'found.npz', allow_pickle=True))


def rule_weights(path, weights_rule, flags, suffix=''):
    """A checkpoint of the rule's weights for the network of ``flags``."""
    with tf.Graph().as_default():
        model = make_network(*flags)
        model.classify(tf.zeros([1, model.image_shape, model.image_shape, 3]))
        np.savez(path, **{v.op.name + suffix: weights_rule.weight(v.op.name, v.shape.as_list())
                          for v in tf.global_variables()})
    return str(path)


@pytest.fixture(scope='module')
def network(tmp_path_factory, weights_rule):
    """A small ResNet's weights, and images uint8 RGB."""
    images = np.random.default_rng(0).integers(0, 256, [5, 8, 8, 3], dtype=np.uint8)
    return rule_weights(tmp_path_factory.mktemp('network') / 'X.npz', weights_rule, FLAGS), images


def graph_logits(flags, load, bgr, averages=False):
    """The logits that the graph of an evaluation gives for images [N,S,S,3], BGR."""
    with tf.Graph().as_default(), tf.Session() as session:
        model = make_network(*flags)
        image = tf.constant(bgr, tf.float32) * (2 / 255) - 1
        image = image if model.channels == 'BGR' else image[..., ::-1]
        with TowerContext('', is_training=False):
            logits = model.get_logits(image)
        load_into(session, match_variables(tf.global_variables(), read_checkpoint(load), load, averages))
        return session.run(logits)


def check_outputs(found, signature, logits):
    np.testing.assert_allclose(found[signature + '/logits'], logits, rtol=0, atol=1e-4 * np.abs(logits).max())
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found[signature + '/probabilities'], exp / exp.sum(axis=1, keepdims=True), atol=1e-4)
    assert np.array_equal(found[signature + '/class'], logits.argmax(axis=1))
    assert found[signature + '/class'].dtype == np.int64


@pytest.mark.slow
def test_a_saved_model_gives_the_graph_s_logits_in_a_fresh_process(tmp_path, network):
    load, images = network
    convert.main(['saved-model', '--load', load, str(tmp_path / 'served' / '1'), *FLAGS])
    assert only(tmp_path / 'served', '1')
    found = serve(tmp_path / 'served' / '1', tmp_path, images=images)
    assert found['signatures'].tolist() == ['serving_default']
    assert found['serving_default/input'].tolist() == ['images', 'uint8', None, 8, 8, 3]
    logits = graph_logits(FLAGS + ['--data-format', 'NHWC'], load, images[..., ::-1])
    turned = graph_logits(FLAGS + ['--data-format', 'NHWC'], load, images)
    assert np.abs(logits - turned).max() > 0.1  # the order of channels matters
    check_outputs(found, 'serving_default', logits)


def test_a_saved_model_says_what_it_takes(tmp_path, network):
    load, _ = network
    folder = os.path.dirname(load)
    write_classes(folder, list('abcdefghij'))
    try:
        convert.main(['saved-model', '--load', load, str(tmp_path / 'served'), *FLAGS])
    finally:
        os.remove(os.path.join(folder, CLASSES_FILE))
    with open(tmp_path / 'served' / 'assets.extra' / 'network.json') as f:
        notes = json.load(f)
    assert notes['classes'] == list('abcdefghij') and notes['network'] == 'CifarResNet8'
    assert notes['flags']['activation_name'] == 'silu' and 'RGB' in notes['inputs']['serving_default']
    assert str(tmp_path) not in json.dumps(notes)


@pytest.mark.slow
def test_an_efficientnet_also_takes_files_and_sees_them_as_an_evaluation(tmp_path, few_blocks, weights_rule,
                                                                        fixture_path):
    flags = few_blocks + ['--num-classes', '4', '--input-size', '32']
    load = rule_weights(tmp_path / 'X.npz', weights_rule, flags, AVERAGE)
    with open(fixture_path('sample.jpg'), 'rb') as f:
        jpeg = f.read()
    png = cv2.imencode('.png', np.random.default_rng(1).integers(0, 256, [40, 50, 3], dtype=np.uint8))[1].tobytes()
    images = np.random.default_rng(0).integers(0, 256, [2, 32, 32, 3], dtype=np.uint8)
    convert.main(['saved-model', '--load', load, str(tmp_path / 'served'), *flags])
    found = serve(tmp_path / 'served', tmp_path, images=images, files=np.array([jpeg, png], object))
    assert found['signatures'].tolist() == ['encoded', 'serving_default']
    with tf.Graph().as_default(), tf.Session() as session:
        views = session.run([released_view(tf.constant(content), 32) for content in (jpeg, png)])
    flags = flags + ['--data-format', 'NHWC']
    check_outputs(found, 'serving_default', graph_logits(flags, load, images[..., ::-1], averages=True))
    check_outputs(found, 'encoded', graph_logits(flags, load, np.stack(views)[..., ::-1], averages=True))


@pytest.mark.slow
@pytest.mark.parametrize('flags', [
    ['--arch', 'ResNet', '-d', '50', '--activation-name', 'smoothrelu'], ['--arch', 'ResNetDenoise', '-d', '50'],
    ['--arch', 'ResNet', '--activation-name', 'mish', '--recompute'], ['--arch', 'EfficientNet']])
def test_a_released_network_is_served(tmp_path, weights_rule, flags):
    flags = flags + ['--moving-average-decay', '0']
    load = rule_weights(tmp_path / 'X.npz', weights_rule, flags)
    images = weights_rule.images(224)
    convert.main(['saved-model', '--load', load, str(tmp_path / 'served'), *flags])
    found = serve(tmp_path / 'served', tmp_path, images=images)
    check_outputs(found, 'serving_default', graph_logits(flags + ['--data-format', 'NHWC'], load, images[..., ::-1]))
