"""data/subsets.py, and ``--eval --subset`` on small files in ImageNet's structure."""
import csv
import hashlib
import os
import sys

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
import nets
from data import subsets
from data.subsets import SUBSETS, part_of
from evaluation.passes import Passes
from small_runs import mpirun, read_json
from test_records import record, write_shards
from third_party.imagenet_utils import ValidationBatches, View, open_dataset, synsets

# Of the lines '<wnid>/<file>.JPEG' of RobustBench's list.
LIST_SHA256 = '49cc660768bb59fb01b0b6b0b9858489592dc1a6dbbc86dfc7e62edcc843a656'
NUMBERS, LABELS = [15, 3, 7, 11], [2, 0, 1, 0]  # of a short list, in its order


def test_robustbench_s_list_is_the_published_one():
    images = SUBSETS['robustbench'].images()
    lines = ''.join('{1}/{0}.JPEG\n'.format(*image) for image in images)
    assert hashlib.sha256(lines.encode()).hexdigest() == LIST_SHA256
    assert len(set(images)) == 5000 and len({synset for _, synset in images}) == 997


@pytest.fixture
def short(tmp_path, monkeypatch):
    """The subset 'robustbench' is a list of four images, of the first three classes."""
    path = str(tmp_path / 'short.npz')
    np.savez(path, number=np.array(NUMBERS, np.uint16), label=np.array(LABELS, np.uint16))
    monkeypatch.setitem(subsets.SUBSETS, 'robustbench', SUBSETS['robustbench']._replace(file=path))


def label_of(number):
    return LABELS[NUMBERS.index(number)] if number in NUMBERS else number % 3


def name_of(number):
    return 'ILSVRC2012_val_{:08d}.JPEG'.format(number)


def content_of(number, side=16):
    image = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return cv2.imencode('.jpg', image)[1].tobytes()


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content_of(number))


@pytest.fixture
def folder(tmp_path):
    """Twenty validation images in class folders."""
    for number in range(20):
        write(tmp_path / 'data' / 'val' / synsets()[label_of(number)] / name_of(number), number)
    return tmp_path / 'data'


def content_and_labels(dataset):
    return [dataset.load(k) for k in range(len(dataset.files))]


EXPECTED = [(content_of(number), label) for number, label in zip(NUMBERS, LABELS)]


def test_images_of_class_folders_come_in_the_order_of_the_list(short, folder):
    part = part_of(open_dataset(str(folder), 'val', 1000), 'robustbench')
    assert content_and_labels(part) == EXPECTED and part.classes == synsets() and part.labels.tolist() == LABELS
    assert [os.path.basename(path) for path in part.files] == [name_of(number) for number in NUMBERS]


def test_and_so_do_those_of_a_flat_folder_with_a_list_of_labels(short, tmp_path):
    for number in range(20):
        write(tmp_path / 'val' / name_of(number), number)
    (tmp_path / 'val.txt').write_text(''.join('{} {}\n'.format(name_of(k), label_of(k)) for k in range(20)))
    assert content_and_labels(part_of(open_dataset(str(tmp_path), 'val', 1000), 'robustbench')) == EXPECTED


def test_for_a_network_with_a_background_class_labels_are_one_more(short, folder):
    part = part_of(open_dataset(str(folder), 'val', 1001), 'robustbench')
    assert [label for _, label in content_and_labels(part)] == [label + 1 for label in LABELS]


def shards_of(root, named=True):
    records = [record(content_of(k), label_of(k) + 1, name_of(k) if named else None) for k in range(20)]
    write_shards(root, 'validation', [records[:9], records[9:]])


def test_records_are_found_by_the_names_that_they_tell(short, tmp_path):
    shards_of(tmp_path)
    part = part_of(open_dataset(str(tmp_path), 'val', 1000), 'robustbench')
    assert content_and_labels(part) == EXPECTED
    assert list(part.files) == ['validation-00001-of-00002#6', 'validation-00000-of-00002#3',
                                'validation-00000-of-00002#7', 'validation-00001-of-00002#2']
    assert content_and_labels(part.chosen([3, 1])) == [EXPECTED[3], EXPECTED[1]]


def test_missing_images_are_counted_and_the_first_is_named(short, folder):
    for number in (7, 3):
        (folder / 'val' / synsets()[label_of(number)] / name_of(number)).unlink()
    with pytest.raises(ValueError, match=r"^--subset robustbench: 2 of its 4 images are not in '.*data', the first is "
                                         r'n01440764/ILSVRC2012_val_00000003.JPEG$'):
        part_of(open_dataset(str(folder), 'val', 1000), 'robustbench')


def test_records_without_names_are_no_data_for_a_subset(short, tmp_path):
    shards_of(tmp_path, named=False)
    with pytest.raises(ValueError, match='4 of its 4 images are not in .*; its records do not tell the names of their'):
        part_of(open_dataset(str(tmp_path), 'val', 1000), 'robustbench')


def test_labels_that_are_not_those_of_the_list_are_refused(short, tmp_path):
    """Such as those of the development kit, which count classes in another order, from 1."""
    for number in range(20):
        write(tmp_path / 'val' / name_of(number), number)
    (tmp_path / 'val.txt').write_text(''.join('{} {}\n'.format(name_of(k), label_of(k) + 1) for k in range(20)))
    with pytest.raises(ValueError, match=r"4 of its 4 images are of another class in '.*', the first is "
                                         r'ILSVRC2012_val_00000015: n01491361, not n01484850; see to the folders'):
        part_of(open_dataset(str(tmp_path), 'val', 1000), 'robustbench')


def test_ranks_share_a_subset(short, folder):
    part = part_of(open_dataset(str(folder), 'val', 1000), 'robustbench')
    shares = [list(ValidationBatches(part, 1, View(8, 'none'), rank, 3, threads=1)) for rank in range(3)]
    found = {int(k): int(label) for share in shares for _, labels, index in share for k, label in zip(index, labels)}
    assert found == dict(enumerate(LABELS)) and [len(share) for share in shares] == [2, 1, 1]


SIDE = 8
ARCHITECTURE = ['--arch', 'CifarResNet', '-d', '8', '--input-size', str(SIDE), '--num-classes', '1000']


def linear_map(_, image):
    """In place of a network's graph."""
    return tf.matmul(tf.reshape(image, [-1, 3 * SIDE ** 2]), tf.get_variable('linear/W', [3 * SIDE ** 2, 1000]))


@pytest.fixture
def evaluate(folder, short, tmp_path, monkeypatch):
    """function(flags): ``--eval`` in this process, of a linear map."""
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nets.CifarResNetModel, 'network', linear_map)
    weights = np.random.default_rng(0).standard_normal([3 * SIDE ** 2, 1000]).astype(np.float32)
    np.savez(tmp_path / 'weights.npz', **{'linear/W': weights})

    def run(*more):
        with tf.Graph().as_default():
            main.main(ARCHITECTURE + ['--eval', '--load', 'weights.npz', '--data', str(folder), '--batch', '2',
                                      '--augmentation', 'revisiting-at', '--attack-iter', '1', *more])
    return run


# What each rank runs: main.py with the short list and the linear map.
PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import test_subsets
test_subsets.run_here(*sys.argv[1:])
""".format(tests=os.path.dirname(os.path.abspath(__file__)))


def run_here(path, *argv):
    """``main.main`` with the list of images in ``path``."""
    subsets.SUBSETS['robustbench'] = SUBSETS['robustbench']._replace(file=path)
    nets.CifarResNetModel.network = linear_map
    sys.exit(main.main(list(argv)))


@pytest.mark.slow
def test_three_ranks_judge_a_subset_as_one_does(evaluate, folder, tmp_path):
    evaluate('--subset', 'robustbench', '--results-dir', 'one', '--attack-iter', '3')
    ended = mpirun(3, '-c', PROGRAM, tmp_path / 'short.npz', *ARCHITECTURE, '--eval', '--load', 'weights.npz', '--data',
                   folder, '--batch', '2', '--augmentation', 'revisiting-at', '--attack-iter', '3', '--subset',
                   'robustbench', '--results-dir', 'three', cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    one, three = ((tmp_path / name / 'per_example.csv').read_bytes() for name in ('one', 'three'))
    assert one == three and read_json(tmp_path / 'three' / 'results.json')['args']['ranks'] == 3


class Killed(Exception):
    """Ends an evaluation between two batches."""


def rows_of(path):
    with open(path, newline='') as f:
        return list(csv.DictReader(f))


def test_an_evaluation_judges_the_subset_and_says_so(evaluate, tmp_path):
    evaluate('--subset', 'robustbench')
    results, = (tmp_path / 'results').iterdir()
    assert results.name.endswith('-data-robustbench')
    found = read_json(results / 'results.json')
    assert (found['num_images'], found['args']['subset'], found['complete']) == (4, 'robustbench', True)
    rows = rows_of(results / 'per_example.csv')
    assert [os.path.basename(row['file']) for row in rows] == [name_of(number) for number in NUMBERS]
    assert [int(row['label']) for row in rows] == LABELS
    evaluate('--results-dir', 'all')
    assert read_json(tmp_path / 'all' / 'results.json')['num_images'] == 20
    # Whose verdict without an attack is the same: it depends on the image alone.
    whole = {row['file']: row['clean_pred'] for row in rows_of(tmp_path / 'all' / 'per_example.csv')}
    assert all(whole[row['file']] == row['clean_pred'] for row in rows)


def test_a_stopped_evaluation_of_a_subset_goes_on_as_one(evaluate, tmp_path, monkeypatch, capsys):
    evaluate('--subset', 'robustbench', '--results-dir', 'whole')
    judge, calls = Passes.judge, []

    def killed(self, *args):
        calls.append(None)
        if len(calls) == 3:
            raise Killed
        return judge(self, *args)
    with monkeypatch.context() as patch:
        patch.setattr(Passes, 'judge', killed)
        with pytest.raises(Killed):
            evaluate('--subset', 'robustbench', '--results-dir', 'stopped')
    with pytest.raises(SystemExit) as ended:
        evaluate('--results-dir', 'stopped', '--resume-eval')
    assert ended.value.code == 2 and 'was started with subset robustbench, now it is None' in capsys.readouterr().err
    evaluate('--subset', 'robustbench', '--results-dir', 'stopped', '--resume-eval')
    assert rows_of(tmp_path / 'stopped' / 'per_example.csv') == rows_of(tmp_path / 'whole' / 'per_example.csv')


@pytest.mark.parametrize('typed, message', [
    (['--subset', 'robustbench'], '--subset robustbench: 1 of its 4 images are not in '),
    (['--subset', 'cifar'], "argument --subset: invalid choice: 'cifar' (choose from ")])
def test_a_subset_that_is_not_there_is_one_line(evaluate, folder, capsys, typed, message):
    (folder / 'val' / synsets()[2] / name_of(15)).unlink()
    with pytest.raises(SystemExit) as ended:
        evaluate(*typed)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and message in last


def test_a_subset_is_for_evaluations_alone(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(['--subset', 'robustbench', '--data', '.'])
    assert ended.value.code == 2 and '--subset is for --eval, not for training' in capsys.readouterr().err
