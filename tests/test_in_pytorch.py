"""Networks for PyTorch: what is written is read as the same network, and is the same network there.

The comparison with PyTorch itself needs a Python that has PyTorch and timm: this one, or that of TORCH_PYTHON.
"""
import importlib.util
import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import tensorflow.compat.v1 as tf

import convert
import nets
from networks import make_network
from test_pytorch_weights import judged, last_line
from weights.find import open_checkpoint, read_checkpoint
from weights.match import load_into, match_variables
from weights.stored import ENTRY

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TINY = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8']


def weight(name, shape):
    """A variable's value with which a network's numbers stay of about one size."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith('smoothrelu_beta'):
        return rng.uniform(5, 20, shape).astype(np.float32)
    if 'variance' in name:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) > 1 and 'pos_embed' not in name:
        into = np.prod(shape[:2]) if 'depthwise' in name or 'dw' in name else np.prod(shape[:-1])
        # An EfficientNet's gates halve; the branch of a dot product is cubic.
        gain = 1.8 if name.startswith('efficientnet') else 1e-8 if 'non_local' in name else 1.5
        return rng.normal(0, (gain / into) ** 0.5, shape).astype(np.float32)
    scales = name.endswith(('gamma', 'weight')) * (0.4 if 'conv3/bn' in name else 1.0)
    return (scales + 0.2 * rng.uniform(-1, 1, shape)).astype(np.float32)


def write(path, flags):
    """An .npz of a network with such weights; returns its path."""
    with tf.Graph().as_default():
        model = make_network(*flags)
        model.classify(tf.zeros([1, model.image_shape, model.image_shape, 3]))
        np.savez(path, **{v.op.name: weight(v.op.name, v.shape.as_list()) for v in tf.global_variables()})
    return str(path)


def logits(load, images, *flags):
    """What a network gives for images uint8 [N,S,S,3], RGB."""
    args = judged(load, *flags)
    with tf.Graph().as_default(), tf.Session() as session:
        found = nets.ARCHITECTURES[args.arch].model(args).classify(tf.constant(images[..., ::-1]))
        load_into(session, match_variables(tf.global_variables(), open_checkpoint(args.load), args.load))
        return session.run(found)


def images_of(size, count=2):
    images = np.random.default_rng(0).integers(0, 256, [count, size, size, 3], dtype=np.uint8)
    images[0] //= 4  # a dark one
    return images


def exported(tmp_path, flags):
    """(.npz, .safetensors) of a network of these flags."""
    npz, path = write(tmp_path / 'X.npz', flags), str(tmp_path / 'X.safetensors')
    convert.main(['weights', '--load', npz, path, *flags])
    return npz, path


def metadata_of(path):
    with safetensors.safe_open(path, 'numpy') as f:
        return f.metadata()


@pytest.mark.parametrize('flags', [
    pytest.param(['--activation-name', 'mish', '--padding', 'same'], marks=pytest.mark.slow),
    pytest.param(['--activation-name', 'smoothrelu'], marks=pytest.mark.slow),
    ['--input-scaling', 'imagenet', '--padding', 'symmetric']])
def test_a_network_is_read_back_as_it_was_written(tmp_path, flags):
    npz, path = exported(tmp_path, TINY + flags)
    before, after = read_checkpoint(npz), read_checkpoint(path)
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    images = images_of(8)
    assert np.array_equal(logits(path, images), logits(npz, images, *TINY, *flags))  # with no flag for the former


def test_an_efficientnet_of_other_factors_and_another_name_is_read_back(tmp_path, few_blocks):
    flags = few_blocks + ['--model-name', 'efficientnet-b3', '--input-size', '16', '--num-classes', '3',
                          '--activation-name', 'smoothrelu', '--moving-average-decay', '0']
    npz = write(tmp_path / 'X.npz', flags)
    convert.main(['weights', '--load', npz, str(tmp_path / 'X.safetensors'), *flags[:-2]])
    before, after = read_checkpoint(npz), read_checkpoint(str(tmp_path / 'X.safetensors'))
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    args = judged(tmp_path / 'X.safetensors')
    assert (args.model_name, args.width_coefficient, args.activation_name) == ('efficientnet-b3', 0.25, 'smoothrelu')


def test_the_first_kernels_of_a_network_of_bgr_are_turned_and_no_others(tmp_path):
    """The scaling stays outside: where zeros are padded it is none of the weights."""
    npz, path = exported(tmp_path, TINY)
    held, theirs = np.load(npz), safetensors.numpy.load_file(path)
    assert np.array_equal(theirs['conv1.weight'], held['conv0/W'][:, :, ::-1].transpose(3, 2, 0, 1))
    assert np.array_equal(theirs['layer1.0.conv1.weight'], held['group0/block0/conv1/W'].transpose(3, 2, 0, 1))
    assert np.array_equal(theirs['fc.weight'], held['linear/W'].T)
    said = metadata_of(path)
    assert json.loads(said['mean']) == json.loads(said['std']) == [0.5, 0.5, 0.5]


def test_those_of_a_network_of_rgb_are_not(tmp_path):
    npz, path = exported(tmp_path, TINY + ['--input-scaling', 'imagenet'])
    assert np.array_equal(safetensors.numpy.load_file(path)['conv1.weight'],
                          np.load(npz)['conv0/W'].transpose(3, 2, 0, 1))
    said = metadata_of(path)
    assert json.loads(said['mean']) == [0.485, 0.456, 0.406] and json.loads(said['std']) == [0.229, 0.224, 0.225]


def test_the_metadata_say_what_a_user_of_pytorch_must_know(tmp_path, capsys):
    _, path = exported(tmp_path, TINY + ['--padding', 'same', '--activation-name', 'celu:0.5', '--batch-norm-epsilon',
                                         '1e-3'])
    said, printed = metadata_of(path), capsys.readouterr().out
    assert said['format'] == 'pt' and said['activation'] == 'celu:0.5' and said['batch_norm_epsilon'] == '0.001'
    assert said['input_size'] == '8' and 'RGB in [0, 1], [N,3,8,8]' in said['input'] and ENTRY in said
    assert "SAME" in said['padding'] and said['padding'] in printed and len(printed.splitlines()) == 1
    assert str(tmp_path) not in json.dumps(said)


def test_nothing_is_said_of_padding_where_it_is_pytorch_s(tmp_path, capsys):
    _, path = exported(tmp_path, TINY + ['--padding', 'symmetric'])
    assert metadata_of(path)['padding'] == "as PyTorch's"
    assert capsys.readouterr().out == '37 variables are in {}\n'.format(path)


def test_values_that_are_not_the_network_s_are_not_exported(tmp_path, capsys):
    npz = write(tmp_path / 'X.npz', TINY)
    values = dict(np.load(npz))
    values.pop('linear/b')
    np.savez(tmp_path / 'less.npz', **values)
    output = str(tmp_path / 'X.safetensors')
    assert "lacks 1 of the network's 37" in last_line(
        capsys, ['weights', '--load', str(tmp_path / 'less.npz'), output, *TINY])
    assert 'give --arch CifarResNet -d 8' in last_line(capsys, ['weights', '--load', npz, output])
    assert not os.path.exists(output)


def test_flags_of_a_conversion_go_with_the_weights(tmp_path, capsys):
    npz = write(tmp_path / 'X.npz', TINY)
    convert.main(['weights', '--load', npz, str(tmp_path / 'Y.npz'), *TINY, '--activation-name', 'mish'])
    assert judged(tmp_path / 'Y.npz').activation_name == 'mish'
    convert.main(['weights', '--load', npz, str(tmp_path / 'Z.npz')])
    assert judged(tmp_path / 'Z.npz', *TINY).activation_name == 'silu'  # nothing was said of it
    output = str(tmp_path / 'V.npz')
    capsys.readouterr()
    said = last_line(capsys, ['weights', '--load', npz, output, '--arch', 'CifarResNet', '-d', '20'])
    assert 'give --arch CifarResNet -d 8' in said and not os.path.exists(output)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')
    npz = write(tmp_path / 'X.npz', TINY)
    monkeypatch.setattr(convert, 'write_file', full)
    said = last_line(capsys, ['weights', '--load', npz, str(tmp_path / 'X.safetensors'), *TINY])
    assert 'No space left on device' in said and os.listdir(tmp_path) == ['X.npz']


# In PyTorch

def torch_python():
    """A Python that has PyTorch and timm; None if none is known."""
    named = os.environ.get('TORCH_PYTHON')
    here = all(importlib.util.find_spec(name) for name in ('torch', 'timm'))
    return named or (sys.executable if here else None)


PROGRAM = '''
import sys
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
import in_pytorch
network, metadata = in_pytorch.load(sys.argv[2])
with torch.no_grad():
    images = torch.tensor(np.load(sys.argv[3])).permute(0, 3, 1, 2) / 255
    np.save(sys.argv[4], network(images).numpy())
'''


@pytest.mark.slow
@pytest.mark.skipif(torch_python() is None, reason='no PyTorch and timm; TORCH_PYTHON names a Python with them')
@pytest.mark.parametrize('flags', [
    ['-d', '50', '--activation-name', 'silu'],
    ['-d', '50', '--activation-name', 'smoothrelu', '--group', '32', '--res2-bottleneck', '4', '--input-size', '64'],
    ['-d', '50', '--input-scaling', 'imagenet', '--padding', 'symmetric', '--input-size', '65'],
    ['--arch', 'ResNetDenoise', '-d', '50', '--input-size', '64'],
    ['--arch', 'ResNeXtDenoiseAll', '-d', '50', '--input-size', '64'],
    ['--arch', 'EfficientNet', '--model-name', 'efficientnet-b0'],
    ['--arch', 'EfficientNet', '--model-name', 'efficientnet-b2', '--input-size', '65', '--activation-name', 'mish'],
    ['--arch', 'ConvNeXt', '--model-name', 'convnext-t-cvst'],
    ['--arch', 'ConvNeXt', '--model-name', 'convnext-t', '--input-scaling', 'imagenet', '--input-size', '64'],
    ['--arch', 'ViT', '--model-name', 'vit-s-cvst'], ['--arch', 'ViT', '--model-name', 'vit-m', '--input-size', '64']],
    ids=' '.join)
def test_an_exported_network_gives_the_same_logits_in_pytorch(tmp_path, flags):
    _, path = exported(tmp_path, flags)
    images = images_of(judged(path).input_size)
    np.save(tmp_path / 'images.npy', images)
    subprocess.run([torch_python(), '-c', PROGRAM, os.path.join(ROOT, 'tools'), path, str(tmp_path / 'images.npy'),
                    str(tmp_path / 'logits.npy')], check=True)
    found, expected = np.load(tmp_path / 'logits.npy'), logits(path, images)
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
