"""``--eval-directory``: what is written of a folder's images, for programs and for people."""
import csv
import logging
import os

import cv2
import numpy as np
import pytest
import scipy.special
import tensorflow.compat.v1 as tf

import main
from data.synsets import synset_words, synsets
from evaluation.listing import SHOWN
from files.pictures import image_grid
from small_runs import MAIN, start_ranks, wait_for
from test_evaluation import ARCHITECTURE, SIDE, Network
from test_main import refusal
from weights.classes import names_of_outputs, write_classes

# As folders of images may be called; four, so that there are no five best.
NAMES = ['Bär', 'cat, "tame"', 'two\nlines', 'plain']
# In the order of their bytes; the one of no encoding is last of all.
FILES = ['00.png', '01, a "name".png', '02\nline.png', '03 größe.PNG', '04 cut.jpg', '05 none.png', '06 gone.png',
         '07.png', os.fsdecode(b'\xff.png')]
REASONS = {'04 cut.jpg': 'the JPEG is truncated', '05 none.png': 'cannot be decoded',
           '06 gone.png': 'No such file or directory'}


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    folder = tmp_path_factory.mktemp('network')
    write_classes(str(folder), NAMES)
    network = Network(folder / 'R8.npz', len(NAMES))
    less = 1 / network.scores(pictures(9)).std()  # sure of nothing
    with np.load(network.path) as weights:
        values = {name: value * (less if name.startswith('linear/') else 1) for name, value in weights.items()}
    np.savez(network.path, **values)
    with network.graph.as_default():
        for variable in tf.global_variables():
            variable.load(values[variable.op.name], network.session)
    yield network
    network.session.close()


def pictures(count):
    """Blocks of colours, which a JPEG or PNG of this size keeps apart: uint8 [count,S,S,3] in BGR."""
    blocks = np.random.default_rng(1).integers(0, 256, [count, 4, 4, 3], dtype=np.uint8)
    return blocks.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """'pictures' in the working directory, with ``FILES``; returns the images of those that are good."""
    monkeypatch.chdir(tmp_path)
    os.mkdir('pictures')
    images = dict(zip(FILES, pictures(len(FILES))))
    for name, image in images.items():
        content = cv2.imencode(os.path.splitext(name)[1], image)[1].tobytes()
        with open(os.path.join('pictures', name), 'wb') as f:
            f.write({'04 cut.jpg': content[:len(content) // 2], '05 none.png': b'no image'}.get(name, content))
    os.remove('pictures/06 gone.png')
    os.symlink('nowhere', 'pictures/06 gone.png')
    with open('pictures/notes.txt', 'w') as f:
        f.write('no image either')
    return {name: image for name, image in images.items() if name not in REASONS}


def command(network, *flags, folder='pictures'):
    return ARCHITECTURE + ['--num-classes', str(len(NAMES)), '--eval-directory', folder, '--load', network.path, *flags]


def classify(network, *flags, **folder):
    with tf.Graph().as_default():
        main.main(command(network, *flags, **folder))


def as_it_should_be(network, good):
    """The table: rows of text."""
    logits = network.scores(np.stack(list(good.values())))
    found = dict(zip(good, zip(logits.argmax(axis=1), scipy.special.softmax(logits, axis=1).max(axis=1))))
    rows = [['file', 'class_index', 'class_name', 'probability', 'unreadable']]
    for name in FILES:
        path = os.path.join('pictures', name)
        rows.append([path, '', '', '', REASONS[name]] if name in REASONS else [
            path, str(found[name][0]), NAMES[found[name][0]], float(found[name][1]), ''])
    return rows


def table(path):
    with open(path, newline='', encoding='utf-8', errors='surrogateescape') as f:
        return list(csv.reader(f, strict=True))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected):
        if isinstance(wanted[3], float):
            assert float(row[3]) == pytest.approx(wanted[3], abs=2e-5)
            row, wanted = row[:3] + row[4:], wanted[:3] + wanted[4:]
        assert row == wanted


def test_the_table_is_csv_with_names_probabilities_and_what_could_not_be_read(network, folder):
    with pytest.raises(SystemExit) as end:
        classify(network)
    assert end.value.code == 3
    before = open('predictions.csv', 'rb').read()
    expected = as_it_should_be(network, folder)
    assert len({row[1] for row in expected}) > 2  # more than one class, and those without
    assert min(row[3] for row in expected if isinstance(row[3], float)) < 0.9
    assert_same(table('predictions.csv'), expected)
    classify(network, '--allow-unreadable')
    content = open('predictions.csv', 'rb').read()
    assert content == before and content.startswith(b'file,class_index,class_name,probability,unreadable\r\n')


def test_the_originals_lines_are_written_of_every_readable_image(network, folder):
    labels = network.scores(np.stack(list(folder.values()))).argmax(axis=1)
    expected = ''.join('pictures/{},{}\n'.format(*each) for each in zip(folder, labels))
    for flags, path in ((['--prediction-format', 'released'], 'predictions.txt'),
                        (['--prediction-file', 'mine.txt'], 'mine.txt'),  # as their commands have it
                        (['--prediction-format', 'released', '--prediction-file', 'mine.csv'], 'mine.csv')):
        classify(network, '--allow-unreadable', *flags)
        assert open(path, 'rb').read() == os.fsencode(expected)
    assert not os.path.exists('predictions.csv')


@pytest.mark.parametrize('flags, file, kind', [
    ([], 'predictions.csv', 'csv'), (['--prediction-format', 'csv'], 'predictions.csv', 'csv'),
    (['--prediction-format', 'released'], 'predictions.txt', 'released'),
    (['--prediction-file', 'a.txt'], 'a.txt', 'released'), (['--prediction-file', 'a'], 'a', 'csv'),
    (['--prediction-format', 'csv', '--prediction-file', 'a.txt'], 'a.txt', 'csv')])
def test_the_format_is_told_by_the_flag_else_by_the_file_s_name(network, folder, flags, file, kind):
    args = main.parse_args(command(network, *flags))
    assert (args.prediction_file, args.prediction_format) == (file, kind)


def test_an_unusable_prediction_file_is_refused(network, folder, capsys):
    line = refusal(capsys, main.parse_args, command(network, '--prediction-file', 'absent/predictions.csv'))
    assert "--prediction-file 'absent/predictions.csv'" in line


@pytest.mark.slow
def test_two_ranks_write_the_table_of_one(network, folder, tmp_path):
    classify(network, '--allow-unreadable', '--prediction-file', 'one.csv')
    done = wait_for(start_ranks(2, MAIN, *command(network, '--batch', '2'), '--show', cwd=tmp_path))
    assert done.returncode == 3, done.stderr
    assert '3 of 9 images could not be read' in done.stderr
    assert_same(table('predictions.csv'), [
        row[:3] + [float(row[3]) if row[3] and number else row[3]] + row[4:]
        for number, row in enumerate(table('one.csv'))])
    assert cv2.imread('predictions.png').shape == sheet(list(folder.values()), [''] * 6, lines=2).shape


def sheet(images, captions, lines=2):
    """As the sheet should be; pixels of the images alone count, beside its shape."""
    rows = range(0, len(images), 8)
    return image_grid([[image[..., ::-1] for image in images[k:k + 8]] for k in rows],
                      [[caption + '\n' * (lines - 1 - caption.count('\n')) for caption in captions[k:k + 8]]
                       for k in rows], least=128)


def test_the_sheet_shows_the_first_images_with_class_and_probability(network, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    images = pictures(SHOWN + 2)
    for k, image in enumerate(images):
        cv2.imwrite('{:02d}.png'.format(k), image)
    logging.getLogger('tensorpack').propagate = True
    with caplog.at_level(logging.INFO):
        classify(network, '--show', '--prediction-file', 'mine.txt', folder='.')
    assert 'The first 48 of 50 images with their classes are in mine.png' in caplog.text
    logits = network.scores(images)
    share = 100 * scipy.special.softmax(logits, axis=1).max(axis=1)
    captions = ['{}\n{:.1f}% {:02d}.png'.format(NAMES[label].replace('\n', ' '), share[k], k)
                for k, label in enumerate(logits.argmax(axis=1))]
    found = cv2.imread('mine.png')[..., ::-1]
    expected = sheet(images[:SHOWN], captions[:SHOWN])
    assert found.shape == expected.shape
    # A probability beside the middle between two shown ones may be rounded the other way.
    differing = (found != expected).any(axis=2)
    assert differing.sum() < 0.001 * differing.size


def test_outputs_have_the_names_of_the_checkpoint_else_imagenet_s(network, tmp_path):
    assert names_of_outputs(network.path, 4) == NAMES
    np.savez(tmp_path / 'X.npz', W=np.zeros(1))
    path = str(tmp_path / 'X.npz')
    words = names_of_outputs(path, 1000)
    assert words[0] == 'tench, Tinca tinca'
    assert [' '.join(each) for each in zip(synsets(), words)] == synset_words()
    assert names_of_outputs(path, 1001) == ['background'] + words
    assert names_of_outputs(path, 4) == []
    write_classes(str(tmp_path), ['n01443537', 'my own'])
    assert names_of_outputs(path, 2) == ['goldfish, Carassius auratus', 'my own']
