"""What a checkpoint is: told by names and shapes, refused as another network with the flags to type."""
import gzip
import json
import os
import zipfile

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from commands.command_line import add_architecture_flags, add_averages_flag, resolve_architecture
from nets import ARCHITECTURES
from networks import make_network
from ranks.command_line import OneLineParser
from test_main import refusal
from weights import identity
from weights.find import read_checkpoint
from weights.identity import AVERAGE, describe, network_of_flags
from weights.match import match_variables
from weights.stored import Stored, fault_of
from zoo import published

HERE = os.path.dirname(os.path.abspath(__file__))
with gzip.open(os.path.join(HERE, 'fixtures', 'variables.json.gz'), 'rt') as f:
    SHAPES = {row: {name: tuple(shape) for name, shape, _ in found['variables']} for row, found in json.load(f).items()}
# The same of "Revisiting Adversarial Training for ImageNet", of PyTorch's names and shapes.
with gzip.open(os.path.join(HERE, 'fixtures', 'rat', 'variables.json.gz'), 'rt') as f:
    SINGH_SHAPES = {row: {name.replace('.', '/'): ARCHITECTURES['ConvNeXt' if 'conv' in row else 'ViT'].pytorch.shape(
                              name.replace('.', '/'), tuple(shape)) for name, shape in found['entries']}
                    for row, found in json.load(f).items()}
# Of rows with the same list, which differ in activation or padding alone, one.
ROWS = list({json.dumps(sorted(shapes.items())): row for row, shapes in SHAPES.items()}.values())
TINY = ('--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--activation-name', 'silu')


def flags_of(row):
    """The flags that a row's name asks for."""
    if row.startswith('efficientnet'):
        return ['--arch', 'EfficientNet', '--model-name', row]
    name, depth, *rest = row.split('_')[1].split('-')
    flags = ['--arch', 'ResNet' if name == 'ResNeXt' else name, '-d', depth]
    if name == 'ResNeXt':
        group, width = rest[0].rstrip('d').split('x')
        flags += ['--group', group, '--res2-bottleneck', width]
    return flags + ['--activation-name', 'smoothrelu'] * ('smoothrelu' in rest)


@pytest.fixture(scope='module')
def network_asked_for():
    """function(flags) -> the ``Network`` that they resolve to."""
    parser = OneLineParser(allow_abbrev=False)
    add_architecture_flags(parser)
    add_averages_flag(parser)

    def resolve(flags):
        args = parser.parse_args(flags)
        resolve_architecture(args, parser)
        return network_of_flags(vars(args))
    return resolve


def test_the_lists_are_those_of_all_published_networks():
    assert len(ROWS) == 21
    there = {str(describe(shapes)) for shapes in [*SHAPES.values(), *SINGH_SHAPES.values()]}
    assert {str(identity.network_of_words(model.flags)) for model in published.MODELS if model.flags} <= there


@pytest.mark.parametrize('row', SHAPES)
def test_a_published_network_is_told_by_its_variables(row, network_asked_for):
    found = describe(SHAPES[row])
    assert found.is_same(network_asked_for(flags_of(row))) and found.flags() == flags_of(row)


def as_trained(shapes):
    """A training run's checkpoint, with averages."""
    return {**shapes, **{name + slot: shape for name, shape in shapes.items() for slot in ('/Momentum', AVERAGE)},
            'global_step': (), 'learning_rate': ()}


@pytest.mark.parametrize('change', [as_trained, lambda shapes: {name + AVERAGE: s for name, s in shapes.items()}])
@pytest.mark.parametrize('row', ['fair_ResNetDenoise-50', 'efficientnet-b0'])
def test_momentum_and_averages_do_not_hide_it(row, change):
    assert describe(change(SHAPES[row])) == describe(SHAPES[row])


@pytest.mark.parametrize('asked', ROWS)
def test_every_other_published_list_is_refused_and_the_line_names_its_flags(asked, network_asked_for):
    network = describe(SHAPES[asked])
    for held in ROWS:
        if held == asked:
            identity.refuse_another_network(network, describe(SHAPES[held]), 'X.npz')
            continue
        with pytest.raises(ValueError) as error:
            identity.refuse_another_network(network, describe(SHAPES[held]), 'X.npz')
        line = str(error.value)
        assert '\n' not in line and "'X.npz'" in line
        named = line.split('; give ')[1].replace('(another than smoothrelu)', 'silu').split()
        assert set(flags_of(held)) <= set(named), (held, line)
        assert network_asked_for(named).is_same(describe(SHAPES[held]))
        if network.arch == describe(SHAPES[held]).arch:  # also where they are added to the flags that were typed
            assert network_asked_for(flags_of(asked) + named).is_same(describe(SHAPES[held]))


@pytest.mark.parametrize('flags', [
    TINY, ('--arch', 'CifarResNet', '-d', '18', '--num-classes', '7'), ('--arch', 'CifarResNet', '-d', '56'),
    TINY[:-1] + ('smoothrelu',), ('--num-classes', '10', '--group', '2', '--res2-bottleneck', '32'),
    ('--arch', 'EfficientNet', '--activation-name', 'smoothrelu', '--num-classes', '12'),
    ('--arch', 'EfficientNet', '--model-name', 'efficientnet-b3', '--width-coefficient', '0.35',
     '--depth-coefficient', '0.9')])
def test_the_variables_of_a_graph_are_told_apart(graph, flags, network_asked_for):
    make_network(*flags, '--input-size', '32').classify(tf.zeros([1, 32, 32, 3]))
    found = describe({v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()})
    assert found.is_same(network_asked_for(list(flags))) and network_asked_for(found.flags()).is_same(found)


@pytest.mark.parametrize('change', [
    {'linear/W': None}, {'group1/block2/conv1/W': None}, {'group3/block3/conv1/W': (1, 1, 2048, 512)},
    {'linear/W': (2048,)}])
def test_other_variables_are_of_no_network(change):
    shapes = {name: shape for name, shape in {**SHAPES['sat_ResNet-50-silu'], **change}.items() if shape}
    assert describe(shapes) is None and describe({}) is None


def test_names_that_no_network_has_are_refused_beside_all_of_its_own(graph):
    variables = [tf.get_variable(name, [2]) for name in ('a', 'b')]
    values = {'a': np.zeros(2), 'b': np.zeros(2), 'other/W': np.zeros(2), 'lost' + AVERAGE: np.zeros(2)}
    with pytest.raises(ValueError, match="'X' holds 2 variables that the network lacks: lost, other/W"):
        match_variables(variables, values, 'X')
    values = {'a': np.zeros(2), 'b': np.zeros(2), 'a/Momentum': np.zeros(2), 'global_step': np.int64(1)}
    assert len(match_variables(variables, values, 'X')) == 2


# Files: names and shapes first


def test_an_array_that_no_network_needs_is_never_unpacked(graph, tmp_path):
    """Of 3 GB, by what stands before it."""
    path = str(tmp_path / 'X.npz')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape in (('a', (2,)), ('bomb', (3 * 2 ** 28,)), ('a/Momentum', (2 ** 20,))):
            with archive.open(name + '.npy', 'w', force_zip64=True) as f:
                np.lib.format.write_array_header_1_0(f, dict(descr='<f4', fortran_order=False, shape=shape))
                f.write(bytes(8) if name == 'a' else bytes(1 << 20))
    held = Stored(path)
    assert held.shapes == {'a': (2,), 'bomb': (3 * 2 ** 28,), 'a/Momentum': (2 ** 20,)}
    with pytest.raises(ValueError, match='bomb'):
        match_variables([tf.get_variable('a', [2])], held, path)
    assert held['a'].tolist() == [0, 0] and list(held._read) == ['a']


@pytest.mark.parametrize('value, fault', [
    (np.float32([1, np.nan]), 'not finite'), (np.float64([1, -np.inf]), 'not finite'),
    (np.float64([1, 1e39]), 'beyond float32'),
    (np.array([True, False]), 'of type bool'), (np.complex64([1, 2]), 'of type complex64'),
    (np.array(['a', 'b']), 'of type str'), (np.float16([1, np.inf]), 'not finite')])
@pytest.mark.parametrize('averages', [False, True])
def test_values_that_are_no_weights_are_refused_by_name(graph, value, fault, averages):
    values = {'good' + AVERAGE * averages: np.ones(2), 'linear/W' + AVERAGE * averages: value}
    variables = [tf.get_variable(name, [2]) for name in ('good', 'linear/W')]
    with pytest.raises(ValueError, match="'X.npz': 1 of 2 variables are no weights: linear/W is {}".format(fault)):
        match_variables(variables, values, 'X.npz', averages)


def test_other_types_are_weights():
    for value in (np.float16([1]), np.float64([3e38]), np.int64([7]), np.arange(3, dtype='>f4'),
                  tf.dtypes.bfloat16.as_numpy_dtype(1.5)):
        assert fault_of(value) is None


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    np.savez(tmp_path / 'X.npz', **{'W': np.zeros(1), 'W:0': np.ones(1)})
    with pytest.raises(ValueError, match="X.npz': not a readable checkpoint .*W is there twice"):
        read_checkpoint(str(tmp_path / 'X.npz'))


def test_a_damaged_array_is_refused_when_it_is_asked_for(tmp_path):
    path = str(tmp_path / 'X.npz')
    np.savez(path, a=np.arange(999.0), b=np.zeros(3))
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo('a.npy').header_offset + 3000
    with open(path, 'r+b') as f:
        f.seek(place)
        f.write(b'\xff')
    held = Stored(path)
    assert held['b'].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="X.npz': not a readable checkpoint"):
        held['a']


# Programs


@pytest.fixture(scope='module')
def tiny(tmp_path_factory, weights_rule):
    """A checkpoint of the rule's weights for the network of TINY."""
    path = str(tmp_path_factory.mktemp('tiny') / 'X.npz')
    with tf.Graph().as_default():
        make_network(*TINY).classify(tf.zeros([1, 8, 8, 3]))
        np.savez(path, **{v.op.name: weights_rule.weight(v.op.name, v.shape.as_list()) for v in tf.global_variables()})
    return path


@pytest.mark.parametrize('mode', [['--eval', '--data', 'empty'], ['--eval-directory', '.'],
                                  ['--logdir', 'runs/one', '--data', 'empty']])
def test_a_checkpoint_of_another_network_stops_every_mode_before_the_data_are_opened(capsys, tmp_path, monkeypatch,
                                                                                    tiny, mode):
    monkeypatch.chdir(tmp_path)
    os.mkdir('empty')
    line = refusal(capsys, main.main, [*mode, '--load', tiny, '--arch', 'CifarResNet', '-d', '20',
                                       '--num-classes', '5'])
    assert 'CifarResNet of 8 layers, 10 classes' in line
    assert line.rstrip().endswith('give --arch CifarResNet -d 8 --num-classes 10')
    assert os.listdir() == ['empty']


def test_a_smoothrelu_checkpoint_is_refused_by_another_activation_and_the_other_way_round(network_asked_for):
    plain, smooth = SHAPES['sat_ResNet-50-silu'], SHAPES['sat_ResNet-50-smoothrelu']
    with pytest.raises(ValueError, match='give --arch ResNet -d 50 --activation-name smoothrelu'):
        identity.refuse_another_network(network_asked_for(['-d', '50']), describe(smooth), 'X')
    with pytest.raises(ValueError, match=r'give --arch ResNet -d 50 --activation-name \(another than smoothrelu\)'):
        identity.refuse_another_network(network_asked_for(['--activation-name', 'smoothrelu']), describe(plain), 'X')
