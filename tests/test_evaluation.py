"""Judging a network: intervals and success rates, the two result files, and that every image counts once."""
import csv
import json
import os
import re

import cv2
import numpy as np
import pytest
import scipy.stats
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import main
import nets
from attacks.ensemble import Ensemble
from attacks.pgd import NoOpAttacker, PGDAttacker
from attacks.threat import NO_TARGET
from evaluation.passes import ROW, EvaluationTower, Passes
from evaluation.results import make_results, results_name
from evaluation.verdicts import Verdicts, attack_success, too_many_unreadable, wilson
from machine.versions import source_version
from networks import make_network

SIDE, CLASSES = 16, 10
NUM_IMAGES = 13
MISLABELLED = (2, 5, 7)  # numbers of images that lie in another class's folder than the network's prediction
ARCHITECTURE = ['--arch', 'CifarResNet', '-d', '8', '--input-size', str(SIDE), '--batch', '4']


@pytest.mark.parametrize('count, total', [(0, 1), (1, 1), (0, 50), (50, 50), (1, 3), (475, 1000), (30300, 50000)])
def test_intervals_are_wilson_s(count, total):
    interval = scipy.stats.binomtest(count, total).proportion_ci(0.95, method='wilson')
    assert wilson(count, total) == pytest.approx([interval.low, interval.high], abs=1e-12)


def verdicts(label, prediction, target=None, wrong_top5=None):
    n = len(label)
    return Verdicts(np.arange(n), np.array(label), np.array(prediction),
                               np.array(wrong_top5 or [0] * n), np.array(target or [NO_TARGET] * n), np.zeros(n))


def test_errors_are_fractions_of_all_images():
    summary = verdicts([1, 2, 3, 4], [1, 2, 0, -1], wrong_top5=[0, 0, 0, 1]).summary()
    assert {k: v for k, v in summary.items() if not k.endswith('_95')} == dict(
        top1_error=0.5, top1_correct=2, top5_error=0.25, top5_correct=3)
    assert summary['top1_error_95'] == wilson(2, 4) and summary['top5_error_95'] == wilson(1, 4)


def test_a_targeted_attack_succeeds_where_its_target_is_predicted_of_all_images():
    clean = verdicts([0, 1, 2, 3], [0, 1, 0, 0])
    attacked = verdicts([0, 1, 2, 3], [5, 1, 6, 9], target=[5, 6, 6, 7])
    assert attack_success(clean, attacked) == (2, 4)


def test_an_untargeted_attack_succeeds_where_it_makes_a_right_answer_wrong():
    clean = verdicts([0, 1, 2, 3, 4], [0, 1, 2, 0, 0])
    attacked = verdicts([0, 1, 2, 3, 4], [0, 5, 5, 5, 4])
    assert attack_success(clean, attacked) == (2, 3)


def test_an_attack_on_a_network_that_is_never_right_has_nothing_to_succeed_at():
    clean = attacked = verdicts([0, 1], [1, 0])
    assert attack_success(clean, attacked) == (0, 0)
    attacker = PGDAttacker(1, 4.0, 4.0)
    results = make_results({'clean': clean, 'PGD-1': attacked}, attacker, 2, {'seed': 0}, {}, 1.0)
    assert results['attack_success_rate'] == 0.0
    json.dumps(results)


class Network:
    """A CifarResNet-8 with random weights, as a checkpoint and as a function of a batch of uint8 images."""

    def __init__(self, path, classes=CLASSES):
        self.graph, random = tf.Graph(), np.random.default_rng(0)
        with self.graph.as_default(), TowerContext('', is_training=False):
            self.image = tf.placeholder(tf.float32, [None, SIDE, SIDE, 3])
            self.logits = make_network(
                '--arch', 'CifarResNet', '-d', '8', '--num-classes', str(classes), '--input-size', str(SIDE),
                '--data-format', 'NHWC').get_logits(self.image)
            self.session = tf.Session()
            values = {v.op.name: random.normal(v.op.name.endswith('gamma'), 0.3, v.shape).astype(np.float32)
                      for v in tf.global_variables()}
            values.update((name, np.abs(value) + 0.1) for name, value in values.items() if 'variance' in name)
            for variable in tf.global_variables():
                variable.load(values[variable.op.name], self.session)
        np.savez(path, **values)
        self.path = str(path)

    def scores(self, images):
        return self.session.run(self.logits, {self.image: images.astype(np.float64) / 127.5 - 1})


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    network = Network(tmp_path_factory.mktemp('network') / 'R8.npz')
    yield network
    network.session.close()


@pytest.fixture(scope='module')
def images():
    blocks = np.random.default_rng(1).integers(0, 256, [NUM_IMAGES, 4, 4, 3], dtype=np.uint8)
    return blocks.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)


@pytest.fixture(scope='module')
def labels(network, images):
    """The network's own predictions, but for those that are made wrong on purpose."""
    labels = network.scores(images).argmax(axis=1)
    assert len(set(labels)) > 2
    labels[list(MISLABELLED)] = (labels[list(MISLABELLED)] + 1) % CLASSES
    return labels


@pytest.fixture(scope='module')
def data(tmp_path_factory, images, labels):
    """The images in a folder for each label."""
    root = tmp_path_factory.mktemp('data')
    for label in range(CLASSES):
        (root / 'val' / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels)):
        assert cv2.imwrite(str(root / 'val' / str(label) / '{:02d}.png'.format(number)), image)
    return str(root)


@pytest.fixture
def evaluate(network, data, tmp_path, monkeypatch):
    """function(flags): what `--eval` with these flags leaves behind: results, rows of the table, output folder."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, data=data, folder='out'):
        with tf.Graph().as_default():
            main.main(ARCHITECTURE + ['--eval', '--load', network.path, '--data', data, '--results-dir', folder]
                      + list(flags))
        with open(os.path.join(folder, 'results.json')) as f:
            results = json.load(f)
        with open(os.path.join(folder, 'per_example.csv'), newline='') as f:
            rows = list(csv.DictReader(f))
        return results, rows, tmp_path / folder
    return run


def number_of(row):
    """Number of the image that a row is about."""
    return int(os.path.basename(row['file'])[:2])


def test_results_and_table_have_the_agreed_fields(evaluate, network, data):
    results, rows, folder = evaluate('--attack-iter', '2', '--seed', '5')
    assert {'num_images', 'clean', 'adversarial', 'attack_success_rate', 'attack', 'args', 'versions', 'seed',
            'seconds'} <= results.keys()
    for part in ('clean', 'adversarial'):
        assert {'top1_error', 'top5_error', 'top1_correct'} <= results[part].keys()
    attack = {k: results['attack'][k] for k in ('name', 'norm', 'epsilon', 'step_size', 'num_iter', 'targeted')}
    assert attack == dict(name='PGD-2', norm='Linf', epsilon=4.0, step_size=2.0, num_iter=2, targeted=False)
    assert results['num_images'] == NUM_IMAGES and results['num_unreadable'] == 0
    assert results['seed'] == results['args']['seed'] == 5 and results['args']['load'] == network.path
    assert results['versions']['tensorflow'] == tf.__version__ and results['seconds'] > 0
    assert results['source'] == source_version() and results['tf32'] is False
    with open(folder / 'per_example.csv') as f:
        assert f.readline().strip() == 'file,label,clean_pred,adv_pred,target'
    assert sorted(os.listdir(folder)) == ['per_example.csv', 'results.json']


def test_clean_predictions_and_errors_are_the_network_s_own(evaluate, network, images, labels):
    results, rows, _ = evaluate('--attack-iter', '1')
    scores = network.scores(images)
    assert sorted(map(number_of, rows)) == list(range(NUM_IMAGES))
    for row in rows:
        number = number_of(row)
        assert (int(row['label']), int(row['clean_pred'])) == (labels[number], scores[number].argmax())
    assert results['clean']['top1_correct'] == NUM_IMAGES - len(MISLABELLED)
    assert results['clean']['top1_error'] == pytest.approx(len(MISLABELLED) / NUM_IMAGES)
    rank = (scores > scores[np.arange(NUM_IMAGES), labels][:, None]).sum(axis=1)
    assert results['clean']['top5_error'] == pytest.approx((rank >= 5).mean())


def test_counts_in_the_results_are_those_of_the_table(evaluate):
    results, rows, _ = evaluate('--attack-iter', '3', '--attack-epsilon', '48')
    right = [row['clean_pred'] == row['label'] for row in rows]
    withstood = [row['adv_pred'] == row['label'] for row in rows]
    assert results['clean']['top1_correct'] == sum(right)
    assert results['adversarial']['top1_correct'] == sum(withstood)
    assert results['adversarial']['top1_error'] == pytest.approx(1 - sum(withstood) / NUM_IMAGES)
    broken = sum(r and not w for r, w in zip(right, withstood))
    assert 0 < broken
    assert results['attack_success_rate'] == pytest.approx(broken / sum(right))
    assert {row['target'] for row in rows} == {'-1'}


def test_a_targeted_attack_aims_at_wrong_labels_and_its_success_is_of_all_images(evaluate):
    results, rows, _ = evaluate('--attack-iter', '5', '--attack-epsilon', '32', '--targeted')
    assert results['attack']['targeted'] is True
    for row in rows:
        assert 0 <= int(row['target']) < CLASSES and row['target'] != row['label']
    reached = sum(row['adv_pred'] == row['target'] for row in rows)
    assert 0 < reached
    assert results['attack_success_rate'] == pytest.approx(reached / NUM_IMAGES)


def test_an_attack_of_a_vanishing_radius_changes_no_prediction(evaluate):
    results, rows, _ = evaluate('--attack-iter', '2', '--attack-epsilon', '1e-4px', '--attack-step-size', '1e-4px')
    assert [row['adv_pred'] for row in rows] == [row['clean_pred'] for row in rows]
    assert results['attack_success_rate'] == 0 and results['adversarial'] == results['clean']


def test_verdicts_do_not_depend_on_the_batch_size_but_on_the_seed(evaluate):
    def rows(*flags):
        return evaluate('--attack-iter', '2', '--attack-epsilon', '32', '--targeted', *flags)[1]
    by_five = rows('--batch', '5')
    assert rows('--batch', '13') == by_five
    assert [r['target'] for r in rows('--seed', '1')] != [r['target'] for r in by_five]


def test_clean_evaluation_says_that_nothing_was_attacked(evaluate, capsys):
    results, rows, _ = evaluate('--attack-iter', '0')
    assert results['adversarial'] is None and results['attack_success_rate'] is None
    assert (results['attack']['name'], results['attack']['num_iter']) == ('none', 0)
    assert [row['adv_pred'] for row in rows] == [row['clean_pred'] for row in rows]
    assert capsys.readouterr().out.splitlines() == [
        'Top1 Error: {}'.format(results['clean']['top1_error']),
        'Top5 Error: {}'.format(results['clean']['top5_error'])]


def test_the_releases_three_lines_are_printed_as_fractions(evaluate, capsys):
    results, _, _ = evaluate('--attack-iter', '2')
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == ['Top1 Error: {}'.format(results['adversarial']['top1_error']),
                          'Attack Success Rate: {}'.format(results['attack_success_rate']),
                          'Top5 Error: {}'.format(results['adversarial']['top5_error'])]
    assert 'Clean Top1 Error: {}'.format(results['clean']['top1_error']) in lines[:-3]
    assert all(re.fullmatch(r'[A-Za-z15 ]+: (0(\.\d+)?|1\.0)', line) for line in lines), lines


@pytest.fixture
def damaged(data, tmp_path, labels):
    """The data with an image that cannot be read."""
    copy = tmp_path / 'damaged'
    for name in os.listdir(os.path.join(data, 'val')):
        os.makedirs(copy / 'val' / name)
        for file in os.listdir(os.path.join(data, 'val', name)):
            os.link(os.path.join(data, 'val', name, file), copy / 'val' / name / file)
    removed = copy / 'val' / str(labels[0]) / '00.png'
    removed.unlink()
    removed.write_bytes(b'no image')
    return str(copy)


def test_an_unreadable_image_is_counted_and_left_out(evaluate, damaged):
    results, rows, _ = evaluate('--attack-iter', '0', '--allow-unreadable', data=damaged)
    assert (results['num_images'], results['num_unreadable']) == (NUM_IMAGES - 1, 1)
    assert results['too_many_unreadable'] is True
    assert sorted(map(number_of, rows)) == list(range(1, NUM_IMAGES))
    assert results['clean']['top1_error'] == pytest.approx(len(MISLABELLED) / (NUM_IMAGES - 1))


def test_more_unreadable_images_than_one_percent_are_no_success(network, damaged, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ARCHITECTURE + ['--eval', '--load', network.path, '--data', damaged, '--attack-iter', '0', '--results-dir',
                            'out', '--augmentation', 'cifar']
    with pytest.raises(SystemExit) as end, tf.Graph().as_default():
        main.main(flags)
    out, err = capsys.readouterr()
    assert end.value.code == 3 and 'Top1 Error' in out
    assert '1 of {} images could not be read, more than 1%'.format(NUM_IMAGES) in err and '--allow-unreadable' in err
    with open('out/results.json') as f:
        assert json.load(f)['too_many_unreadable'] is True
    # When the image can be read again, it alone is judged; the file itself has not changed.
    from data import stream
    judged = []

    def read(self, index, *more):
        judged.append(index)
        return np.zeros([SIDE, SIDE, 3], np.uint8), 0
    monkeypatch.setattr(stream._Reader, 'read', read)
    with tf.Graph().as_default():
        main.main(flags + ['--resume-eval'])
    with open('out/results.json') as f:
        results = json.load(f)
    assert len(judged) == 1 and results['num_images'] == NUM_IMAGES and results['too_many_unreadable'] is False
    assert sorted(os.listdir('out')) == ['per_example.1.csv', 'per_example.csv', 'results.1.json', 'results.json']


@pytest.mark.parametrize('read, total, many', [(99, 100, False), (98, 100, True), (100, 100, False), (0, 1, True),
                                               (49500, 50000, False), (49499, 50000, True)])
def test_one_percent_may_be_unreadable(read, total, many):
    assert too_many_unreadable(read, total) is many


def test_a_set_without_a_readable_image_is_refused(evaluate, tmp_path, capsys):
    os.makedirs(tmp_path / 'noise' / '0')
    (tmp_path / 'noise' / '0' / 'a.png').write_bytes(b'no image')
    with pytest.raises(SystemExit) as end:
        evaluate('--attack-iter', '0', data=str(tmp_path / 'noise'))
    assert end.value.code == 2 and str(tmp_path / 'noise') in capsys.readouterr().err


def test_earlier_results_are_kept_under_another_name(evaluate):
    first, _, folder = evaluate('--attack-iter', '0')
    kept = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    second, _, _ = evaluate('--attack-iter', '1')
    third, _, _ = evaluate('--attack-iter', '0', '--seed', '3')
    assert sorted(os.listdir(folder)) == ['per_example.1.csv', 'per_example.2.csv', 'per_example.csv',
                                          'results.1.json', 'results.2.json', 'results.json']
    assert (folder / 'results.1.json').read_bytes() == kept['results.json']
    assert (folder / 'per_example.1.csv').read_bytes() == kept['per_example.csv']
    with open(folder / 'results.2.json') as f:
        assert json.load(f) == second
    assert (first['seed'], third['seed']) == (0, 3)


def test_each_evaluation_has_a_folder_of_its_own_named_by_network_attack_and_data(network, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for typed in (['--attack-iter', '1', '--attack-epsilon', '8'], ['--attack-iter', '1', '--attack-epsilon', '1'],
                  ['--attack-iter', '1', '--attack-epsilon', '8'], ['--attack-iter', '0'],
                  ['--attack-iter', '1', '--attack-epsilon', '8', '--resume-eval']):
        with tf.Graph().as_default():
            main.main(ARCHITECTURE + ['--eval', '--load', network.path, '--data', data, *typed])
        found.append(sorted(os.listdir('results')))
    name, end = 'CifarResNet8-R8.npz-PGD-1-Linf-eps', '-' + os.path.basename(data)
    assert found[0] == [name + '8' + end] and found[1] == sorted([name + '8' + end, name + '1' + end])
    assert found[2] == sorted(found[1] + [name + '8' + end + '-2'])
    assert found[3] == sorted(found[2] + ['CifarResNet8-R8.npz-clean' + end])
    assert found[4] == sorted(found[3] + [name + '8' + end + '-3'])  # there was nothing to go on with


@pytest.mark.parametrize('attacker, expected', [
    (NoOpAttacker(), 'R50-x.npz-clean-val2'), (PGDAttacker(10, 4.0, 1.0), 'R50-x.npz-PGD-10-Linf-eps4-val2'),
    (PGDAttacker(10, 127.5, 1.0, norm='L2'), 'R50-x.npz-PGD-10-L2-eps127.5-val2'),
    (Ensemble('autoattack-standard-Linf', 'Linf', 8.0, [PGDAttacker(1, 8.0, 8.0)]),
     'R50-x.npz-autoattack-standard-Linf-eps8-val2')])
def test_a_folder_s_name_says_norm_epsilon_steps_and_data(attacker, expected):
    assert results_name('R50', 'some/x.npz', attacker, '/data/val2/') == expected


def test_an_unusable_results_folder_is_refused_before_the_evaluation(network, data, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit) as end, tf.Graph().as_default():
        main.main(ARCHITECTURE + ['--eval', '--load', network.path, '--data', data, '--attack-iter', '0',
                                  '--results-dir', str(tmp_path / 'file')])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and 'Error' not in out and '--results-dir' in err


def test_classes_stored_beside_the_checkpoint_decide_the_labels(evaluate, network, data, images, labels, tmp_path):
    names = [str(c) for c in reversed(range(CLASSES))]
    path = os.path.join(os.path.dirname(network.path), 'classes.json')
    with open(path, 'w') as f:
        json.dump(names, f)
    try:
        _, rows, _ = evaluate('--attack-iter', '0')
    finally:
        os.remove(path)
    assert {number_of(row): int(row['label']) for row in rows} == {
        number: CLASSES - 1 - label for number, label in enumerate(labels)}


@pytest.fixture
def with_averages(network, tmp_path):
    """A checkpoint whose plain weights are the network's, and whose averages always say class 3."""
    values = dict(np.load(network.path))
    averages = dict(values, **{'linear/b': np.float32(1e12 * np.eye(CLASSES)[3])})
    values.update((name + '/ExponentialMovingAverage', value) for name, value in averages.items())
    np.savez(tmp_path / 'averages.npz', **values)
    return str(tmp_path / 'averages.npz')


@pytest.mark.parametrize('flags, averaged', [
    (['--moving-average-decay', '0.9999'], True), (['--moving-average-decay', '0'], False), ([], False),
    (['--recipe', 'sat-efficientnet'], True)])
def test_averages_are_judged_where_their_decay_is_not_zero(evaluate, network, images, with_averages, flags, averaged):
    _, rows, _ = evaluate('--attack-iter', '0', '--load', with_averages, *flags)
    scores = network.scores(images)
    assert {int(row['clean_pred']) for row in rows} != {3} or averaged
    for row in rows:
        assert int(row['clean_pred']) == (3 if averaged else scores[number_of(row)].argmax())


def test_an_evaluation_is_told_to_tensorboard_where_it_is_asked_to(evaluate):
    _, _, folder = evaluate('--attack-iter', '0')
    assert not list(folder.glob('events.out.*'))
    results, _, folder = evaluate('--attack-iter', '1', '--track', 'tensorboard')
    path, = folder.glob('events.out.*')
    told = {value.tag: value.simple_value for event in tf.train.summary_iterator(str(path))
            for value in event.summary.value}
    assert told['num_images'] == results['num_images']
    for name in ('clean', 'adversarial'):
        assert told[name + '/top1_error'] == pytest.approx(results[name]['top1_error'])
    assert told['attack_success_rate'] == pytest.approx(results['attack_success_rate'])


def test_a_picture_shows_images_their_attacked_ones_and_the_difference(evaluate, images):
    _, _, folder = evaluate('--attack-iter', '1', '--attack-epsilon', '8', '--attack-step-size', '8', '--show')
    picture = cv2.imread(str(folder / 'images.png')).astype(int)
    magnified = 96 // SIDE
    side, gap = magnified * SIDE, 6
    left = picture.shape[1] - 8 * (side + gap)  # behind the rows' names
    row = (picture.shape[0] - gap) // 3

    def at(line, column):
        return picture[gap + line * row:, left + column * (side + gap):][:side:magnified, :side:magnified]
    shown = [at(0, column) for column in range(8)]
    known = {image.tobytes() for image in images}
    assert len({one.astype(np.uint8).tobytes() for one in shown} & known) == 8
    for column, clean in enumerate(shown):
        attacked = at(1, column)
        assert 0 < np.abs(attacked - clean).max() <= 8
        assert (np.sign(at(2, column) - 128)[np.abs(attacked - clean) > 1]
                == np.sign(attacked - clean)[np.abs(attacked - clean) > 1]).all()
    _, _, folder = evaluate('--attack-iter', '0', '--show', folder='clean')
    assert len(cv2.imread(str(folder / 'images.png'))) < row + 3 * gap


def test_a_checkpoint_without_averages_is_refused_in_one_line_that_names_the_flag(evaluate, network, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate('--attack-iter', '0', '--moving-average-decay', '0.9999')
    out, err = capsys.readouterr()
    assert end.value.code == 2 and 'Error' not in out
    line = err.splitlines()[-1]
    assert network.path in line and line.endswith('give --moving-average-decay 0') and 'Traceback' not in err


def test_eval_directory_takes_the_averages_too(network, images, with_averages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('a.png', images[0])
    predictions = []
    for flags in (['--moving-average-decay', '0.9999'], []):
        classify(network, tmp_path, '--load', with_averages, *flags)
        with open('predictions.csv') as f:
            predictions += [int(row['class_index']) for row in csv.DictReader(f)]
    assert predictions == [3, network.scores(images[:1]).argmax()]


def classify(network, folder, *flags):
    with tf.Graph().as_default():
        main.main(ARCHITECTURE + ['--eval-directory', str(folder), '--load', network.path] + list(flags))


@pytest.mark.parametrize('norm, epsilon', [
    ('Linf', 48.0), pytest.param('L2', 1300.0, marks=pytest.mark.slow),
    pytest.param('L1', 9000.0, marks=pytest.mark.slow)])
def test_one_graph_judges_as_a_graph_for_each_attacker_does(network, images, labels, norm, epsilon):
    from ranks.launched import Ranks
    args = main.parse_args(ARCHITECTURE)
    attackers = [PGDAttacker(k, share * epsilon, share * epsilon / 2, num_classes=CLASSES, enlarge_small_steps=False,
                             norm=norm) for k, share in ((1, 1), (2, 0.2), (3, 1))]
    batch = images, labels.astype(np.int32), np.arange(NUM_IMAGES, dtype=np.int32)
    with tf.Graph().as_default():
        model = nets.CifarResNetModel(args)
        tower = EvaluationTower(model, attackers[:1], Ranks())
        own = Passes(model, attackers)
        with tf.Session() as session:
            for variable in tf.global_variables():
                variable.load(np.load(network.path)[variable.op.name], session)
            size = len(tf.get_default_graph().get_operations())
            found = tower.run(session, [batch], attackers, False)
            assert len(tf.get_default_graph().get_operations()) == size
            expected = [own.judge(session, k, batch)[:, ROW.index('prediction')] for k in range(4)]
    assert list(found) == ['clean'] + [a.name for a in attackers]
    for verdicts, prediction in zip(found.values(), expected):
        np.testing.assert_array_equal(verdicts.prediction, prediction)
    right = [verdicts.correct.sum() for verdicts in found.values()]
    # A radius of a fifth leaves more images standing, though with more steps than one.
    assert right[0] == NUM_IMAGES - len(MISLABELLED) and right[0] > right[1] >= right[3] and right[2] > right[1]
