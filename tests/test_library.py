"""The library: it says what `main.py --eval` says, image by image; arrays of any length, size and range; mistakes."""
import concurrent.futures
import csv
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
import nets
import sat
from attacks.registry import KINDS
from library_networks import RESNET, VIT, pictures, write_network
from ranks.end import fail, raising
from sat.network import Sample
from weights.find import open_checkpoint
from weights.match import load_into, match_variables

SIDE, CLASSES, COUNT, SEED = 8, 3, 23, 5
TINY = ['--input-size', str(SIDE), '--num-classes', str(CLASSES)]
EPSILON = 6


@pytest.fixture(scope='module')
def resnet(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp('nets') / 'R8.npz', *RESNET, *TINY)


@pytest.fixture(scope='module')
def net(resnet):
    with sat.load(resnet, batch=8) as net:
        yield net


@pytest.fixture
def images():
    return pictures(COUNT, SIDE, SIDE)


def make_folder(root, images, labels):
    """The images as a validation set; image k is k.png in its label's folder."""
    for label in range(CLASSES):
        (root / 'val' / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels)):
        assert cv2.imwrite(str(root / 'val' / str(label) / '{:02d}.png'.format(number)), image[..., ::-1])
    return str(root)


def judged(folder, results, *flags):
    """(results.json, rows of per_example.csv) of the program."""
    with tf.Graph().as_default():
        main.main(['--eval', '--data', folder, '--results-dir', str(results), '--batch', '8', '--seed', str(SEED),
                   *flags])
    with open(results / 'results.json') as f, open(results / 'per_example.csv', newline='') as table:
        return json.load(f), list(csv.DictReader(table))


# As the program

@pytest.mark.parametrize('kind', ['ResNet', pytest.param('EfficientNet', marks=pytest.mark.slow), 'ViT'])
def test_predictions_and_attacks_are_those_of_the_program_image_by_image(kind, tmp_path, few_blocks):
    flags = {'ResNet': [*RESNET, *TINY], 'ViT': [*VIT, *TINY],
             'EfficientNet': [*few_blocks, '--num-classes', str(CLASSES), '--input-size', '16']}[kind]
    load, raw = write_network(tmp_path / 'net.npz', *flags), pictures(COUNT, 24, 30)
    # As of large images; and a radius at which some fall.
    view, epsilon = {'ResNet': ('imagenet', 6), 'EfficientNet': ('efficientnet', 2), 'ViT': ('revisiting-at', 16)}[kind]
    with sat.load(load, batch=8, augmentation=view) as net:
        labels = net.predict(raw).argmax(1)
        assert len(set(labels)) == CLASSES
        labels[::7] = (labels[::7] + 1) % CLASSES
        folder = make_folder(tmp_path / 'set', raw, labels)
        results, rows = judged(folder, tmp_path / 'out', '--load', load, '--augmentation', view, '--attack-iter', '3',
                               '--attack-epsilon', str(epsilon), '--attack-step-size', '6')
        sample = net.images(folder)
        assert sample.files == [row['file'] for row in rows]
        np.testing.assert_array_equal(sample.labels, [int(row['label']) for row in rows])
        adv = net.attack(sample.images, sample.labels, 'pgd', steps=3, epsilon=epsilon, step_size=6, seed=SEED,
                         index=sample.index)
        said = net.predict(sample.files)
        # Files, the arrays in them, and what evaluations show the network are the same to it.
        order = [int(name[-6:-4]) for name in sample.files]
        for same in net.predict(raw[order]), net.predict(sample.images):
            np.testing.assert_array_equal(same, said)
    np.testing.assert_array_equal(said.argmax(1), [int(row['clean_pred']) for row in rows])
    np.testing.assert_array_equal(adv.prediction, [int(row['adv_pred']) for row in rows])
    assert 0.2 < adv.success[said.argmax(1) == sample.labels].mean() < 1
    assert results['attack'] == adv.attack
    # The logits are those of the graph that the checkpoint's flags make.
    args = main.parse_args(['--eval', '--load', load])
    with tf.Graph().as_default(), tf.Session() as session:
        logits = nets.ARCHITECTURES[args.arch].model(args).classify(tf.constant(sample.images[..., ::-1]))
        load_into(session, match_variables(tf.global_variables(), open_checkpoint(load), load))
        np.testing.assert_allclose(said, session.run(logits), atol=2e-5)


@pytest.mark.parametrize('flags, keywords', [
    (['--targeted', '--attack-iter', '2'], dict(targeted=True, steps=2)),
    (['--attack', 'autoattack', '--autoattack-version', 'apgd-ce,square'],
     dict(attack='autoattack', version=('apgd-ce', 'square'))),
    (['--attack', 'momentum', '--norm', 'L2', '--attack-iter', '2'], dict(attack='momentum', norm='L2', steps=2))])
def test_other_attacks_too(net, resnet, images, tmp_path, monkeypatch, flags, keywords):
    monkeypatch.setattr('attacks.autoattack.ensemble.make_attackers', quick_autoattack)
    epsilon = 60 if 'L2' in flags else EPSILON
    labels = net.predict(images).argmax(1)
    folder = make_folder(tmp_path / 'set', images, labels)
    _, rows = judged(folder, tmp_path / 'out', '--load', resnet, '--attack-epsilon', str(epsilon),
                     *flags)
    sample = net.images(folder)
    adv = net.attack(sample.images, sample.labels, epsilon=epsilon, seed=SEED, index=sample.index, **keywords)
    np.testing.assert_array_equal(adv.prediction, [int(row['adv_pred']) for row in rows])
    if adv.attack['targeted']:
        np.testing.assert_array_equal(adv.target, [int(row['target']) for row in rows])
        np.testing.assert_array_equal(adv.success, adv.prediction == adv.target)
    assert 0 < adv.success.mean() < 1


def quick_autoattack(version, norm, epsilon, num_classes, **_):
    from attacks.autoattack.apgd import APGDAttacker
    from attacks.autoattack.square import SquareAttacker
    assert version == 'apgd-ce,square'
    options = dict(norm=norm, epsilon=epsilon, num_classes=num_classes)
    return [APGDAttacker('apgd-ce', num_iter=3, **options), SquareAttacker(num_queries=20, **options)]


def test_an_evaluation_returns_what_results_json_holds(net, resnet, images, tmp_path, capsys, monkeypatch):
    folder = make_folder(tmp_path / 'set', images, net.predict(images).argmax(1))
    results, rows = judged(folder, tmp_path / 'out', '--load', resnet, '--attack-iter', '2', '--attack-epsilon',
                           str(EPSILON))
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    found = net.evaluate(folder, 'pgd', steps=2, epsilon=EPSILON, seed=SEED)
    assert not {'seconds', 'args'} - set(found) and found.keys() == results.keys()
    assert {name: found[name] for name in found if name not in ('seconds', 'args')} == \
        {name: results[name] for name in results if name not in ('seconds', 'args')}
    assert sorted(name.name for name in tmp_path.iterdir()) == ['out', 'set']  # no folder of results
    assert 'Top1 Error' not in capsys.readouterr().out
    kept = net.evaluate(folder, steps=0, results_dir=str(tmp_path / 'kept'))
    with open(tmp_path / 'kept' / 'results.json') as f:
        assert json.load(f) == kept
    assert kept['adversarial'] is None and kept['clean']['top1_correct'] == COUNT


# What it is given

def test_arrays_of_any_range_and_kind_are_the_same_images(net, images):
    said = net.predict(images)
    assert said.dtype == np.float32 and said.shape == (COUNT, CLASSES)
    for same, bounds in ((images.astype(np.float32), None), (images.astype(np.int64), None),
                         (images / np.float32(255), (0, 1)), (images / 127.5 - 1, (-1, 1)), (list(images), None)):
        np.testing.assert_allclose(net.predict(same, bounds=bounds), said, atol=1e-5)
    unit = net.attack(images / np.float32(255), said.argmax(1), 'fgsm', epsilon=EPSILON, seed=0, bounds=(0, 1))
    levels = net.attack(images, said.argmax(1), 'fgsm', epsilon=EPSILON, seed=0)
    assert levels.images.dtype == unit.images.dtype == np.float32
    np.testing.assert_allclose(unit.images * 255, levels.images, atol=1e-3)
    assert EPSILON == pytest.approx(np.abs(levels.images - images).max(), abs=1e-3)
    np.testing.assert_array_equal(unit.prediction, levels.prediction)


def test_images_are_rgb(net, images):
    assert np.abs(net.predict(images) - net.predict(images[..., ::-1])).max() > 0.01


@pytest.mark.parametrize('count', [0, 1, 8, 9])
def test_batches_of_any_length_add_nothing_to_the_graph(net, images, count):
    labels = net.predict(images).argmax(1)
    whole = net.attack(images, labels, 'pgd', epsilon=EPSILON, steps=2, seed=1)
    nodes = len(net.in_session.graph.get_operations())
    some = net.attack(images[:count], labels[:count], 'pgd', epsilon=2 * EPSILON, steps=2, seed=7)
    some = net.attack(images[:count], labels[:count], 'pgd', epsilon=EPSILON, steps=2, seed=1)
    np.testing.assert_allclose(net.predict(images[:count]), net.predict(images)[:count], atol=1e-5)
    np.testing.assert_allclose(some.images, whole.images[:count], atol=1e-3)
    for found in some[:5]:
        assert len(found) == count
    assert len(net.in_session.graph.get_operations()) == nodes


def test_many_images_are_taken_a_part_at_a_time(net, images, monkeypatch):
    said, labels = net.predict(images), np.zeros(COUNT, int)
    gradient = net.gradient(images, said)
    found = net.attack(images, labels, 'pgd', epsilon=EPSILON, steps=2, seed=1).images
    monkeypatch.setattr('sat.network._AT_ONCE', 1)
    np.testing.assert_allclose(net.predict(images), said, atol=1e-5)
    np.testing.assert_allclose(net.gradient(images, said), gradient, atol=1e-5)
    np.testing.assert_allclose(net.attack(images, labels, 'pgd', epsilon=EPSILON, steps=2, seed=1).images, found,
                               atol=1e-3)


def test_other_sizes_are_seen_as_in_evaluations_and_the_network_s_own_as_they_are(net, images):
    from data.augment import resize_plain
    large = pictures(3, 20, 30)
    shown = np.stack([resize_plain(image, SIDE) for image in large])
    np.testing.assert_array_equal(net.predict(large), net.predict(shown))
    np.testing.assert_array_equal(net.predict([*large, images[0]]), net.predict([*shown, images[0]]))
    with pytest.raises(ValueError, match='takes 8x8'):
        net.predict(large, evaluated=False)


def test_a_photo_of_the_network_s_size_is_cropped_only_where_that_is_asked_for(tmp_path, few_blocks):
    load = write_network(tmp_path / 'net.npz', *few_blocks, '--num-classes', '3', '--input-size', '16')
    with sat.load(load, augmentation='efficientnet') as net:
        images = pictures(4, 16, 16)
        np.testing.assert_array_equal(net.predict(images), net.predict(images, evaluated=False))
        assert np.abs(net.predict(images) - net.predict(images, evaluated=True)).max() > 0.01


def test_names_of_classes_are_the_checkpoint_s_or_numbers(net, tmp_path):
    assert net.classes == ['0', '1', '2'] and (net.num_classes, net.input_size) == (CLASSES, SIDE)
    named = write_network(tmp_path / 'net.npz', *RESNET, *TINY, classes=['ape', 'bee', 'cow'])
    with sat.load(named) as other:
        assert other.classes == ['ape', 'bee', 'cow']


# Randomness and gradients

def test_a_seed_is_fresh_and_gives_the_same_images_again(net, images):
    labels = net.predict(images).argmax(1)

    def attack(seed=None, **options):
        return net.attack(images, labels, 'pgd', epsilon=EPSILON, steps=1, seed=seed, **options)
    first, second = attack(), attack()
    assert first.seed != second.seed and np.abs(first.images - second.images).max() > 1
    np.testing.assert_array_equal(attack(first.seed).images, first.images)
    moved = attack(first.seed, index=np.arange(COUNT)[::-1])
    assert np.abs(moved.images - first.images).max() > 1


def test_what_is_said_of_a_seed(net, images, monkeypatch):
    said = []
    monkeypatch.setattr('sat.network.say', said.append)
    adv = net.attack(images[:1], [0], 'pgd', epsilon=EPSILON, steps=1)
    net.attack(images[:1], [0], 'pgd', epsilon=EPSILON, steps=1, seed=3)
    assert said == ['PGD-1: seed={}'.format(adv.seed)]


def test_gradients_are_finite_differences(net, images):
    some, labels, weights = images[:4] / 255, np.array([0, 1, 2, 0]), np.arange(12).reshape(4, 3) / 3
    direction, step = np.random.default_rng(0).standard_normal(some.shape), 1e-3

    def loss(logits):
        logits = logits.astype(np.float64)
        return np.log(np.exp(logits).sum(1)) - logits[np.arange(4), labels]
    ends = [net.predict(some + sign * step * direction, bounds=(0, 1)) for sign in (1, -1)]
    logits, slope = net.logits_and_gradient(some, labels, bounds=(0, 1))
    back = net.gradient(some, weights, bounds=(0, 1))
    np.testing.assert_allclose(logits, net.predict(some, bounds=(0, 1)), atol=1e-5)
    np.testing.assert_allclose((slope * direction).sum((1, 2, 3)), (loss(ends[0]) - loss(ends[1])) / (2 * step),
                               rtol=0.03, atol=0.05)
    np.testing.assert_allclose((back * direction).sum((1, 2, 3)), ((ends[0] - ends[1]) * weights).sum(1) / (2 * step),
                               rtol=0.03, atol=0.05)
    np.testing.assert_allclose(net.logits_and_gradient(images[:4], labels)[1] * 255, slope, rtol=1e-3, atol=1e-4)


# Mistakes

@pytest.mark.parametrize('change, options, message', [
    (lambda x: x / 255, {}, r'all in \[0, 1\]; give bounds=\(0, 1\)'),
    (lambda x: x / 255, dict(bounds=(1, 0)), 'two numbers, black and white'),
    (lambda x: x / 255, dict(bounds=1), 'two numbers, black and white'),
    (lambda x: x * 1.0, dict(bounds=(0, 1)), r'values in \[.*\] are not in \(0, 1\)'),
    (lambda x: x, dict(bounds=(0, 1)), 'whole numbers are pixel levels'),
    (lambda x: x * 300, {}, 'whole numbers are pixel levels, 0-255'),
    (lambda x: x * np.nan, {}, 'not finite'),
    (lambda x: x.transpose(0, 3, 1, 2), {}, r'type images.transpose\(0, 2, 3, 1\)'),
    (lambda x: x[0], {}, r'type images\[np.newaxis\]'),
    (lambda x: x[..., 0], {}, 'np.repeat'), (lambda x: x[..., :1], {}, 'np.repeat'),
    (lambda x: x.astype(str), {}, 'names of files'),
    (lambda x: pictures(2, 9, 9) / 1.0, {}, 'give uint8'),
    (lambda x: pictures(2, 9, 9), dict(bounds=(0, 1)), 'images that are resized are uint8'),
    (lambda x: Sample(x, None, None, None), {}, r'give this Sample by its \.images'),
    (lambda x: __file__, {}, 'cannot decode image')])
def test_images_that_are_none_are_refused_in_a_line(net, images, change, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        net.predict(change(images.astype(np.int64)), **options)
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('attack, options, kind, message', [
    ('pdg', {}, ValueError, "attack: invalid choice: 'pdg'"),
    ('fgsm', dict(steps=3), ValueError, 'attack fgsm has no steps'),
    ('pgd', dict(epsilon=8 / 255), ValueError, 'epsilon .* did you mean 8'),
    ('pgd', dict(norm='L2'), ValueError, 'norm L2 needs epsilon'),
    ('pgd', dict(targeted=2), ValueError, 'targeted 2: True or False'),
    ('pgd', dict(targeted=False, target='random'), ValueError, 'targeted=False and target random: choose one'),
    ('autoattack', dict(version='nonesuch', epsilon=8), ValueError, 'nonesuch'),
    ('pgd', dict(epsilons=8), TypeError, r'attack\(\) has no epsilons; did you mean epsilon\?'),
    ('pgd', dict(folder='x'), TypeError, r'attack\(\) has no folder'),
    ('pgd', dict(seed=-1), ValueError, 'seed: -1 is not in 0'), ('pgd', dict(seed=0.5), ValueError, 'a whole number'),
    ('pgd', dict(index=[0]), ValueError, 'index: a whole number for each of 23')])
def test_attacks_that_are_none_are_refused_in_a_line(net, images, attack, options, kind, message):
    with pytest.raises(kind, match=message) as refused:
        net.attack(images, np.zeros(COUNT, int), attack, **options)
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('labels', [np.zeros(3, int), np.full(COUNT, CLASSES), np.full(COUNT, -1), np.zeros(COUNT),
                                    np.eye(COUNT, CLASSES)])
def test_labels_that_are_none_are_refused(net, images, labels):
    for call in net.attack, net.logits_and_gradient:
        with pytest.raises(ValueError, match='^labels: '):
            call(images, labels)


@pytest.mark.parametrize('load, options, kind, message', [
    ('nowhere', {}, ValueError, "load 'nowhere': no such checkpoint"),
    ('zoo:nonesuch', {}, ValueError, "no published model is called 'nonesuch'"),
    (None, dict(depth=20), ValueError, 'depth 20: .* is a network of depth 8'),
    (None, dict(depth=20, ignore_checkpoint_flags=True), ValueError, 'give arch CifarResNet depth 8'),
    (None, dict(arch='EfficientNet', ignore_checkpoint_flags=True), ValueError, 'arch'),
    (None, dict(dept=8), TypeError, r'load\(\) has no dept; did you mean depth\?'),
    (None, dict(base_lr=1), TypeError, r'load\(\) has no base_lr')])
def test_networks_that_are_none_are_refused_in_a_line(resnet, tmp_path, monkeypatch, load, options, kind, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message) as refused:
        sat.load(load or resnet, **options)
    assert '\n' not in str(refused.value)


def test_evaluations_that_are_none_are_refused_in_a_line(net, tmp_path):
    (tmp_path / 'val' / '0').mkdir(parents=True)
    (tmp_path / 'val' / '0' / 'x.png').write_bytes(b'nothing')
    for folder, options, message in ((str(tmp_path / 'no'), {}, 'folder .*: no such directory'),
                                     (str(tmp_path), {}, 'none of the 1 images'),
                                     (None, {}, 'folder DIR is needed'),
                                     (str(tmp_path), dict(attack='fgsm', steps=1), 'has no steps')):
        with pytest.raises(ValueError, match=message):
            net.evaluate(folder, **options)
    with pytest.raises(FileNotFoundError, match='no.png'):
        net.predict(['no.png'])


def test_too_many_images_for_the_memory_are_a_line(net, images, monkeypatch):
    def run(*_):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')
    monkeypatch.setattr(net.in_session.session, 'run', run)
    with pytest.raises(MemoryError, match='^8 images in one pass .* batch=4 or less$'):
        net.predict(images)


def test_an_end_is_an_exception_in_the_thread_that_asks_for_it_alone():
    with raising():
        with pytest.raises(ValueError, match='^for two reasons$'):
            fail('for  two\nreasons', 1, 3)
        with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.raises(SystemExit) as ended:
            pool.submit(fail, 'another', 1, 3).result()
    assert ended.value.code == 3
    with pytest.raises(SystemExit):
        fail('this one too', 1)


# Several, closed, listed

def test_two_networks_side_by_side_by_several_threads(net, resnet, images):
    with sat.load(resnet, batch=3) as other, concurrent.futures.ThreadPoolExecutor(4) as pool:
        said = net.predict(images)
        calls = [pool.submit(one.attack, images, said.argmax(1), 'pgd', epsilon=EPSILON, steps=steps, seed=2)
                 for steps in (1, 2) for one in (net, other)]
        calls += [pool.submit(one.predict, images) for one in (net, other) * 3]
        found = [call.result() for call in calls]
    for first, second in ((0, 1), (2, 3)):
        np.testing.assert_allclose(found[first].images, found[second].images, atol=1e-3)
    for each in found[4:]:
        np.testing.assert_allclose(each, said, atol=1e-5)


def test_a_closed_network_says_so(resnet, images):
    with sat.load(resnet) as net:
        pass
    assert repr(net) == '<CifarResNet8 of 3 classes, 8x8, closed>'
    for call in (lambda: net.predict(images), lambda: net.attack(images, np.zeros(COUNT, int)), net.evaluate):
        with pytest.raises(ValueError, match='closed'):
            call()


def test_attacks_and_networks_are_listed_with_a_line_each():
    assert list(sat.attacks()) == list(KINDS) and list(sat.networks()) == list(nets.ARCHITECTURES)
    for about in [*sat.attacks().values(), *sat.networks().values()]:
        assert about and '\n' not in about and '`' not in about
    assert 'depth: 8, 20' in sat.networks()['CifarResNet'] and 'vit-s' in sat.networks()['ViT']


def test_the_import_is_quick():
    program = "import sys, sat; assert not {'tensorflow', 'tensorpack', 'cv2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', program], check=True)
