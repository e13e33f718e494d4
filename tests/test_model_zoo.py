"""The published checkpoints: what their names stand for, downloads that break and go on, and whether a file fits.

The addresses are the local server's: nothing here has downloaded a published file.
"""
import gzip
import hashlib
import importlib.util
import json
import os
import sys
import threading
import types

import cv2
import gdown
import numpy as np
import pytest
import requests
import tensorflow.compat.v1 as tf
from gdown.exceptions import FileURLRetrievalError

import convert
import main
import model_zoo
import nets
from file_server import FileServer
from networks import make_network
from small_runs import mpirun, read_json
from test_main import refusal
from weights.find import read_checkpoint
from weights.flags import published_as, published_model, refuse_another_network
from weights.identity import AVERAGE
from zoo import fetch as fetching, published
from zoo.fetch import fetch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLAGS = ('--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--activation-name', 'mish')
PIECE = fetching._PIECE
HERE = [model.name for model in published.MODELS if model.flags is not None]
ELSEWHERE = [model.name for model in published.MODELS if model.flags is None]


@pytest.fixture(scope='module')
def weights(weights_rule):
    """The rule's weights of the network of FLAGS, by name."""
    with tf.Graph().as_default():
        make_network(*FLAGS).classify(tf.zeros([1, 8, 8, 3]))
        return {v.op.name: weights_rule.weight(v.op.name, v.shape.as_list()) for v in tf.global_variables()}


@pytest.fixture(scope='module')
def content(weights, tmp_path_factory):
    """The bytes of a checkpoint of them."""
    path = str(tmp_path_factory.mktemp('weights') / 'net.npz')
    np.savez(path, **weights)
    with open(path, 'rb') as f:
        return f.read()


@pytest.fixture
def server(content):
    server = FileServer({'/net.npz': content})
    yield server
    server.stop()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(tmp_path / 'zoo'))
    return str(tmp_path / 'zoo')


def add_model(monkeypatch, *addresses, flags=FLAGS, prefix='net.npz'):
    """Publish a model 'Tiny-silu' with files at these addresses."""
    files = tuple(published.File(address.split('/')[-1].split('=')[-1], address) for address in addresses)
    model = published.Model('Tiny-silu', published.MODELS[0].release, (), files, prefix, flags)
    monkeypatch.setitem(published._BY_NAME, 'tiny-silu', model)
    return model


@pytest.fixture
def model(server, monkeypatch):
    return add_model(monkeypatch, server.address + '/net.npz')


def failure(model, folder):
    """What a download that fails says, in one line that names the model."""
    with pytest.raises(OSError) as error:
        fetch(model, folder, None)
    line = str(error.value)
    assert '\n' not in line and line.startswith("cannot download 'Tiny-silu': ")
    assert not os.path.exists(os.path.join(folder, 'Tiny-silu'))
    return line


def arrived(model, folder, content):
    """Whether a download leaves the file alone in the model's folder."""
    path = fetch(model, folder, None)
    with open(path, 'rb') as f:
        assert f.read() == content
    assert path == os.path.join(folder, 'Tiny-silu', 'net.npz')
    assert [name for name in os.listdir(folder) if not name.startswith('.')] == ['Tiny-silu']
    assert sorted(os.listdir(os.path.dirname(path))) == ['SHA256SUMS', 'net.npz']
    return True


# Names


def test_the_four_documents_models_are_there_with_addresses_of_their_own():
    assert len(HERE) == 3 + 14 + 10 + 12 and ELSEWHERE == ['Revisiting-eps8']
    addresses = [file.address for model in published.MODELS for file in model.files]
    assert len(set(addresses)) == len(addresses) == 3 + 3 * 24 + 7
    assert all(address.startswith('https://') for address in addresses)


# As published: name, epochs, (pixels, clean, AutoAttack), RobustBench's Google Drive id or '-', shared folders.
REVISITING = '''
ConvNeXt-iso-CvSt 300 224,70.2,45.9                -                                 HpNbkLTNTBiaeo8
ViT-S             300 224,69.2,44.0                -                                 XLLnoCnJxp74Zqn
ViT-S-CvSt        300 224,72.5,48.1                1-1sUYXnj6bDXacIKI3KKqn4rlkmL-ZI2 agtDw3D7QXbDCmw
ConvNeXt-T        300 224,72.4,48.6                -                                 XLLnoCnJxp74Zqn
ConvNeXt-T-CvSt   300 224,72.7,49.5                1-FjtOF6LJ3-bf4VezsmWwncCxYSx-USP BFLoMrMdn8iBk7Y
ViT-M-CvSt        50  224,72.4,48.8                -                                 q2mkEYtq5Zjpa4e
ConvNeXt-S-CvSt   50  224,74.1,52.4                1-ZrMYajCCnrtV4oT0wa3qJJoQy1nUSnL m3bAwNg4CJY4jrp
ViT-B             50  224,73.3,50.0                -                                 XLLnoCnJxp74Zqn
ConvNeXt-B        50  224,75.6,54.3                -                                 XLLnoCnJxp74Zqn
ViT-B-CvSt        250 224,76.3,54.7                1-JBbfi_eH3tKMXObvPPHprrZae0RiQGT SbN5AJAicdZJXyr
ConvNeXt-B-CvSt   250 224,75.9,56.1;256,76.9,57.3  1-lE-waaVvfL7lgBrydmZIM9UJimmHnVe RQBEXagC7R7XweX
ConvNeXt-L-CvSt   100 224,77.0,57.7;320,78.2,59.4  10-YOVdM2EQjHemSi9x2H44qKRSOXVQmh YzBpeHRrRQzHBDz,LeYdmW9DMAr8zws
'''.strip().splitlines()


@pytest.mark.parametrize('row', [row.split() for row in REVISITING], ids=lambda row: row[0])
def test_the_models_of_revisiting_adversarial_training_are_as_published(row):
    name, epochs, figures, drive, shares = row
    model = published.find(name)
    assert model.name == name and model.epochs == int(epochs)
    assert [(f.size, f.clean, *f.attacked) for f in model.figures] == [
        tuple(map(float, part.split(','))) for part in figures.split(';')]
    assert model.pages == tuple('https://nc.mlcloud.uni-tuebingen.de/index.php/s/' + s for s in shares.split(','))
    drives = [file.address for file in model.files if file.address.startswith(published.DRIVE)]
    assert drives == ([] if drive == '-' else ['https://drive.google.com/uc?id=' + drive])
    assert model.prefix == name + '.pt' and [file.name for file in model.files] in ([], [model.prefix])
    known = 'Singh2023Revisiting_' + name.replace('CvSt', 'ConvStem')
    assert model.robustbench == ('' if drive == '-' else known)
    if drive != '-':
        assert published.find(known) is published.of_file(known + '.pt') is published.of_file(name + '.pt') is model
    flags = dict(zip(model.flags[::2], model.flags[1::2]))
    assert flags['--arch'] == name.split('-')[0] and flags['--model-name'] == name.lower()
    assert flags.get('--input-scaling') == ('imagenet' if name == 'ViT-S-CvSt' else None)


def of_pytorch(name):
    """The variables' shapes of a published model, from the names and shapes that the release's code has in PyTorch."""
    family, size, *stem = name.lower().split('-')
    sizes = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'} if family == 'convnext' else {}
    pytorch = nets.ARCHITECTURES[published.find(name).flags[1]].pytorch
    with gzip.open(os.path.join(ROOT, 'tests', 'fixtures', 'rat', 'variables.json.gz'), 'rt') as f:
        entries = json.load(f)['_'.join([family, sizes.get(size, size), *stem])]['entries']
    return {pytorch.variable(each): pytorch.shape(pytorch.variable(each), tuple(shape)) for each, shape in entries}


@pytest.mark.parametrize('name', [row.split()[0] for row in REVISITING])
def test_a_file_with_the_names_of_its_network_is_known_as_the_published_model(name):
    model = published.find(name)
    for file in (model.prefix, model.robustbench + '.pt')[:1 + bool(model.robustbench)]:
        assert published_as(types.SimpleNamespace(path='/elsewhere/' + file, shapes=of_pytorch(name))) is model
    other = 'ViT-S' if name != 'ViT-S' else 'ViT-B'
    assert published_as(types.SimpleNamespace(path='/x/' + model.prefix, shapes=of_pytorch(other))) is None


def test_a_file_that_came_with_a_normalisation_is_not_judged_without(monkeypatch):
    """Of the models that RobustBench does not have, the release's page does not say it."""
    came = types.SimpleNamespace(shapes=of_pytorch('ViT-B'), told=types.SimpleNamespace(scaling='imagenet'))
    monkeypatch.setattr('weights.flags.open_checkpoint', lambda load: came)
    argv = ['--eval', '--load', 'zoo:ViT-B']
    with pytest.raises(ValueError, match="'zoo:ViT-B': the file has a normalisation.*type --input-scaling imagenet"):
        refuse_another_network(main.parse_args(argv))
    refuse_another_network(main.parse_args(argv + ['--input-scaling', 'imagenet']))
    came.told.scaling = None
    refuse_another_network(main.parse_args(argv))
    refuse_another_network(main.parse_args(argv[:2] + ['zoo:ViT-S-CvSt', '--model-name', 'vit-b']))


def test_those_fine_tuned_at_epsilon_8_are_a_folder(capsys, folder):
    model = published.find('revisiting-eps8')
    assert model.pages == ('https://nc.mlcloud.uni-tuebingen.de/index.php/s/FiTToeo4RKY896P',) and not model.figures
    assert not model_zoo.main(['list', 'revisiting-eps8'])
    assert model.pages[0] in capsys.readouterr().out
    assert model_zoo.main(['download', 'revisiting-eps8']) == 2
    line, = capsys.readouterr().err.splitlines()
    assert model.pages[0] in line and '--load FILE' in line


@pytest.mark.parametrize('name, clean, attacked', [
    ('R152', 100 - 37.7, (100 - 47.5, 100 - 58.3, 100 - 61.0)), ('Res50-relu', 68.7, (35.3, 33.7, 33.1)),
    ('Res50-silu', 69.7, (43.0, 42.2, 41.9)), ('ResX152-silu-380-32x8d', 78.0, (53.0, 51.7, 51.0)),
    ('efficientnet-bL1-enhanced', 82.2, (58.6,)), ('ConvNeXt-L-CvSt', 77.0, (57.7,))])
def test_published_figures_are_accuracies(name, clean, attacked):
    figures = published.find(name).figures[0]
    np.testing.assert_allclose((figures.clean,) + figures.attacked, (clean,) + attacked, atol=1e-9)


def test_longer_attacks_leave_less():
    for model in published.MODELS:
        for figures in model.figures:
            falling = [figure for figure in (figures.clean,) + figures.attacked if figure is not None]
            assert falling == sorted(falling, reverse=True) and all(0 < figure < 100 for figure in falling)


@pytest.mark.parametrize('name', HERE)
def test_a_model_s_flags_ask_for_its_network_and_its_paper_s_attack(name):
    args = main.parse_args(['--eval', '--load', 'zoo:' + name])
    model = published.find(name)
    assert args.input_size == model.figures[0].size and args.num_classes == 1000
    attack = args.targeted, args.attack_epsilon, args.attack_iter, args.attack_step_size
    assert attack == ((True, 16, 30, 1) if name in ('R152', 'R152-Denoise', 'X101-DenoiseAll') else (False, 4, 10, 1))
    assert args.moving_average_decay == (0.9999 if name.endswith('-enhanced') else 0)


@pytest.mark.parametrize('name, field, value', [
    ('R152', 'padding', 'same'), ('R152', 'activation_name', 'relu'), ('Res50-gelu', 'activation_name', 'gelu'),
    ('Res50-silu', 'padding', 'explicit'), ('Res101-silu', 'depth', 101), ('ResX50-silu-32x4d', 'group', 32),
    ('ResX50-silu-32x4d', 'res2_bottleneck', 4), ('ResX152-silu-380-32x8d', 'depth', 152),
    ('R152-Denoise', 'arch', 'ResNetDenoise'), ('X101-DenoiseAll', 'arch', 'ResNeXtDenoiseAll'),
    ('X101-DenoiseAll', 'depth', 101), ('efficientnet-b7', 'model_name', 'efficientnet-b7'),
    ('efficientnet-bL1-enhanced', 'model_name', 'efficientnet-bL1')])
def test_what_weights_do_not_tell_is_in_the_flags(name, field, value):
    assert getattr(main.parse_args(['--eval', '--load', 'zoo:' + name]), field) == value


def test_a_typed_flag_wins_over_the_model_s():
    args = main.parse_args(['--activation-name', 'relu', '--load', 'zoo:Res50-silu', '--eval', '--input-size', '256'])
    assert (args.activation_name, args.input_size, args.depth) == ('relu', 256, 50)


def test_training_from_a_model_takes_its_network_and_leaves_the_recipe_its_averages():
    args = main.parse_args(['--load', 'zoo:efficientnet-b1'])
    assert (args.model_name, args.input_size, args.moving_average_decay) == ('efficientnet-b1', 240, 0.9999)


@pytest.mark.parametrize('text, name', [
    ('res50-SILU', 'Res50-silu'), ('zoo:Res50-silu', 'Res50-silu'), ('ConvNext-T-CvSt', 'ConvNeXt-T-CvSt')])
def test_names_are_found_in_any_case(text, name):
    assert published.find(text).name == name


@pytest.mark.parametrize('name, near', [
    ('Res50-silo', 'Res50-silu'), ('efficientnet-l1', 'efficientnet-bL1'), ('R152Denoise', 'R152-Denoise')])
def test_a_near_miss_is_told_the_name(name, near):
    with pytest.raises(ValueError, match="'{}'; did you mean .*{}".format(name, near)):
        published.find(name)


@pytest.mark.parametrize('run, argv', [
    (main.parse_args, ['--eval', '--load', 'zoo:{}']), (main.parse_args, ['--load', 'zoo:{}']),
    (model_zoo.main, ['verify', '{}'])])
@pytest.mark.parametrize('name, said', [('Nothing', 'no published model'), ('revisiting-eps8', 'a folder of models')])
def test_what_cannot_be_loaded_is_refused_in_one_line(capsys, folder, run, argv, name, said):
    line = refusal(capsys, run, [word.format(name) for word in argv])
    assert said in line and name.lower() in line.lower()


@pytest.mark.parametrize('mode', ['list', 'download'])
def test_an_unknown_name_is_refused_in_one_line(capsys, folder, mode):
    assert 'Res50-silu' in refusal(capsys, model_zoo.main, [mode, 'R152', 'Res50-silux'])
    assert not os.path.exists(folder)


def test_the_list_has_every_model_and_its_figures(capsys):
    assert not model_zoo.main(['list'])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith('  ')}
    assert all(model.name in rows for model in published.MODELS)
    assert rows['Res50-silu'][1:6] == ['224', '69.7', '43.0', '42.2', '41.9']
    assert rows['R152-Denoise'][3:6] == ['55.7', '/', '4.9'] and rows['Res50-mish'][2:6] == ['-'] * 4


def test_the_list_of_one_model_has_all_about_it(capsys, folder):
    model_zoo.main(['list', 'r152-denoise', 'ConvNeXt-L-CvSt'])
    shown = capsys.readouterr().out
    assert published.find('R152-Denoise').files[0].address in shown and '--arch ResNetDenoise -d 152' in shown
    assert '--arch ConvNeXt --model-name convnext-l-cvst' in shown
    assert '320 pixels: clean 78.2, AutoAttack 59.4' in shown
    assert 'Singh2023Revisiting_ConvNeXt-L-ConvStem' in shown and 'trained     100 epochs' in shown
    # Both addresses of the folder, the newer first.
    assert 0 < shown.index('index.php/s/YzBpeHRrRQzHBDz') < shown.index('index.php/s/LeYdmW9DMAr8zws')


# Downloads


def test_a_whole_file_arrives_and_is_never_asked_for_again(server, model, folder, content):
    assert arrived(model, folder, content) and arrived(model, folder, content)
    assert server.asked == [('/net.npz', None)]


def test_a_file_that_is_there_is_not_touched(server, model, folder):
    os.makedirs(os.path.join(folder, 'Tiny-silu'))
    path = os.path.join(folder, 'Tiny-silu', 'net.npz')
    with open(path, 'w') as f:
        f.write("the user's own")
    assert fetch(model, folder, None) == path and server.asked == []
    with open(path) as f:
        assert f.read() == "the user's own"


def test_a_cut_download_goes_on_where_it_stopped(server, model, folder, content):
    server.cut = 3 * PIECE + 100
    line = failure(model, folder)
    assert '{:,} of {:,} bytes'.format(3 * PIECE, len(content)) in line
    server.cut = None
    assert arrived(model, folder, content)
    assert server.asked[1:] == [('/net.npz', 'bytes={}-'.format(3 * PIECE))]


@pytest.mark.parametrize('trouble', ['no ranges', 'another part', 'too long'])
def test_what_cannot_go_on_starts_anew(server, model, folder, content, trouble):
    server.cut = PIECE
    failure(model, folder)
    part = os.path.join(folder, 'Tiny-silu.part', 'net.npz.part')
    assert os.path.getsize(part) == PIECE
    server.cut, server.ranges, server.shift = None, trouble != 'no ranges', 7 * (trouble == 'another part')
    if trouble == 'too long':
        with open(part, 'ab') as f:
            f.write(bytes(len(content)))
    assert arrived(model, folder, content)


def test_a_file_of_the_wrong_length_is_not_taken(server, model, folder, content, monkeypatch):
    # A server that tells a length and a library that does not look at it.
    pieces = requests.Response.iter_content
    monkeypatch.setattr(requests.Response, 'iter_content', lambda self, size: [next(pieces(self, 999))])
    assert '999 bytes instead of {:,}'.format(len(content)) in failure(model, folder)
    monkeypatch.undo()


def test_what_came_without_a_length_and_is_damaged_is_removed(server, model, folder, content):
    server.length, server.cut = False, 5000
    assert 'damaged' in failure(model, folder)
    assert os.listdir(os.path.join(folder, 'Tiny-silu.part')) == []
    server.cut = None
    assert arrived(model, folder, content)


def test_a_file_that_is_not_there_is_named_with_the_server_s_answer(server, model, folder, content):
    server.files.clear()
    assert '404 Not Found for {}/net.npz'.format(server.address) in failure(model, folder)


def test_a_page_is_no_file(server, model, folder):
    server.kind = 'text/html; charset=utf-8'
    assert 'a page instead of a file' in failure(model, folder)


def test_without_a_connection_there_is_one_line_and_exit_code_2(capsys, server, model, folder, monkeypatch):
    server.stop()
    with pytest.raises(OSError, match='cannot reach 127.0.0.1'):
        fetch(model, folder, None)
    assert model_zoo.main(['download', 'Tiny-silu']) == 2
    out, err = capsys.readouterr()
    assert err.count('\n') == 1 and 'Tiny-silu' in err and 'cannot reach' in err


def test_a_folder_that_cannot_be_is_named(model, tmp_path):
    (tmp_path / 'file').write_text('')
    assert str(tmp_path / 'file') in failure(model, str(tmp_path / 'file' / 'zoo'))


def test_an_incomplete_folder_of_the_model_s_name_is_left_alone(server, monkeypatch, folder):
    model = add_model(monkeypatch, server.address + '/net.npz', server.address + '/other')
    os.makedirs(os.path.join(folder, 'Tiny-silu'))
    with open(os.path.join(folder, 'Tiny-silu', 'net.npz'), 'w') as f:
        f.write('half')
    with pytest.raises(OSError, match='move it away'):
        fetch(model, folder, None)
    assert os.listdir(os.path.join(folder, 'Tiny-silu')) == ['net.npz'] and server.asked == []


def test_two_who_want_a_model_at_once_download_it_once(server, model, folder, content):
    both = [threading.Thread(target=fetch, args=(model, folder, None)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert arrived(model, folder, content) and len(server.asked) == 1


def test_the_command_downloads_all_it_can(capsys, server, model, folder, monkeypatch):
    assert model_zoo.main(['download', 'TINY-silu', '--dir', folder + '2']) == 0
    assert os.path.join(folder + '2', 'Tiny-silu', 'net.npz') in capsys.readouterr().out
    lost = model._replace(name='Lost', files=(published.File('x.npz', server.address + '/x.npz'),), prefix='x.npz')
    monkeypatch.setitem(published._BY_NAME, 'lost', lost)
    assert model_zoo.main(['download', 'lost', 'tiny-silu']) == 2
    out, err = capsys.readouterr()
    assert model.is_in(folder) and err.count('\n') == 1 and "'Lost'" in err


def test_a_model_without_files_has_a_page_and_a_place_for_what_is_saved_by_hand(capsys, folder):
    assert model_zoo.main(['download', 'ConvNeXt-iso-CvSt', 'ViT-B']) == 2
    lines = capsys.readouterr().err.splitlines()
    for line, name, share in zip(lines, ('ConvNeXt-iso-CvSt', 'ViT-B'), ('HpNbkLTNTBiaeo8', 'XLLnoCnJxp74Zqn')):
        path = os.path.join(folder, name, name + '.pt')
        assert "'{}'".format(name) in line and 'index.php/s/' + share in line and "as '{}'".format(path) in line
        os.makedirs(os.path.dirname(path))
        with open(path, 'w') as f:
            f.write("the user's own")
    assert model_zoo.main(['download', 'ConvNeXt-iso-CvSt', 'ViT-B']) == 0
    assert published.local_path('zoo:ViT-B') == path


# Their SHA-256


def test_the_sha256_of_what_came_stands_beside_it_and_another_file_is_refused(capsys, server, model, folder, content):
    path = fetch(model, folder, None)
    with open(os.path.join(folder, 'Tiny-silu', 'SHA256SUMS')) as f:
        assert f.read() == '{}  net.npz\n'.format(hashlib.sha256(content).hexdigest())
    assert fetch(model, folder, None) == path
    with open(path, 'ab') as f:
        f.write(b'x')
    with pytest.raises(OSError, match="net.npz' is not the file that was downloaded: its SHA-256 is .*, and was .*mov"):
        fetch(model, folder, None)
    for run, argv in ((model_zoo.main, ['verify', 'tiny-silu']),
                      (convert.main, ['weights', '--load', 'zoo:tiny-silu', folder + '/Y.npz'])):
        assert 'is not the file that was downloaded' in refusal(capsys, run, argv)


def test_a_published_sha256_decides(server, folder, content, monkeypatch):
    model = add_model(monkeypatch, server.address + '/net.npz')
    right, wrong = (model._replace(files=(model.files[0]._replace(sha256=hashlib.sha256(c).hexdigest()),))
                    for c in (content, b'another'))
    assert 'is published; it was removed' in failure(wrong, folder)
    assert os.listdir(os.path.join(folder, 'Tiny-silu.part')) == []
    assert arrived(right, folder, content)
    with pytest.raises(OSError, match='is not the file that was downloaded'):
        fetch(wrong, folder, None)


def test_damaged_sums_are_named(server, model, folder):
    fetch(model, folder, None)
    with open(os.path.join(folder, 'Tiny-silu', 'SHA256SUMS'), 'w') as f:
        f.write('abc')
    with pytest.raises(OSError, match="SHA256SUMS' is damaged"):
        fetch(model, folder, None)


def test_a_conversion_of_a_published_model_says_what_it_is(server, model, folder, tmp_path):
    convert.main(['weights', '--load', 'zoo:tiny-silu', str(tmp_path / 'renamed.npz')])
    args = main.parse_args(['--eval', '--load', str(tmp_path / 'renamed.npz')])
    assert (args.arch, args.depth, args.input_size, args.activation_name) == ('CifarResNet', 8, 8, 'mish')


# Google Drive


@pytest.fixture
def checkpoint_files(weights, tmp_path):
    """The two files of a TensorFlow checkpoint of the weights, and a third one, by name."""
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=value) for name, value in weights.items()]
        session.run(tf.global_variables_initializer())
        tf.train.Saver(variables).save(session, str(tmp_path / 'saved' / 'net'), write_state=False)
    return {path.name: path.read_bytes() for path in sorted((tmp_path / 'saved').iterdir(), reverse=True)}


@pytest.fixture
def on_drive(checkpoint_files, monkeypatch):
    """The model with these files on Google Drive, each one's name its id."""
    assert len(checkpoint_files) == 3
    return add_model(monkeypatch, *(published.DRIVE + name for name in checkpoint_files), prefix='net')


def test_files_on_google_drive_come_through_gdown(on_drive, checkpoint_files, folder, monkeypatch, weights):
    asked = []

    def download(url, output, quiet, use_cookies, resume):
        asked.append(url)
        with open(output, 'wb') as f:
            f.write(checkpoint_files[url.split('=')[1]])
        return output
    monkeypatch.setattr(gdown, 'download', download)
    path = fetch(on_drive, folder, None)
    assert asked == [published.DRIVE + name for name in checkpoint_files]
    values = read_checkpoint(path)
    assert values.keys() == weights.keys() and all(np.array_equal(values[k], weights[k]) for k in weights)


@pytest.mark.parametrize('error, said', [
    (FileURLRetrievalError('Failed:\n\n\tToo many users'), 'browser'), (KeyError('Content-Type'), 'browser'),
    (requests.ConnectionError('(Caused by'), 'Run this again'), (OSError(28, 'No space left on device'), 'No space'),
    (None, 'gdown did not bring')])
def test_what_gdown_cannot_bring_is_said_in_one_line(on_drive, folder, monkeypatch, error, said):
    def download(*_, **__):
        if error:
            raise error
    monkeypatch.setattr(gdown, 'download', download)
    line = failure(on_drive, folder)
    assert said in line and (said != 'browser' or on_drive.files[0].address in line)


@pytest.fixture
def drive(checkpoint_files, monkeypatch):
    """A server that gdown takes for Google Drive."""
    server = FileServer({'/' + name: content for name, content in checkpoint_files.items()})
    server.drive = True
    get = requests.Session.get
    monkeypatch.setattr(requests.Session, 'get', lambda self, url, **others: get(
        self, url.replace('https://drive.google.com', server.address), **others))
    yield server
    server.stop()


def test_gdown_itself_confirms_a_large_file_and_goes_on_after_a_cut(drive, on_drive, folder, weights, monkeypatch):
    monkeypatch.setattr(sys.modules['gdown.download'], 'CHUNK_SIZE', 500)
    drive.cut = 1000
    failure(on_drive, folder)
    drive.cut = None
    values = read_checkpoint(fetch(on_drive, folder, None))
    assert all(np.array_equal(values[name], weights[name]) for name in weights)
    assert [part for _, part in drive.asked if part] == ['bytes=1000-']
    assert sorted(os.listdir(os.path.join(folder, 'Tiny-silu'))) == sorted(
        [file.name for file in on_drive.files] + ['SHA256SUMS'])


def test_what_drive_does_not_give_out_is_said_in_one_line(drive, on_drive, folder):
    drive.files.clear()
    assert 'browser' in failure(on_drive, folder)


# Whether a file fits


def verify(capsys, *argv):
    """Exit code and report."""
    code = model_zoo.main(['verify', *map(str, argv)])
    return code, capsys.readouterr().out


@pytest.mark.parametrize('change, code, said', [
    ({}, 0, '37 of 37 variables'),
    ({'linear/b': None}, 1, '1 missing in the checkpoint:\n  linear/b\n'),
    ({'linear/W': np.zeros([64, 7], np.float32)}, 1,
     '1 of another shape:\n  linear/W: [64, 10] in the network, [64, 7] in the checkpoint\n'),
    ({'other/W': np.zeros(3)}, 1, '1 unknown to the network:\n  other/W\n'),
    ({'linear/W/Momentum': np.zeros([64, 10]), 'global_step': np.int64(3)}, 0, '37 of 37'),
    ({'linear/b': np.full(10, np.nan, np.float32)}, 1, '1 not finite:\n  linear/b\n')])
def test_a_file_is_laid_beside_the_network_of_the_flags(capsys, tmp_path, weights, change, code, said):
    values = {name: value for name, value in dict(weights, **change).items() if value is not None}
    np.savez(tmp_path / 'X.npz', **values)
    found, report = verify(capsys, tmp_path / 'X.npz', *FLAGS)
    assert found == code and said in report
    assert report.count('\n') == (1 if code == 0 else 4 if 'linear/W' in change and code else 3)
    assert ('It is CifarResNet of 8 layers, 7 classes: --arch CifarResNet -d 8 --num-classes 7\n' in report) == (
        'of another shape' in said)


def test_averages_and_batch_norm_of_rank_5_fit_as_they_load(capsys, tmp_path, few_blocks, weights_rule):
    flags = few_blocks + ['--num-classes', '3', '--input-size', '16']
    with tf.Graph().as_default():
        make_network(*flags).classify(tf.zeros([1, 16, 16, 3]))
        values = {}
        for v in tf.global_variables():
            shape = v.shape.as_list()
            shape = [1, 1, 1, 1] + shape if 'batch_normalization' in v.op.name else shape
            name = v.op.name + AVERAGE
            values[name] = weights_rule.weight(name, shape)
    np.savez(tmp_path / 'X.npz', **values)
    assert verify(capsys, tmp_path / 'X.npz', *flags)[0] == 0  # the recipe's decay is 0.9999
    code, report = verify(capsys, tmp_path / 'X.npz', *flags, '--moving-average-decay', '0')
    assert code == 1 and '{} missing in the checkpoint'.format(len(values)) in report


def test_a_downloaded_model_is_verified_by_its_name_with_its_flags(capsys, server, model, folder):
    line = refusal(capsys, model_zoo.main, ['verify', 'tiny-silu'])
    assert 'python model_zoo.py download Tiny-silu' in line
    fetch(model, folder, None)
    assert verify(capsys, 'tiny-silu') == (0, 'zoo:Tiny-silu: 37 of 37 variables of CifarResNet8 fit\n')
    assert verify(capsys, 'zoo:Tiny-silu', '--num-classes', '7')[0] == 1


@pytest.mark.parametrize('argv, named', [
    (['/nowhere.npz'], '/nowhere.npz'), (['Res50-silux'], 'Res50-silu'), (['Res50-silu', '-d', '51'], '51'),
    (['Res50-silu', '--no-such-flag'], '--no-such-flag'), ([], 'NAME|FILE')])
def test_a_mistake_in_verify_is_refused_in_one_line(capsys, folder, argv, named):
    assert named in refusal(capsys, model_zoo.main, ['verify'] + argv)


def test_a_damaged_file_is_refused_in_one_line(capsys, tmp_path, content):
    (tmp_path / 'X.npz').write_bytes(content[:5000])
    assert 'X.npz' in refusal(capsys, model_zoo.main, ['verify', str(tmp_path / 'X.npz'), *FLAGS])


# --load zoo:NAME


def test_an_evaluation_downloads_the_model_and_judges_it_with_its_flags(server, model, folder, tmp_path, content):
    with tf.Graph().as_default():
        main.main(['--eval', '--load', 'zoo:tiny-silu', '--attack-iter', '0', '--results-dir',
                   str(tmp_path / 'by-name')])
    assert arrived(model, folder, content)
    with tf.Graph().as_default():
        main.main(['--eval', '--load', model.path(folder), *FLAGS, '--attack-iter', '0', '--results-dir',
                   str(tmp_path / 'by-path')])
    named, direct = (read_json(tmp_path / name / 'results.json') for name in ('by-name', 'by-path'))
    assert named['clean'] == direct['clean'] and named['num_images'] > 100
    assert named['args']['load'] == 'zoo:tiny-silu' and named['args']['activation_name'] == 'mish'


def test_under_threat_models_its_published_figures_stand_beside_what_is_measured(server, model, folder, tmp_path,
                                                                                  capsys, monkeypatch):
    known = model._replace(figures=(published.Figures(8, 90.5, (40.5,)),), release=model.release._replace(
        attacks=(published.Under('PGD', 'PGD-1', 'Linf', 8.0),)))
    monkeypatch.setitem(published._BY_NAME, 'tiny-silu', known)
    with tf.Graph().as_default():
        main.main(['--eval', '--load', 'zoo:tiny-silu', '--attack-iter', '1', '--threat-models', 'Linf:8,L2:300',
                   '--results-dir', str(tmp_path / 'out')])
    results = read_json(tmp_path / 'out' / 'results.json')
    assert results['published']['model'] == 'Tiny-silu' and results['published']['clean'] == 90.5
    assert [found['published'] for found in results['threat_models']] == [40.5, None]
    linf, = [line for line in capsys.readouterr().out.splitlines() if line.startswith('Linf')]
    assert linf.split()[-1] == '40.5%'
    # The file is as well known by its own name.
    assert published_model(known.path(folder)) == published_model('zoo:tiny-silu') == known


def test_a_download_that_fails_ends_an_evaluation_in_one_line(capsys, server, model, folder):
    server.files.clear()
    with tf.Graph().as_default(), pytest.raises(SystemExit) as end:
        main.main(['--eval', '--load', 'zoo:Tiny-silu', '--attack-iter', '0'])
    errors = [line for line in capsys.readouterr().err.splitlines() if ': error: ' in line]
    assert end.value.code == 2 and len(errors) == 1 and '404' in errors[0]


def test_the_example_takes_a_model_by_its_name(capsys, graph, server, model, folder, tmp_path, monkeypatch):
    assert cv2.imwrite(str(tmp_path / 'image.png'), np.zeros([8, 8, 3], np.uint8))
    spec = importlib.util.spec_from_file_location('example', os.path.join(ROOT, 'inference-example.py'))
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(sys, 'argv', ['x', '--load', 'zoo:Tiny-silu', '--input', str(tmp_path / 'image.png')])
    example.main()
    assert capsys.readouterr().out.startswith('Prediction: ') and model.is_in(folder)


RANKS = '''
from commands import run
from third_party.utils import start_ranks
from zoo import published
release = published.MODELS[0].release
files = published.File('net.npz', {address!r}),
published._BY_NAME['tiny'] = published.Model('Tiny', release, (), files, 'net.npz', ())
ranks = start_ranks()
asked = []
bring = run.bring
run.bring = lambda *arguments: asked.append(1) or bring(*arguments)
run.bring_weights('zoo:tiny', ranks)
with open('rank-{{}}'.format(ranks.rank), 'w') as f:
    f.write('{{}} {{}}'.format(len(asked), published.local_path('zoo:tiny')))
'''


@pytest.mark.slow
def test_of_the_ranks_of_a_machine_the_first_one_downloads_and_the_others_wait(server, folder, tmp_path):
    (tmp_path / 'run').mkdir()
    ended = mpirun(2, '-c', RANKS.format(address=server.address + '/net.npz'), cwd=tmp_path / 'run')
    path = os.path.join(folder, 'Tiny', 'net.npz')
    assert {p.name: p.read_text() for p in (tmp_path / 'run').iterdir()} == {
        'rank-0': '1 ' + path, 'rank-1': '0 ' + path}, ended.stderr
    assert len(server.asked) == 1


@pytest.mark.slow
def test_all_ranks_end_in_one_line_where_the_first_one_cannot_download(server, folder, tmp_path):
    ended = mpirun(2, '-c', RANKS.format(address=server.address + '/lost.npz'), cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.count(': error: ') == 1 and '404' in ended.stderr
    assert not list(tmp_path.glob('rank-*'))
