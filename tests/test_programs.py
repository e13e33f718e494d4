"""The programs beside main.py: the example, and the demo's promise to stop what it started."""
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import nets
from main import parse_args
from third_party.imagenet_utils import View, synset_words, validation_transform

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NETWORK = ['--arch', 'CifarResNet', '-d', '8', '--num-classes', '1000', '--recipe', 'feature-denoising']


@pytest.fixture
def picture(tmp_path):
    """A noise image that is not square, as a lossless file and as uint8 BGR."""
    image = np.random.default_rng(0).integers(0, 256, [40, 50, 3], dtype=np.uint8)
    path = str(tmp_path / 'image.png')
    assert cv2.imwrite(path, image)
    return path, image


def run_example(*arguments):
    return subprocess.run([sys.executable, os.path.join(ROOT, 'inference-example.py'), *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd='/')


def test_the_example_prints_the_best_class_and_five_names(graph, weights_rule, picture, tmp_path):
    path, image = picture
    model = nets.CifarResNetModel(parse_args(NETWORK + ['--data-format', 'NHWC']))
    # The release's example: bilinear, ignoring the aspect ratio, x / 127.5 - 1, BGR.
    pixels = cv2.resize(image, (32, 32), interpolation=cv2.INTER_LINEAR)[None].astype(np.float32) / 127.5 - 1
    with TowerContext('', is_training=False):
        logits = model.get_logits(tf.constant(pixels))
    variables = {v.op.name: weights_rule.weight(v.op.name, v.shape.as_list()) for v in tf.global_variables()}
    np.savez(tmp_path / 'net.npz', **variables)
    with tf.Session() as session:
        for variable in tf.global_variables():
            variable.load(variables[variable.op.name], session)
        best = session.run(logits)[0].argsort()[::-1]

    done = run_example('--load', str(tmp_path / 'net.npz'), '--input', path, *NETWORK)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split() == ['Prediction:', str(best[0])]
    names = [synset_words()[k] for k in best[:5]]
    assert second == 'Top 5:  {}'.format(names)


@pytest.mark.slow
def test_the_example_sees_an_image_as_an_evaluation_where_the_network_s_view_crops(graph, weights_rule, picture,
                                                                                    tmp_path):
    path, image = picture
    network = ['--arch', 'ConvNeXt', '--blocks', '1,1', '--widths', '8,16', '--input-size', '32']
    model = nets.ARCHITECTURES['ConvNeXt'].model(parse_args(network + ['--data-format', 'NHWC']))
    logits = model.classify(tf.constant(validation_transform(image, View(32, 'revisiting-at'))[None]))
    random = np.random.default_rng(0)
    values = {v: random.standard_normal(v.shape.as_list()).astype(np.float32) for v in tf.global_variables()}
    np.savez(tmp_path / 'net.npz', **{v.op.name: value for v, value in values.items()})
    with tf.Session() as session:
        for variable, value in values.items():
            variable.load(value, session)
        best = session.run(logits)[0].argmax()
    done = run_example('--load', str(tmp_path / 'net.npz'), '--input', path, *network)
    assert done.returncode == 0 and done.stdout.split()[:2] == ['Prediction:', str(best)], done.stderr


@pytest.mark.parametrize('flags, named', [
    (['--load', '/nowhere.npz'], '/nowhere.npz'),
    pytest.param(['--input', '/nowhere.png', '--load', 'net.npz'], '/nowhere.png', marks=pytest.mark.slow),
    pytest.param(['-d', '51', '--load', 'net.npz'], '51', marks=pytest.mark.slow)])
def test_the_example_refuses_a_mistake_in_one_line(picture, flags, named):
    done = run_example('--input', picture[0], *flags)
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.count('\n') == 1 and named in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.slow
def test_the_example_refuses_a_truncated_jpeg(picture, tmp_path):
    content = cv2.imencode('.jpg', picture[1])[1].tobytes()
    (tmp_path / 'half.jpg').write_bytes(content[:len(content) // 2])
    done = run_example('--input', str(tmp_path / 'half.jpg'), '--load', 'net.npz')
    assert done.returncode == 2 and done.stderr.endswith('half.jpg\': not a readable image, the JPEG is truncated\n')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_running(number):
    as_make_does = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1')
    demo = subprocess.Popen([sys.executable, 'scripts/demo.py'], cwd=ROOT, env=as_make_does, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
    lines = iter(demo.stdout.readline, '')
    assert 'serve-data.py' in next(lines) and 'mpirun' in next(lines)
    time.sleep(12)  # into the start of the ranks
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) >= 3
    demo.send_signal(number)
    demo.wait(timeout=60)
    assert demo.returncode not in (0, None)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
