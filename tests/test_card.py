"""What is written with weights, and what a published file's name says, become the flags of every program."""
import importlib.util
import os
import re
import shutil
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import convert
import main
import model_zoo
import weights.find
import weights.flags
from commands import command_line, training_data
from commands.training_data import open_training_data
from efficientnet import main as released
from files.atomic import write_text
from image_folders import make_noise_folder, write_image
from ranks.launched import Ranks
from small_runs import LEAN, STEPS, read_json
from test_identity import SHAPES, SINGH_SHAPES
from test_main import refusal
from weights import card
from weights.classes import classes_in, read_classes
from weights.find import PARTS, read_checkpoint
from weights.flags import published_as
from weights.identity import AVERAGE, describe, is_of_training, network_of_words
from weights.save import put_in_place
from weights.stored import ENTRY, Stored
from zoo import published

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Not the defaults of anything.
STYLE = ['--activation-name', 'mish', '--padding', 'same', '--batch-norm-epsilon', '1e-3', '--recipe',
         'feature-denoising']
CARD_FLAGS = {'arch': 'CifarResNet', 'recipe': 'feature-denoising', 'activation_name': 'mish',
              'batch_norm_epsilon': 1e-3, 'depth': 8, 'num_classes': 2, 'input_size': 8, 'padding': 'same'}


@pytest.fixture(scope='module')
def run(train, tmp_path_factory):
    """Directory of a training run, with a best checkpoint."""
    folder = tmp_path_factory.mktemp('runs') / 'one'
    train(folder, *STYLE, '--attack-iter', '0')
    return folder


@pytest.fixture
def prefix(run, tmp_path):
    """A copy of its last checkpoint, without the file of its classes."""
    for path in run.glob('model-{}.*'.format(2 * STEPS)):
        shutil.copy(path, tmp_path)
    return str(tmp_path / 'model-{}'.format(2 * STEPS))


def judged(load, *flags):
    return main.parse_args(['--eval', '--load', str(load), *flags])


def network_of(args):
    return {name: getattr(args, name) for name in CARD_FLAGS}


def test_every_checkpoint_of_a_run_says_what_it_is_and_loses_that_when_it_goes(run):
    saved = sorted(path.name for path in run.glob('*.index'))
    said = sorted(path.name for path in run.glob('*.network.json'))
    assert [name.replace('.index', '') for name in saved] == [name.replace('.network.json', '') for name in said]
    assert len(saved) == 3  # two epochs and the best
    for name in said:
        found = read_json(run / name)
        commit, differs, _ = found.pop('commit'), found.pop('changed'), found.pop('crc32')
        assert found == {'format': 1, 'flags': CARD_FLAGS, 'moving_average_decay': 0.0, 'channel_order': 'BGR',
                         'classes': ['a', 'b']}
        assert commit is None or len(commit) == 40 and differs in (None, True, False)


def test_older_ones_go_with_their_weights(train, tmp_path):
    train(tmp_path / 'run', '--keep-checkpoints', '1', *LEAN)
    said, = (tmp_path / 'run').glob('*.network.json')
    assert said.name == 'model-{}.network.json'.format(2 * STEPS)


@pytest.mark.parametrize('name', ['model-{}'.format(2 * STEPS), 'model-{}.index'.format(STEPS), 'best', ''])
def test_an_evaluation_takes_them_for_its_flags(run, name):
    args = judged(run / name)
    assert network_of(args) == CARD_FLAGS and args.targeted and args.attack_epsilon == 16


def test_training_takes_the_network_and_not_how_it_was_trained(run):
    args = main.parse_args(['--load', str(run / 'best')])
    assert network_of(args) == dict(CARD_FLAGS, recipe='sat') and not args.targeted and args.attack_epsilon == 4
    assert main.parse_args(['--load', str(run / 'best'), '--recipe', 'feature-denoising']).targeted


@pytest.mark.parametrize('flags, said', [
    (['--activation-name', 'silu'], ('--activation-name silu', '--activation-name mish')),
    (['--padding', 'explicit'], ('--padding explicit', '--padding same')),
    (['--arch', 'ResNet'], ('--arch ResNet', '--arch CifarResNet')), (['-d', '20'], ('--depth 20', '--depth 8')),
    (['--input-size', '32'], ('--input-size 32', '--input-size 8')),
    (['--batch-norm-epsilon', '1e-5'], ('--batch-norm-epsilon 1e-05', '--batch-norm-epsilon 0.001')),
    (['--recipe', 'sat'], ('--recipe sat', '--recipe feature-denoising'))])
def test_a_flag_that_contradicts_them_is_refused_with_both_values(capsys, run, flags, said):
    line = refusal(capsys, main.parse_args, ['--eval', '--load', str(run / 'best'), *flags])
    assert all(part in line for part in said) and '--ignore-checkpoint-flags' in line
    args = judged(run / 'best', *flags[:2], '--ignore-checkpoint-flags') if flags[0] != '--arch' else None
    if args:  # the typed one wins, and the rest still comes from the file
        changed = [name for name in CARD_FLAGS if getattr(args, name) != CARD_FLAGS[name]]
        assert changed == [{'-d': 'depth'}.get(flags[0], flags[0][2:].replace('-', '_'))]


def test_flags_that_agree_and_those_of_the_attack_may_be_typed(run):
    args = judged(run / 'best', '-d', '8', '--activation-name', 'MISH', '--untargeted', '--attack-epsilon', '2')
    assert network_of(args) == CARD_FLAGS and (args.targeted, args.attack_epsilon) == (False, 2)


def test_without_the_file_the_defaults_are_the_programs(prefix):
    os.remove(prefix + card.ENDING)
    assert judged(prefix, '--arch', 'CifarResNet').activation_name == 'silu'


def changed(found, **flags):
    return dict(found, flags={name: value for name, value in {**found['flags'], **flags}.items() if value is not None})


# What a program of another version, or another program, might have written.
FOREIGN = {
    'flag of no network': lambda found: changed(found, stride=3),
    'flag of another network': lambda found: changed(found, group=1),
    'no depth': lambda found: changed(found, depth=None),
    'text for a number': lambda found: changed(found, depth='8'),
    'no such activation': lambda found: changed(found, activation_name='mush'),
    'not finite': lambda found: changed(found, batch_norm_epsilon=float('nan')),
    'later format': lambda found: dict(found, format=2),
    'other channels': lambda found: dict(found, channel_order='RGB'),
    'other field': lambda found: dict(found, more=1),
    'numbers for classes': lambda found: dict(found, classes=[1, 2]),
    'no arch': lambda found: {'flags': []}}


def refuses(capsys, load):
    line = refusal(capsys, main.parse_args, ['--eval', '--load', load])
    return load in line


@pytest.mark.parametrize('foreign', FOREIGN)
def test_what_another_program_wrote_is_refused_in_one_line(capsys, prefix, foreign):
    text = card.as_text(FOREIGN[foreign](card.read(Stored(prefix))))
    np.savez(prefix + '.npz', **read_checkpoint(prefix), **{ENTRY: np.frombuffer(text.encode(), np.uint8)})
    write_text(prefix + card.ENDING, text)
    assert refuses(capsys, prefix) and refuses(capsys, prefix + '.npz')


@pytest.mark.parametrize('content', [b'', b'[]', b'{}', b'[' * 100000, b'\xff\x00', b'{"format": 1}'])
def test_what_is_no_such_file_is_refused_in_one_line(capsys, prefix, content):
    with open(prefix + card.ENDING, 'wb') as f:
        f.write(content)
    assert refuses(capsys, prefix)


def test_no_flip_or_cut_is_believed(prefix):
    with open(prefix + card.ENDING, 'rb') as f:
        content = f.read().rstrip()
    held, random = Stored(prefix), np.random.default_rng(0)
    assert card.read(held)['flags'] == CARD_FLAGS
    for _ in range(2000):
        damaged = bytearray(content)
        if random.integers(2):
            damaged[random.integers(len(content))] ^= 1 << random.integers(8)
        else:
            del damaged[random.integers(len(content)):]
        with open(prefix + card.ENDING, 'wb') as f:
            f.write(damaged)
        with pytest.raises(ValueError, match='model-'):
            card.read(held)


def test_what_belongs_to_another_checkpoint_is_refused(capsys, prefix):
    write_text(prefix + card.ENDING, card.as_text(changed(card.read(Stored(prefix)), depth=20)))
    line = refusal(capsys, main.parse_args, ['--eval', '--load', prefix])
    assert 'CifarResNet of 8 layers' in line and 'CifarResNet of 20 layers' in line


def test_an_entry_of_another_kind_is_refused(capsys, tmp_path):
    for value in (np.zeros([2, 2], np.uint8), np.zeros(3)):
        np.savez(tmp_path / 'X.npz', **{'W': np.zeros(2), ENTRY: value})
        assert 'X.npz' in refusal(capsys, main.parse_args, ['--eval', '--load', str(tmp_path / 'X.npz')])


# Conversions


@pytest.mark.parametrize('output', ['X.npz', 'X'])
def test_a_conversion_keeps_them_and_the_classes(run, tmp_path, output, capsys):
    convert.main(['weights', '--load', str(run / 'best'), str(tmp_path / output)])
    args = judged(tmp_path / output)
    assert network_of(args) == CARD_FLAGS
    assert read_classes(str(tmp_path / output)) == ['a', 'b']
    assert set(read_checkpoint(str(tmp_path / output))) == {
        name for name in read_checkpoint(str(run / 'best')) if not is_of_training(name)}
    assert model_zoo.main(['verify', str(tmp_path / output)]) == 0


def test_a_conversion_of_a_foreign_file_says_nothing(tmp_path):
    np.savez(tmp_path / 'X.npz', W=np.zeros(3))
    convert.main(['weights', '--load', str(tmp_path / 'X.npz'), str(tmp_path / 'Y.npz')])
    assert card.read(Stored(str(tmp_path / 'Y.npz'))) is None


def test_averages_are_the_default_where_they_are(train, tmp_path):
    train(tmp_path / 'run', '--moving-average-decay', '0.5', '--epochs', '1', *LEAN)
    load = str(tmp_path / 'run')
    assert judged(load).moving_average_decay == 0.5
    assert judged(load, '--moving-average-decay', '0').moving_average_decay == 0
    assert main.parse_args(['--load', load]).moving_average_decay == 0  # training has its own
    for keep, decay in (('both', 0.5), ('weights', 0), ('averages', 0)):
        convert.main(['weights', '--load', load, '--keep', keep, str(tmp_path / keep)])
        assert judged(tmp_path / keep).moving_average_decay == decay


def test_what_is_said_is_there_before_the_weights_are_complete(prefix, monkeypatch):
    order = []
    monkeypatch.setattr(os, 'replace', lambda source, target: order.append(target))
    for part in PARTS:
        shutil.copy(prefix + part, prefix + '.writing' + part)
    put_in_place(prefix + '.writing', prefix, card.read(Stored(prefix)))
    assert [name.replace(prefix, '') for name in order] == [card.ENDING, *PARTS]


# The files of published models


def write_headers(path, shapes):
    """An .npz of arrays of these shapes without their content, which nothing here may ask for."""
    with zipfile.ZipFile(path, 'w') as archive:
        for name, shape in shapes.items():
            with archive.open(name + '.npy', 'w') as f:
                np.lib.format.write_array_header_1_0(f, dict(descr='<f4', fortran_order=False, shape=shape))
    return str(path)


@pytest.fixture(scope='module')
def r152(tmp_path_factory):
    return write_headers(tmp_path_factory.mktemp('files') / 'R152.npz', SHAPES['fair_ResNet-152'])


def test_the_feature_denoising_command_means_what_it_does_there(capsys, r152, tmp_path):
    """Of its README, as written."""
    args = judged(r152, '--data', str(tmp_path), '--attack-iter', '10', '--attack-epsilon', '16.0', '--arch', 'ResNet',
                  '-d', '152')
    assert (args.recipe, args.padding, args.activation_name, args.targeted) == (
        'feature-denoising', 'same', 'relu', True)
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1
    assert 'R152' in err and '--arch ResNet -d 152 --recipe feature-denoising' in err


def test_typed_flags_win_over_a_published_name(r152):
    assert judged(r152, '--recipe', 'sat').padding == 'explicit'
    assert judged(r152, '--activation-name', 'silu').activation_name == 'silu'


def test_a_file_of_a_published_name_whose_variables_do_not_fit_is_any_other(capsys, tmp_path):
    path = write_headers(tmp_path / 'R152.npz', SHAPES['fair_ResNet-50'])
    assert judged(path).recipe == 'sat' and judged(path).depth == 50
    assert capsys.readouterr().err == ''


def test_another_name_is_no_published_file(tmp_path, r152):
    os.link(r152, tmp_path / 'r152.npz')
    assert judged(tmp_path / 'r152.npz', '-d', '152').recipe == 'sat'


def test_the_example_takes_what_a_checkpoint_says(capsys, run, graph, monkeypatch):
    spec = importlib.util.spec_from_file_location('example', os.path.join(ROOT, 'inference-example.py'))
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    image = write_image(str(run.parent / 'image.png'))
    monkeypatch.setattr(sys, 'argv', ['x', '--load', str(run / 'best'), '--input', image])
    example.main()
    # Of two classes there are no five best.
    assert re.fullmatch(r'Prediction:  [01]\n', capsys.readouterr().out)


@pytest.mark.parametrize('mode', ['saved-model', 'verify'])
def test_the_other_programs_take_them_too(r152, mode, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(convert, 'write_saved_model', lambda _, args: seen.append(args))
    monkeypatch.setattr(model_zoo, 'report', lambda _, args: seen.append(args))
    if mode == 'saved-model':
        convert.main(['saved-model', '--load', r152, str(tmp_path / 'X')])
    else:
        model_zoo.main(['verify', r152])
    assert [(args.depth, args.padding) for args in seen] == [(152, 'same')]


@pytest.mark.parametrize('name', [model.name for model in published.MODELS if model.flags is not None])
def test_every_published_file_s_name_says_its_flags(name, monkeypatch, tmp_path):
    model = published.find(name)
    held_by = next(shapes for shapes in [*SHAPES.values(), *SINGH_SHAPES.values()]
                   if describe(shapes).is_same(network_of_words(model.flags)))
    averages = AVERAGE * name.endswith('-enhanced')
    held = Stored(write_headers(tmp_path / 'X.npz', {n + averages: shape for n, shape in held_by.items()}))
    path = str(tmp_path / name / model.prefix)
    held.path = path
    for user in (command_line, weights.flags, weights.find):
        monkeypatch.setattr(user, 'find_checkpoint', lambda _: path)
    for user in (weights.flags, weights.find):
        monkeypatch.setattr(user, 'Stored', lambda _: held)
    args = {flag: value for flag, value in vars(judged(path)).items() if flag != 'load'}
    wanted = vars(judged('zoo:' + name))
    assert args == {flag: wanted[flag] for flag in args}


def test_averages_without_weights_are_not_the_published_plain_ones(tmp_path):
    os.makedirs(tmp_path / 'X')
    for folder, averages in ((tmp_path, ''), (tmp_path / 'X', AVERAGE)):
        held = Stored(write_headers(folder / 'X.npz', {n + averages: s for n, s in SHAPES['efficientnet-b0'].items()}))
        held.path = str(folder / 'efficientnet-b0')
        assert bool(published_as(held)) == (averages == '')


# The release's EfficientNet command


def test_the_release_s_defaults_yield_to_what_a_checkpoint_says(tmp_path):
    path = str(tmp_path / 'X.npz')
    own = main.parse_args(['--arch', 'EfficientNet', '--input-size', '32', '--moving-average-decay', '0'])
    np.savez(path, **card.as_entry(card.make(own, None)))

    def words(*typed):
        return released.evaluation_arguments(*released.parse(
            ['--mode=eval', '--ckpt_path=' + path, '--data_dir=' + str(tmp_path), *typed]), 1)
    args = main.parse_args(words())
    assert (args.batch_norm_epsilon, args.input_scaling, args.moving_average_decay, args.input_size) == (
        1e-5, 'sat', 0, 32)
    assert main.parse_args(words('--moving_average_decay=0.9', '--sat_preprocessing')).moving_average_decay == 0.9
    assert words('--batch_norm_epsilon=1e-3')[-4:-2] == ['--batch-norm-epsilon', '0.001']  # and is refused


# Classes of a checkpoint in training


def test_training_from_a_checkpoint_maps_the_data_by_its_class_names(run, tmp_path):
    """'b' is class 1 of the checkpoint, and class 0 of a folder of its own."""
    other = make_noise_folder(tmp_path / 'images', {'train': 4, 'val': 2}, 'b')
    args = main.parse_args(['--load', str(run / 'best'), '--data', other])
    data = open_training_data(args, Ranks())
    assert list(data.classes) == ['a', 'b']
    _, labels = next(iter(data.source(0).ds))
    assert set(labels) == {1}


def test_training_on_classes_that_a_checkpoint_lacks_is_refused_unless_told_otherwise(capsys, run, tmp_path):
    other = make_noise_folder(tmp_path / 'images', {'train': 4, 'val': 2}, 'cd')
    flags = ['--data', other, '--load', str(run / 'best'), '--logdir', str(tmp_path / 'run'), '--epochs', '1',
             '--attack-iter', '0']
    with tf.Graph().as_default():
        line = refusal(capsys, main.main, flags)
    assert "'c'" in line and 'known classes (a, b' in line and not (tmp_path / 'run').exists()
    with tf.Graph().as_default():
        main.main(flags + ['--ignore-checkpoint-flags'])
    assert classes_in(str(tmp_path / 'run')) == ['c', 'd']


def test_a_data_server_with_other_classes_than_the_checkpoint_is_refused(run, tmp_path, monkeypatch):
    left = []
    lease = SimpleNamespace(close=lambda: left.append(1), description={
        'classes': ['b', 'a'], 'num_images': 3, 'server': 's', 'shard': [0, 1], 'shared': 'd', 'seed': 0, 'fake': False,
        'dataset': str(tmp_path), 'augmentation': 'none'})
    monkeypatch.setattr(training_data, 'Lease', lambda *_, **__: lease)
    flags = ['--load', str(run / 'best'), '--serve-address', 'ipc://@identity-test']
    with pytest.raises(ValueError, match=r"its 2 classes \(a, ...\) are not the 2 of the data server"):
        open_training_data(main.parse_args(flags), Ranks())
    assert left == [1]
    open_training_data(main.parse_args(flags + ['--ignore-checkpoint-flags']), Ranks())


# Resuming


def test_a_checkpoint_of_another_step_than_its_name_says_is_not_resumed(capsys, train, run, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(run, folder)
    for part in PARTS:
        shutil.copy(folder / 'model-{}{}'.format(STEPS, part), folder / 'model-240{}'.format(part))
    before = sorted(os.listdir(folder))
    line = refusal(capsys, lambda flags: train(folder, *flags), [*STYLE, '--attack-iter', '0', '--resume'])
    assert 'model-240' in line and 'holds step {}'.format(STEPS) in line
    assert sorted(os.listdir(folder)) == before
