"""``python -m analysis``: what its commands leave behind, the page of its report, and what it refuses."""
import json
import os
import re
import shlex

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import analysis.__main__
import main
from analysis import flags, judged
from files import pages
from html_pages import Page
from networks import make_network

SIDE, CLASSES, NUM_IMAGES, MISLABELLED = 16, 10, 30, 3
NETWORK = ['--arch', 'CifarResNet', '-d', '8', '--input-size', str(SIDE)]
ATTACK = ['--attack-epsilon', '16', '--attack-step-size', '4', '--attack-iter', '4', '--batch', '16']
MODELS = ['--model', 'relu & co=--activation-name relu', '--model', 'silu=--activation-name silu']


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """(checkpoint, data): random weights of a CifarResNet-8, and images that it recognises but for some."""
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    folder, random = tmp_path_factory.mktemp('network'), np.random.default_rng(0)
    with tf.Graph().as_default(), TowerContext('', is_training=False), tf.Session() as session:
        image = tf.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        logits = make_network(*NETWORK, '--data-format', 'NHWC', '--activation-name', 'silu').get_logits(image)
        values = {v.op.name: random.normal(v.op.name.endswith('gamma'), 0.3, v.shape).astype(np.float32)
                  for v in tf.global_variables()}
        values.update((name, np.abs(value) + 0.1) for name, value in values.items() if 'variance' in name)
        for variable in tf.global_variables():
            variable.load(values[variable.op.name], session)
        blocks = random.integers(40, 216, [NUM_IMAGES, 4, 4, 3], dtype=np.uint8)
        pictures = blocks.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
        labels = session.run(logits, {image: pictures / 127.5 - 1}).argmax(1)
    labels[:MISLABELLED] = (labels[:MISLABELLED] + 1) % CLASSES
    for label in range(CLASSES):
        (folder / 'data' / 'val' / str(label)).mkdir(parents=True)
    for number, (picture, label) in enumerate(zip(pictures, labels)):
        assert cv2.imwrite(str(folder / 'data' / 'val' / str(label) / '{:02d}.png'.format(number)), picture)
    np.savez(folder / 'R8.npz', **values)
    return str(folder / 'R8.npz'), str(folder / 'data')


@pytest.fixture(scope='module')
def shared(network):
    return NETWORK + ATTACK + ['--load', network[0], '--data', network[1]]


def analyse(*argv):
    analysis.__main__.main([str(word) for word in argv])


def read_json(path):
    with open(path) as f:
        return json.load(f)


@pytest.fixture(scope='module')
def made(tmp_path_factory, shared):
    """Folder of an evaluation, `eval`, and of a report, `report`, of two networks; and the report's command."""
    folder = tmp_path_factory.mktemp('report')
    with tf.Graph().as_default():
        main.main(['--eval', *shared, '--activation-name', 'silu', '--untargeted', '--results-dir',
                   str(folder / 'eval')])
    command = ['report', *shared, *MODELS, '--images', '100', '--steps', '1,4', '--epsilons', '0,16,128', '--queries',
               '20', '--grid', '3', '--landscapes', '2', '--hardest', '3', '--seed', '0', '--results-dir',
               str(folder / 'report'), '--results', str(folder / 'eval' / 'results.json')]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('sys.argv', ['python -m analysis'] + command)
        analyse(*command)
    return folder, command


@pytest.fixture(scope='module')
def content(made):
    return (made[0] / 'report' / 'report.html').read_text()


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(content):
    found = Page(content)
    assert content.startswith('<!DOCTYPE html>') and found.all('html')[0]['lang'] == 'en'
    assert len(found.all('title')) == len(found.all('h1')) == 1
    assert not re.search(r'https?:|//\w|url\(|@import', re.sub(r'base64,[\w+/=]+', '', content))
    assert not {'script', 'link', 'iframe', 'object', 'a'} & {tag for tag, _ in found.elements}
    pictures = found.all('img')
    assert len(pictures) >= 4
    for picture in pictures:
        assert picture['src'].startswith('data:image/png;base64,iVBOR') and len(picture['alt']) > 40
    assert all(cell['scope'] in ('row', 'col') for cell in found.all('th'))


def test_the_page_holds_every_command_seed_and_version(made, content):
    text = ' '.join(''.join(Page(content).text).split())
    folder, command = made
    assert ' '.join(shlex.join(['python', '-m', 'analysis'] + command).split()) in text
    _, networks = flags.parse(command)
    assert len(networks) == 2
    for network in networks:
        assert ' '.join(shlex.join(['python', 'main.py', '--eval', '--untargeted'] + network.flags).split()) in text
        for name, value in vars(network.args).items():
            assert json.dumps(name) + ': ' + ' '.join(json.dumps(value).split()) in text or isinstance(value, tuple)
    assert 'seed 0' in text
    for name, version in read_json(folder / 'report' / 'sweep-2-silu.json')['versions'].items():
        assert '{} {}'.format(name, version) in text or name + version in text.replace(' ', '')
    assert '30 images' in text and '95%' in text and 'relu & co' in text


def test_figures_are_those_of_the_evaluation_of_the_same_images(made, content):
    folder, _ = made
    results = read_json(folder / 'eval' / 'results.json')
    found = read_json(folder / 'report' / 'sweep-2-silu.json')
    assert found['num_images'] == results['num_images'] == NUM_IMAGES
    assert found['clean']['correct'] == results['clean']['top1_correct'] == NUM_IMAGES - MISLABELLED
    attacked, = [row for row in found['steps'] if row['num_iter'] == 4]
    assert attacked['correct'] == results['adversarial']['top1_correct'] < NUM_IMAGES - MISLABELLED
    attacked, = [row for row in found['epsilons'] if row['epsilon'] == 16]
    assert attacked['correct'] == results['adversarial']['top1_correct']
    # And the evaluation has a row of the table.
    assert 'PGD-4, Linf epsilon 16, 30 images' in content
    low, high = (1 - end for end in results['adversarial']['top1_error_95'][::-1])
    assert content.count('{:.1f}% ({:.1f}–{:.1f})'.format(
        100 * (1 - results['adversarial']['top1_error']), 100 * low, 100 * high)) >= 2


def test_the_markdown_has_the_same_blocks_and_its_pictures_beside_it(made, content):
    folder = made[0] / 'report'
    text = (folder / 'report.md').read_text()
    pictures = re.findall(r'!\[([^\]]+)\]\(([^)]+)\)', text)
    assert len(pictures) == len(Page(content).all('img'))
    for alt, name in pictures:
        assert cv2.imread(str(folder / name)) is not None and len(alt) > 40
    assert re.findall(r'^## (.*)$', text, re.MULTILINE) == re.findall(r'<h2>(.*?)</h2>', content.replace('&amp;', '&'))
    with np.load(folder / 'landscape-1-relu-co.npz') as stored:
        assert stored['loss'].shape == (2, 3, 3) and stored['offsets'].tolist() == [-32, 0, 32]


def test_text_cannot_become_markup():
    nasty = '<script>alert("1")</script> & | x'
    blocks = [pages.Section(nasty), pages.Text(nasty), pages.Verdict(False, nasty), pages.Code(nasty, nasty),
              pages.Table([nasty, nasty], [[nasty, 'Flag: ' + nasty]], nasty, ('Pass', 'Flag')),
              pages.Figure('a.png', b'\x89PNG' + bytes(20), '"' + nasty, nasty)]
    found = Page(pages.as_html(nasty, nasty, blocks))
    assert not found.all('script') and ''.join(found.text).count(nasty) == 14
    assert found.all('img')[0]['alt'] == '"' + nasty and found.all('b')[1]['class'] == 'bad'
    table = [line for line in pages.as_markdown('t', 'l', blocks).splitlines() if line.startswith('| <')]
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in table} == {3}


def test_results_of_another_network_or_without_an_attack_are_refused(tmp_path, shared):
    _, networks = flags.parse(['sweep', *shared])
    attacked = {'attack': {'name': 'AutoAttack', 'norm': 'Linf', 'epsilon': 4.0}, 'adversarial': {'top1_correct': 6},
                'args': {'load': networks[0].args.load}, 'num_images': 8}
    path = tmp_path / 'results.json'

    def read(content):
        path.write_text(json.dumps(content))
        return judged.read_results([str(path)], networks)
    cell = read(attacked)['AutoAttack, Linf epsilon 4, 8 images']
    assert list(cell) == [networks[0].name] and cell[networks[0].name].startswith('75.0% (40.9')
    for content, message in ((dict(attacked, adversarial=None), 'clean'), ([1], 'no results'), ({}, 'no results'),
                             (dict(attacked, args={'load': '/elsewhere.npz'}), 'elsewhere')):
        with pytest.raises(ValueError, match=message):
            read(content)


def test_a_sweep_leaves_figures_and_a_picture_and_no_folder_is_written_to_twice(shared, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'sweep.json').write_text('mine')
    analyse('sweep', *shared, '--images', '25', '--steps', '1', '--epsilons', '128', '--queries', '2', '--results-dir',
            str(tmp_path / 'out') + os.sep)
    assert (tmp_path / 'out' / 'sweep.json').read_text() == 'mine' and os.listdir(tmp_path / 'out') == ['sweep.json']
    assert sorted(os.listdir(tmp_path / 'out-2')) == ['curves.png', 'sweep.json', 'sweep.md']
    found = read_json(tmp_path / 'out-2' / 'sweep.json')
    assert found['num_images'] == 25 and found['seed'] == 0
    assert {row['epsilon'] for row in found['epsilons']} == {0, 16, 128}  # the attack's own is always there
    index = [row['index'] for row in found['images']]
    assert index[0] == 0 and index[-1] == NUM_IMAGES - 1 and sorted(set(index)) == index


def test_landscape_and_transfer_leave_figures_and_pictures(shared, tmp_path):
    analyse('landscape', *shared, '--images', '2', '--grid', '3', '--span', '8', '--results-dir',
            tmp_path / 'landscape')
    found = read_json(tmp_path / 'landscape' / 'landscape.json')
    with np.load(tmp_path / 'landscape' / 'landscape.npz') as stored:
        np.testing.assert_allclose([one['loss'] for one in found['images']], stored['loss'])
        assert stored['offsets'].tolist() == found['offsets'] == [-8, 0, 8] and stored['files'].tolist() == [
            one['file'] for one in found['images']]
    assert cv2.imread(str(tmp_path / 'landscape' / 'landscape.png')) is not None
    analyse('transfer', *shared, *MODELS, '--images', '20', '--results-dir', tmp_path / 'transfer')
    found = read_json(tmp_path / 'transfer' / 'transfer.json')
    assert found['names'] == ['relu & co', 'silu'] and np.shape(found['attacked']) == (2, 2)
    assert found['attacked'][1][1]['correct'] < found['clean'][1]['correct']
    assert sorted(os.listdir(tmp_path / 'transfer')) == ['transfer.json', 'transfer.md', 'transfer.png']


def test_activations_leaves_the_papers_figures(tmp_path):
    analyse('activations', '--results-dir', tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out')) == ['activations.json', 'figure1.png', 'figure2.png']
    found = read_json(tmp_path / 'out' / 'activations.json')
    assert list(found['figure1']['activations']) == ['relu', 'parametric_softplus']
    assert len(found['figure2']['activations']) == 5
    analyse('activations', '--names', 'celu:0.5,mish', '--results-dir', tmp_path / 'out')
    found = read_json(tmp_path / 'out-2' / 'activations.json')
    assert list(found['activations']['activations']) == ['celu:0.5', 'mish']


@pytest.mark.parametrize('argv, named', [
    ([], 'COMMAND'), (['swep'], 'swep'), (['sweep'], '--load'), (['sweep', '--stepz', '5'], '--stepz'),
    (['sweep', '--load', '/nowhere.npz'], '/nowhere.npz'), (['sweep', '--steps', '5,x'], "'x'"),
    (['sweep', '--steps', '0,5'], '0 is not at least 1'), (['sweep', '--epsilons', '0,300'], '300'),
    (['sweep', '--images', '0'], '0'), (['landscape', '--grid', '4'], '4 is even'),
    (['landscape', '--span', '0'], 'span'), (['landscape', '--span', 'nan'], 'nan'),
    (['report', '--model', 'silu'], 'NAME=FLAGS'),
    (['report', '--model', "a='"], 'quotation'), (['activations', '--names', 'silu,swiish'], 'swiish'),
    (['activations', '--load', 'x'], '--load')])
def test_a_mistake_is_refused_in_one_line(argv, named, capsys):
    with pytest.raises(SystemExit) as end:
        analyse(*argv)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == '' and err.count('\n') == 1 and named in err
    assert err.startswith('python -m analysis: error: ')


@pytest.mark.parametrize('more, named', [
    (['sweep', '--targeted'], '--targeted'), (['sweep', '--attack-iter', '0'], '--attack-iter 0'),
    (['sweep', '-d', '20'], '-d'), (['sweep', '--data', '/nowhere'], '/nowhere'), (['transfer'], 'two or more'),
    (['transfer', '--model', 'a=', '--model', 'a='], 'more than once'),
    (['transfer', '--model', 'a=', '--model', 'b=--attack-epsilon 9'], '--attack-epsilon'),
    (['report', '--results', '/nowhere.json'], '/nowhere.json'), (['sweep', '--images', '10'], 'recognises')])
def test_a_mistake_about_networks_is_refused_in_one_line_and_leaves_no_folder(shared, more, named, capsys, tmp_path,
                                                                              monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *rest = more
    with pytest.raises(SystemExit) as end:
        analyse(command, *shared, *rest)
    err = capsys.readouterr().err
    assert end.value.code == 2 and 'Traceback' not in err and os.listdir(tmp_path) == []
    assert named in err.splitlines()[-1] or (named == '-d' and '--depth' in err.splitlines()[-1])


def test_several_ranks_are_refused(shared, monkeypatch, capsys):
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '0')
    with pytest.raises(SystemExit) as end:
        analyse('sweep', *shared)
    assert end.value.code == 2 and 'without mpirun' in capsys.readouterr().err
